//! What must be true of every database at any moment, asked in SQL that shares no code with the engine or its doctor: each statement returns
//! one text for each fact that breaks a promise. Every fleet of the tests is examined at its end.

use longshore_core::doctor;
use sqlx::{PgConnection, PgPool};

/// A promise and the statement that finds where it is broken.
const CHECKS: &[(&str, &str)] = &[
    ("2: one attempt of a step is accepted and none follows it", ACCEPTED_ONCE),
    ("3: attempts are numbered from 1 without gaps", NO_GAPS),
    ("4: a skipped node has a reason and no attempt", SKIPPED),
    ("4: no step began before its predecessors ended", IN_ORDER),
    ("4: a join began when enough edges were taken, and no earlier", JOINS),
    ("4: a completed run decided every node, and rightly", DECIDED),
    ("1: a live run waits for something", WAITS),
    ("1: nothing is left of a run that ended", LEFT),
    ("a signal is taken once, by the step that says so", SIGNALS),
    ("a parked step belongs to a paused run", PARKED),
    ("a context has all its changes and no other", CONTEXTS),
    ("an attempt starts one run, and ends as that did", CHILDREN),
    ("a run that is to end with its parent does", LEFT_CHILDREN),
];

const ACCEPTED_ONCE: &str = "
    select format('run %s node %s: attempts %s', run_id, node, array_agg((attempt, outcome) order by attempt))
    from longshore.execution_step_attempts
    group by run_id, frame, node
    having count(*) filter (where outcome = 1) > 1 or max(attempt) filter (where outcome = 1) < max(attempt)";

const NO_GAPS: &str = "
    select format('run %s node %s: attempts %s', run_id, node, array_agg(attempt order by attempt))
    from longshore.execution_step_attempts
    group by run_id, frame, node
    having count(*) filter (where attempt > 0) <> max(attempt)";

const SKIPPED: &str = "
    select format('run %s node %s: %s', run_id, node, array_agg((attempt, outcome, error) order by attempt))
    from longshore.execution_step_attempts
    group by run_id, frame, node
    having bool_or(outcome = 5) and (count(*) > 1 or bool_or(attempt <> 0 or coalesce(error ->> 'reason', '') = ''))";

/// The first claim and the last end of every node, and how its edges are counted.
const STEPS: &str = "
    with steps as materialized (
        select a.run_id, r.version_id, a.frame, a.node, min(a.claimed_at) as claimed, max(a.finished_at) as finished, bool_or(a.outcome = 1) as completed,
            bool_or(a.outcome = 5) as skipped, bool_or(a.duration_ms is not null) as ran,
            (array_agg(a.outcome order by a.attempt desc))[1] = 2 as gave_up,
            bool_or(a.error ->> 'kind' = 'timeout' and a.error -> 'from_child' is null and exists (select from longshore.workflow_edges o
                where o.version_id = r.version_id and o.from_node = a.node and o.on_outcome = 'timeout')) as timed_out,
            (select n.on_error = 'skip' from longshore.workflow_nodes n where n.version_id = r.version_id and n.node = a.node) as skips_errors
        from longshore.execution_step_attempts a
        join longshore.workflow_runs r on r.run_id = a.run_id
        where a.node >= 0
        group by a.run_id, r.version_id, a.frame, a.node
    ), edges as materialized (
        select t.run_id, t.frame, e.to_node, e.edge, e.condition, t.claimed, f.finished, f.node is not null as ended,
            f.completed and e.on_outcome in ('success', 'always') or f.gave_up and (f.timed_out or not f.skips_errors)
                and (e.on_outcome = 'always' or e.on_outcome = case when f.timed_out then 'timeout' else 'failure' end) as may
        from steps t
        join longshore.workflow_edges e on e.version_id = t.version_id and e.to_node = t.node
        left join steps f on f.run_id = t.run_id and f.frame = t.frame and f.node = e.from_node
    )";

const IN_ORDER: &str = "
    select format('run %s node %s was claimed at %s, its predecessor ended at %s', e.run_id, e.to_node, e.claimed, e.finished)
    from edges e
    join longshore.workflow_runs r on r.run_id = e.run_id
    join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = e.to_node
    where n.join_need = 0 and e.claimed < e.finished";

const JOINS: &str = "
    select format('run %s node %s began with %s of its edges taken', e.run_id, e.to_node, count(*) filter (where e.may and e.finished <= e.claimed))
    from edges e
    join longshore.workflow_runs r on r.run_id = e.run_id
    join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = e.to_node
    where e.claimed is not null
    group by e.run_id, e.frame, e.to_node, n.join_need
    having count(*) filter (where e.may and e.finished <= e.claimed) < greatest(n.join_need, 1)";

const DECIDED: &str = "
    select format('run %s node %s: ran %s, edges taken %s', r.run_id, n.id, s.completed or s.gave_up, e.taken)
    from (
        select run_id, version_id, 0 as frame, 0 as body, state from longshore.workflow_runs
        union all
        select f.run_id, w.version_id, f.frame, f.body, f.state from longshore.frames f join longshore.workflow_runs w on w.run_id = f.run_id
    ) r
    join longshore.workflow_nodes n on n.version_id = r.version_id and n.body = r.body
    left join steps s on s.run_id = r.run_id and s.frame = r.frame and s.node = n.node
    left join (
        select run_id, frame, to_node, count(*) filter (where may) as taken, bool_or(condition is not null) as conditional
        from edges group by run_id, frame, to_node) e on e.run_id = r.run_id and e.frame = r.frame and e.to_node = n.node
    where r.state = 3
      and not exists (select from longshore.workflow_nodes t where t.version_id = r.version_id and t.type = 'terminate')
      and (s.node is null or not (s.completed or s.gave_up or s.skipped)
        or n.indegree > 0 and s.skipped and not e.conditional and e.taken >= greatest(n.join_need, 1)
        or n.indegree > 0 and not s.skipped and e.taken < greatest(n.join_need, 1))";

/// Step jobs of the engine that only look for others: what has no other goes on for nobody.
pub(crate) const LOOKS: &str = "(-7, -8, -9, -10)";

const WAITS: &str = "
    select format('run %s has no step anywhere', r.run_id)
    from longshore.workflow_runs r
    where r.state in (1, 2)
      and not exists (select from longshore.step_ready s where s.run_id = r.run_id and s.node not in {looks})
      and not exists (select from longshore.step_delayed s where s.run_id = r.run_id and s.node <> -9)
      and not exists (select from longshore.step_waiting s where s.run_id = r.run_id and s.woken_at is null)
      and not exists (select from longshore.step_leases l where l.run_id = r.run_id and l.node not in {looks})";

/// Only where nothing awaits settling.
const LEFT: &str = "
    select format('run %s, state %s: ready %s, delayed %s, waiting %s, joins %s, frames %s, items %s; steps %s', r.run_id, r.state, s.ready, s.delayed,
        s.waiting, s.joins, s.frames, s.items,
        array(select row(s.frame, s.node, s.kind, s.due_at) from longshore.step_delayed s where s.run_id = r.run_id
            union all select row(s.frame, s.node, s.kind, null) from longshore.step_ready s where s.run_id = r.run_id))
    from longshore.workflow_runs r
    join lateral (
        select (select count(*) from longshore.step_ready s where s.run_id = r.run_id) as ready,
            (select count(*) from longshore.step_delayed s where s.run_id = r.run_id) as delayed,
            (select count(*) from longshore.step_waiting s where s.run_id = r.run_id) as waiting,
            (select count(*) from longshore.step_joins s where s.run_id = r.run_id) as joins,
            (select count(*) from longshore.frames s where s.run_id = r.run_id and s.state = 1) as frames,
            (select count(*) from longshore.frame_chunks s where s.run_id = r.run_id and r.state = 3 and s.items is not null
                and not exists (select from longshore.frames f where f.run_id = s.run_id and f.frame = s.frame and f.state <> 3)) as items) s on true
    where r.state > 2 and s.ready + s.delayed + s.waiting + s.joins + s.frames + s.items > 0 and not exists (select from longshore.closed)";

/// A signal that was taken, but not refused, is the output of the step that took it; no other has it, and no step took two.
const SIGNALS: &str = "
    select format('run %s signal %s: taken %s frame %s node %s, output %s', s.run_id, s.signal_id, s.taken_at, s.taken_frame, s.taken_node, a.output)
    from (select s.*, count(*) over (partition by s.run_id, s.taken_frame, s.taken_node) as by_step
          from longshore.signals s where s.taken_at is not null and s.refused is null) s
    join longshore.workflow_runs r on r.run_id = s.run_id and r.state = 3
    join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = s.taken_node
    left join longshore.execution_step_attempts a
        on a.run_id = s.run_id and a.frame = s.taken_frame and a.node = s.taken_node and a.outcome = 1
    where s.by_step > 1 or a.node is not null and n.type = 'wait' and (a.output ->> 'signal', a.output -> 'payload') is distinct from (s.name, s.payload)
    union all
    select format('run %s frame %s node %s completed without a signal', a.run_id, a.frame, a.node)
    from longshore.execution_step_attempts a
    join longshore.workflow_runs r on r.run_id = a.run_id
    join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node and n.type in ('wait', 'approval')
    where a.outcome = 1 and a.error is null and a.lane_id <> 0 and not exists (select from longshore.signals s where s.run_id = a.run_id and s.taken_frame = a.frame and s.taken_node = a.node
        and s.refused is null)";

/// A step is parked only where its run is paused.
const PARKED: &str = "
    select format('run %s, state %s: node %s of frame %s is parked', s.run_id, r.state, s.node, s.frame)
    from longshore.step_delayed s
    left join longshore.workflow_runs r on r.run_id = s.run_id
    left join longshore.pauses p on p.run_id = s.run_id
    where s.parked and (r.state is distinct from 2 or p.run_id is null) and not exists (select from longshore.closed c where c.run_id = s.run_id)
    union all
    select format('run %s is paused and nobody says why', r.run_id)
    from longshore.workflow_runs r where r.state = 2 and not exists (select from longshore.pauses p where p.run_id = r.run_id)";

/// The snapshots of a context have no gap, and each change is that of a completed attempt, of which there is one. What was taken over from another run is that of
/// what ended there, and may be several of one block.
const CONTEXTS: &str = "
    select format('run %s: %s snapshots, the last is %s, the head %s', h.run_id, count(s.n), max(s.n), h.n)
    from longshore.context_heads h
    left join longshore.execution_context_snapshots s on s.run_id = h.run_id
    group by h.run_id, h.n having (count(s.n), min(s.n), max(s.n)) is distinct from (h.n + 1::bigint, 0, h.n)
    union all
    select format('run %s snapshot %s: frame %s node %s attempt %s did not complete, or changed it twice', s.run_id, s.n, s.frame, s.node, s.attempt)
    from (select s.*, count(*) over (partition by s.run_id, s.frame, s.node, s.attempt) as by_attempt
          from longshore.execution_context_snapshots s where s.reason = 2) s
    left join longshore.execution_step_attempts a
        on a.run_id = s.run_id and a.frame = s.frame and a.node = s.node and a.attempt = s.attempt
    left join longshore.workflow_runs r on r.run_id = s.run_id
    where a.node is null and not (s.attempt = 0 and r.rerun_of is not null) or not (a.claimed_at is null and a.lane_id = 0) and (a.outcome <> 1 or s.by_attempt > 1)";
/// No attempt started two runs; a step that completed gave what its last run gave.
const CHILDREN: &str = "
    select format('run %s frame %s node %s attempt %s started %s runs', c.parent_run_id, c.parent_frame, c.parent_node, c.parent_attempt, count(*))
    from longshore.workflow_runs c where c.parent_run_id is not null
    group by c.parent_run_id, c.parent_frame, c.parent_node, c.parent_attempt
    having count(*) > 1
    union all
    select format('run %s frame %s node %s gave %s, its run %s gave %s', a.run_id, a.frame, a.node, a.output, c.run_id, c.output)
    from longshore.execution_step_attempts a
    join longshore.workflow_runs r on r.run_id = a.run_id
    join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node and n.type = 'subflow'
    left join lateral (select c.run_id, c.output, c.state, c.awaited from longshore.workflow_runs c
        where c.parent_run_id = a.run_id and c.parent_frame = a.frame and c.parent_node = a.node and c.parent_attempt <= a.attempt
        order by c.parent_attempt desc limit 1) c on true
    where a.outcome = 1 and a.error is null and a.lane_id <> 0                -- not taken over from another run
      and (c.run_id is null or c.awaited and (c.state <> 3 or c.output <> a.output) or not c.awaited and a.output ->> 'run_id' <> c.run_id::text)
    union all
    select format('run %s is at depth %s below run %s at %s', c.run_id, c.depth, p.run_id, p.depth)
    from longshore.workflow_runs c join longshore.workflow_runs p on p.run_id = c.parent_run_id
    where c.depth <> coalesce(p.depth, 0) + 1 or c.run_id <= p.run_id";

/// Only where nothing awaits settling.
const LEFT_CHILDREN: &str = "
    select format('run %s lives, its parent %s is in state %s', c.run_id, p.run_id, p.state)
    from longshore.workflow_runs c join longshore.workflow_runs p on p.run_id = c.parent_run_id
    where c.state < 3 and c.close_policy = 1 and p.state >= 3 and not exists (select from longshore.closed)";

/// Everything that breaks a promise, with its name.
pub async fn broken(pool: &PgPool) -> Vec<String> {
    // the plans of these statements are no concern of the tests: let them be good
    sqlx::query("analyze").execute(pool).await.unwrap();
    broken_in(&mut pool.acquire().await.unwrap()).await
}

/// The same as a transaction sees it.
pub async fn broken_in(connection: &mut PgConnection) -> Vec<String> {
    let mut broken = Vec::new();
    for (name, sql) in CHECKS {
        let with_steps = ["from steps", "from edges", "join steps"].iter().any(|part| sql.contains(part));
        let sql = format!("{} {sql}", if with_steps { STEPS } else { "" }).replace("{looks}", LOOKS);
        // planned for all rows: for the first five it would be nested loops, which take hours of a large database
        let sql = format!("with found as materialized ({sql}) select * from found limit 5");
        let found: Vec<String> =
            sqlx::query_scalar(&sql).fetch_all(&mut *connection).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        broken.extend(found.into_iter().map(|found| format!("promise {name}: {found}")));
    }
    broken
}

/// No promise is broken, as far as this database shows.
pub async fn assert_kept(pool: &PgPool) {
    let broken = broken(pool).await;
    assert!(broken.is_empty(), "{broken:#?}");
    let mut connection = pool.acquire().await.unwrap();
    let report = doctor::examine(&mut connection).await.unwrap();
    assert!(report.is_clean(), "{report}");
}
