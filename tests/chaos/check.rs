//! The checker: what must be true after the fleet has settled, asked of Postgres and the ledger. It is not the engine: SQL of its own over tables that the
//! ledger was loaded into, and the statements that every test fleet is examined with (`longshore_tests::checks`). Nothing here calls `core`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use longshore_tests::checks;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::ledger::Entry;
use crate::workload;

/// What a check found, one line each.
pub(crate) type Violations = Vec<String>;

/// Where the ledger is laid beside the tables.
const TABLES: &str = "
    create schema if not exists chaos;
    drop table if exists chaos.started, chaos.rolled_back, chaos.canceled, chaos.began, chaos.carried, chaos.gave, chaos.killed, chaos.skips,
        chaos.gives_up, chaos.open, chaos.iterations, chaos.fails, chaos.sent, chaos.unsent, chaos.rerun, chaos.paused;
    create table chaos.started (run_id uuid, kind text, x bigint, key text);
    create table chaos.rolled_back (run_id uuid);
    create table chaos.rerun (run_id uuid, of_run uuid, from_id text);
    create table chaos.canceled (run_id uuid, at timestamptz);
    create table chaos.paused (run_id uuid);
    create table chaos.sent (run_id uuid, token text, id bigint, key text);
    create table chaos.unsent (run_id uuid, token text);
    create table chaos.began (run_id uuid, frame int, node_id text, attempt int, mark uuid, pid bigint);
    create table chaos.carried (run_id uuid, frame int, node_id text, attempt int, mark uuid);
    create table chaos.gave (run_id uuid, frame int, node_id text, attempt int, mark uuid);
    create table chaos.killed (pid bigint, at timestamptz);
    create table chaos.skips (kind text, upper_half boolean, node_id text);
    create table chaos.gives_up (kind text, node_id text);
    create table chaos.open (kind text, node_id text);
    create table chaos.iterations (kind text, x bigint, node_id text, count bigint);
    create table chaos.fails (kind text);";

const INDEXES: &str = "
    create index on chaos.began (run_id, frame, node_id, attempt);
    create index on chaos.gave (run_id, frame, node_id, attempt);
    create index on chaos.carried (run_id, frame, node_id, attempt);
    create index on chaos.started (run_id);
    create index on chaos.sent (run_id);
    analyze;";

/// Lay the ledger beside the tables.
pub(crate) async fn load(session: &mut PgConnection, ledger: &[Entry]) -> Result<()> {
    sqlx::raw_sql(TABLES).execute(&mut *session).await?;
    let mut tx = session.begin().await?;
    for part in ledger.chunks(5000) {
        insert(&mut tx, part).await.context("the ledger cannot be loaded")?;
    }
    for kind in workload::kinds() {
        if kind.fails {
            sqlx::query("insert into chaos.fails values ($1)").bind(kind.name).execute(&mut *tx).await?;
        }
        for (table, nodes) in [("gives_up", workload::gives_up(kind.name)), ("open", workload::open(kind.name))] {
            let insert = format!("insert into chaos.{table} select $1, unnest($2::text[])");
            sqlx::query(&insert).bind(kind.name).bind(nodes).execute(&mut *tx).await?;
        }
        for x in 0..workload::X {
            for (node, count) in workload::iterations(kind.name, x) {
                let insert = sqlx::query("insert into chaos.iterations values ($1, $2, $3, $4)");
                insert.bind(kind.name).bind(x).bind(node).bind(count).execute(&mut *tx).await?;
            }
        }
        for upper in [false, true] {
            for node in workload::skipped(kind.name, if upper { workload::X - 1 } else { 0 }) {
                let skip =
                    sqlx::query("insert into chaos.skips values ($1, $2, $3)").bind(kind.name).bind(upper).bind(node);
                skip.execute(&mut *tx).await?;
            }
        }
    }
    tx.commit().await?;
    sqlx::raw_sql(INDEXES).execute(session).await?;
    Ok(())
}

#[derive(Default)]
struct Columns {
    runs: Vec<Uuid>,
    frames: Vec<i32>,
    nodes: Vec<String>,
    attempts: Vec<i32>,
    marks: Vec<Uuid>,
    pids: Vec<i64>,
}

impl Columns {
    fn push(&mut self, (run, frame, node, attempt): (Uuid, i32, &str, i32), mark: Uuid, pid: i64) {
        self.runs.push(run);
        self.frames.push(frame);
        self.nodes.push(node.to_owned());
        self.attempts.push(attempt);
        self.marks.push(mark);
        self.pids.push(pid);
    }
}

async fn insert(session: &mut PgConnection, ledger: &[Entry]) -> Result<()> {
    let (mut began, mut carried, mut gave) = (Columns::default(), Columns::default(), Columns::default());
    let (mut runs, mut kinds, mut xs, mut keys) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut rolled_back, mut canceled, mut canceled_at, mut killed, mut killed_at) =
        (Vec::new(), Vec::new(), Vec::<Option<DateTime<Utc>>>::new(), Vec::<i64>::new(), Vec::new());
    let (mut sent, mut tokens, mut ids, mut sent_keys) = (Vec::new(), Vec::new(), Vec::<i64>::new(), Vec::new());
    let (mut unsent, mut unsent_tokens, mut paused) = (Vec::new(), Vec::new(), Vec::new());
    let (mut reruns, mut of_runs, mut from_ids) = (Vec::new(), Vec::new(), Vec::new());
    for entry in ledger {
        match entry {
            Entry::Started { run, kind, x, key } => {
                runs.push(*run);
                kinds.push(kind.clone());
                xs.push(*x);
                keys.push(key.clone());
            }
            Entry::RolledBack { run } => rolled_back.push(*run),
            Entry::Rerun { run, of, from } => {
                reruns.push(*run);
                of_runs.push(*of);
                from_ids.push(from.clone());
            }
            Entry::Pausing { run } => paused.push(*run),
            Entry::Canceling { run } => {
                canceled.push(*run);
                canceled_at.push(None);
            }
            Entry::Canceled { run, at } => {
                canceled.push(*run);
                canceled_at.push(Some(*at));
            }
            Entry::Sent { run, token, id, key } => {
                sent.push(*run);
                tokens.push(token.to_string());
                ids.push(*id);
                sent_keys.push(key.clone());
            }
            Entry::Unsent { run, token } => {
                unsent.push(*run);
                unsent_tokens.push(token.to_string());
            }
            Entry::Began { run, frame, node, attempt, mark, inputs, pid, .. } => {
                began.push((*run, *frame, node, *attempt), *mark, i64::from(*pid));
                for input in inputs {
                    carried.push((*run, *frame, node, *attempt), *input, 0);
                }
            }
            Entry::Gave { run, frame, node, attempt, mark } => gave.push((*run, *frame, node, *attempt), *mark, 0),
            Entry::Killed { pid, at } => {
                killed.push(i64::from(*pid));
                killed_at.push(*at);
            }
            Entry::Restarted { .. } => {}
        }
    }
    let started = "insert into chaos.started select * from unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[])";
    sqlx::query(started).bind(runs).bind(kinds).bind(xs).bind(keys).execute(&mut *session).await?;
    let back = "insert into chaos.rolled_back select * from unnest($1::uuid[])";
    sqlx::query(back).bind(rolled_back).execute(&mut *session).await?;
    let pauses = "insert into chaos.paused select * from unnest($1::uuid[])";
    sqlx::query(pauses).bind(paused).execute(&mut *session).await?;
    let rerun = "insert into chaos.rerun select * from unnest($1::uuid[], $2::uuid[], $3::text[])";
    sqlx::query(rerun).bind(reruns).bind(of_runs).bind(from_ids).execute(&mut *session).await?;
    let cancel = "insert into chaos.canceled select * from unnest($1::uuid[], $2::timestamptz[])";
    sqlx::query(cancel).bind(canceled).bind(canceled_at).execute(&mut *session).await?;
    let kill = "insert into chaos.killed select * from unnest($1::bigint[], $2::timestamptz[])";
    sqlx::query(kill).bind(killed).bind(killed_at).execute(&mut *session).await?;
    let signals = "insert into chaos.sent select * from unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[])";
    sqlx::query(signals).bind(sent).bind(tokens).bind(ids).bind(sent_keys).execute(&mut *session).await?;
    let back = "insert into chaos.unsent select * from unnest($1::uuid[], $2::text[])";
    sqlx::query(back).bind(unsent).bind(unsent_tokens).execute(&mut *session).await?;
    for (table, columns, pids) in [("began", began, true), ("carried", carried, false), ("gave", gave, false)] {
        let pid = if pids { ", $6::bigint[]" } else { "" };
        let sql = format!(
            "insert into chaos.{table} select * from unnest($1::uuid[], $2::int[], $3::text[], $4::int[], $5::uuid[]{pid})"
        );
        let query = sqlx::query(&sql).bind(columns.runs).bind(columns.frames).bind(columns.nodes);
        let query = query.bind(columns.attempts).bind(columns.marks);
        let query = if pids { query.bind(columns.pids) } else { query };
        query.execute(&mut *session).await?;
    }
    Ok(())
}

/// A statement that returns one text for each fact which breaks a promise.
const CHECKS: &[(&str, &str)] = &[
    ("an acknowledged start exists", "
        select format('run %s (%s)', s.run_id, s.kind) from chaos.started s
        where not exists (select from longshore.workflow_runs r where r.shard = 0 and r.run_id = s.run_id)"),
    ("a start that was rolled back does not exist", "
        select format('run %s', b.run_id) from chaos.rolled_back b join longshore.workflow_runs r using (run_id)"),
    ("an acknowledged signal exists once", "
        select format('run %s signal %s, key %s: there %s times', s.run_id, s.id, s.key, g.there)
        from chaos.sent s
        cross join lateral (
            select count(*) filter (where g.signal_id = s.id and g.key is not distinct from s.key) as there,
                count(*) filter (where coalesce(g.payload ->> 'token', g.payload ->> 'answer') = s.token) as carried
            from longshore.signals g where g.shard = 0 and g.run_id = s.run_id) g
        where g.there <> 1 or g.carried > 1 or s.key is null and g.carried <> 1"),
    ("a signal that was rolled back does not exist", "
        select format('run %s token %s', b.run_id, b.token) from chaos.unsent b
        join longshore.signals g on g.shard = 0 and g.run_id = b.run_id and coalesce(g.payload ->> 'token', g.payload ->> 'answer') = b.token"),
    ("a key names one signal of its run", "
        select format('run %s key %s: signals %s', run_id, key, array_agg(distinct id)) from chaos.sent where key is not null
        group by run_id, key having count(distinct id) > 1"),
    ("a taken signal is the output of the step that took it, and of no other", "
        select format('run %s signal %s, taken by frame %s node %s, is the output of %s', g.run_id, g.signal_id, g.taken_frame, g.taken_node, a.steps)
        from longshore.signals g
        join longshore.workflow_runs r using (run_id)
        cross join lateral (
            select coalesce(array_agg((a.frame, a.node)::text), '{}') as steps, count(*) as outputs,
                count(*) filter (where (a.frame, a.node) = (g.taken_frame, g.taken_node)) as own
            from longshore.execution_step_attempts a
            join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node and n.type in ('wait', 'approval')
            where a.shard = 0 and a.run_id = g.run_id and a.outcome = 1
              and coalesce(a.output -> 'payload' ->> 'token', a.output -> 'payload' ->> 'run_id', a.output ->> 'answer')
                  = coalesce(g.payload ->> 'token', g.payload ->> 'run_id', g.payload ->> 'answer')) a
        where a.outputs > 1 or a.own <> a.outputs or (r.state = 3 and a.outputs <> (g.taken_at is not null and g.refused is null)::int)"),
    ("an approval was answered by someone who may, and all other answers that it took were refused", "
        select format('run %s signal %s: %s, refused: %s', g.run_id, g.signal_id, g.payload, g.refused)
        from longshore.signals g where g.name = 'approval:boss' and g.taken_at is not null and (g.payload ->> 'by' = 'ann') <> (g.refused is null)"),
    ("a wait that nothing was sent to ends when its time is over, and not before", "
        select format('run %s, after %s: %s', a.run_id, a.finished_at - a.claimed_at, a.error)
        from longshore.execution_step_attempts a
        join longshore.workflow_runs r using (run_id)
        join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node and n.type = 'wait'
        where a.outcome = 2 and (a.error ->> 'kind' <> 'timeout' or a.finished_at - a.claimed_at < interval '250 ms')"),
    ("an acknowledged rerun exists, once, and says whose it is", "
        select format('run %s, of run %s from %s: of run %s', a.run_id, a.of_run, a.from_id, r.rerun_of)
        from chaos.rerun a left join longshore.workflow_runs r on r.shard = 0 and r.run_id = a.run_id
        where r.rerun_of is distinct from a.of_run or (select count(*) from chaos.rerun o where o.run_id = a.run_id) > 1"),
    ("a key names one run", "
        select format('key %s: runs %s', key, array_agg(distinct run_id)) from chaos.started where key is not null
        group by key having count(distinct run_id) > 1"),
    ("every run ends", "
        select format('run %s (%s) is in state %s', r.run_id, w.name, r.state)
        from longshore.workflow_runs r join longshore.workflows w using (workflow_id)
        where r.state in (1, 2)"),
    ("every run ends as its workflow says", "
        select format('run %s (%s) ended in state %s: %s', s.run_id, s.kind, r.state, r.error)
        from (select distinct run_id, kind from chaos.started) s join longshore.workflow_runs r using (run_id)
        where r.state > 2 and r.state <> case when s.kind in (select kind from chaos.fails) then 4 else 3 end
          and not (r.state = 5 and exists (select from chaos.canceled c where c.run_id = s.run_id))"),
    ("a completed run ran every node that its conditions reach, and skipped the others", "
        select format('run %s (%s, x %s) node %s: outcomes %s', s.run_id, s.kind, s.x, n.id, a.outcomes)
        from (select distinct run_id, kind, x from chaos.started) s
        join longshore.workflow_runs r using (run_id)
        join longshore.workflow_nodes n using (version_id)
        left join lateral (
            select array_agg(a.outcome) as outcomes, bool_or(a.outcome = 1) as ran, bool_or(a.outcome = 5) as skipped, bool_or(a.outcome = 2) as failed
            from longshore.execution_step_attempts a where a.shard = 0 and a.run_id = s.run_id and a.frame = 0 and a.node = n.node) a on true
        where r.state = 3 and n.body = 0 and not exists (select from chaos.open o where o.kind = s.kind and o.node_id = n.id)
          and case when exists (select from chaos.skips k where k.kind = s.kind and k.upper_half = (s.x >= 50) and k.node_id = n.id)
                then coalesce(a.ran or a.failed, false) or not coalesce(a.skipped, false)
                when exists (select from chaos.gives_up g where g.kind = s.kind and g.node_id = n.id) then not coalesce(a.failed, false)
                else not coalesce(a.ran, false) end"),
    ("no two handlers were given the same attempt", "
        select format('run %s frame %s node %s attempt %s began %s times', run_id, frame, node_id, attempt, count(*)) from chaos.began
        group by run_id, frame, node_id, attempt having count(*) > 1"),
    ("every try that began is a row", "
        select format('run %s frame %s node %s attempt %s', b.run_id, b.frame, b.node_id, b.attempt)
        from chaos.began b
        join longshore.workflow_runs r using (run_id)
        join longshore.workflow_nodes n on n.version_id = r.version_id and n.id = b.node_id
        where not exists (select from longshore.execution_step_attempts a where a.shard = 0 and a.run_id = b.run_id and a.frame = b.frame and a.node = n.node
                          and a.attempt = b.attempt)"),
    ("what is accepted was given by that very attempt", "
        select format('run %s frame %s node %s attempt %s has the output %s', a.run_id, a.frame, n.id, a.attempt, a.output)
        from longshore.execution_step_attempts a
        join longshore.workflow_runs r using (run_id)
        join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node
        where a.outcome = 1 and a.output ? 'mark' and n.type = 'task' and (r.rerun_of is null or a.claimed_at is not null)
          and not exists (select from chaos.gave g where g.run_id = a.run_id and g.frame = a.frame and g.node_id = n.id and g.attempt = a.attempt
                          and g.mark = (a.output ->> 'mark')::uuid)"),
    ("what a step was given was accepted before", "
        with recursive sources as (
            select distinct run_id, run_id as source from chaos.carried
            -- what a rerun takes over may have been given by a run before it
            union all select s.run_id, r.rerun_of from sources s join longshore.workflow_runs r on r.shard = 0 and r.run_id = s.source where r.rerun_of is not null)
        select format('run %s frame %s node %s attempt %s carries %s, which nobody accepted', c.run_id, c.frame, c.node_id, c.attempt, c.mark)
        from chaos.carried c
        where not exists (select from sources s
                          join longshore.execution_step_attempts a on a.shard = 0 and a.run_id = s.source and a.outcome = 1 and a.output ->> 'mark' = c.mark::text
                          where s.run_id = c.run_id)
          -- nor in a run below it, of two levels
          and not exists (
              select from sources s
              join longshore.workflow_runs o on o.shard = 0 and o.parent_run_id = s.source
              left join longshore.workflow_runs p on p.shard = 0 and p.parent_run_id = o.run_id
              join longshore.execution_step_attempts a on a.shard = 0 and a.run_id in (o.run_id, p.run_id) and a.outcome = 1 and a.output ->> 'mark' = c.mark::text
              where s.run_id = c.run_id)"),
    ("a retry waits as long as its policy says", "
        select format('run %s node %s attempt %s began %s after a failure, not %s', run_id, node, attempt, claimed_at - failed_at, least_pause)
        from (
            select a.run_id, a.node, a.attempt, a.claimed_at,
                lag(a.finished_at) over w as failed_at, lag(a.outcome) over w as outcome,
                -- 200 ms doubled with each failure, less a fifth of jitter
                interval '160 ms' * power(2, count(*) filter (where a.outcome = 2) over (w rows between unbounded preceding and 1 preceding) - 1) as least_pause
            from longshore.execution_step_attempts a
            join longshore.workflow_runs r using (run_id)
            join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node and n.id = 'f'
            window w as (partition by a.run_id, a.frame, a.node order by a.attempt)) t
        where outcome = 2 and claimed_at - failed_at < least_pause"),
    ("nothing starts after a cancel was acknowledged", "
        select format('run %s node %s attempt %s was claimed %s after the cancel', a.run_id, a.node, a.attempt, a.claimed_at - c.at)
        from chaos.canceled c join longshore.execution_step_attempts a on a.shard = 0 and a.run_id = c.run_id
        join longshore.workflow_runs r on r.shard = 0 and r.run_id = c.run_id
        where c.at is not null and r.state = 5 and r.retries = 0 and a.node >= 0 and a.outcome in (1, 2) and a.claimed_at > c.at
          and not exists (select from longshore.frames f where f.shard = 0 and f.run_id = a.run_id and f.frame = a.frame and f.shield is not null)"),
    ("a try comes to its finally, once, whatever ended it", "
        select format('run %s frame %s block %s: state %s, %s of its finally', w.run_id, w.frame, n.id, w.state, f.count)
        from longshore.frames w
        join longshore.workflow_runs r using (run_id)
        join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = w.node and n.type = 'try'
        cross join lateral (select count(*) from longshore.frames f where f.shard = 0 and f.run_id = w.run_id and f.parent = w.frame
                            and f.iteration = 2 and f.state in (3, 4)) f
        where w.whole and f.count <> 1"),
    ("a completed block made the iterations that its input demands", "
        select format('run %s (%s, x %s) frame %s block %s: %s of %s iterations, output %s', s.run_id, s.kind, s.x, a.frame, n.id, f.count, i.count, a.output)
        from (select distinct run_id, kind, x from chaos.started) s
        join longshore.workflow_runs r using (run_id)
        join chaos.iterations i on i.kind = s.kind and i.x = s.x
        join longshore.workflow_nodes n on n.version_id = r.version_id and n.id = i.node_id
        join longshore.execution_step_attempts a on a.shard = 0 and a.run_id = s.run_id and a.node = n.node and a.outcome = 1
        left join longshore.frames w on w.shard = 0 and w.run_id = s.run_id and w.parent = a.frame and w.node = n.node and w.attempt = a.attempt and w.whole
        left join lateral (
            select count(*) as count, max(f.iteration) as last, bool_and(f.state in (3, 4)) as ended from longshore.frames f
            where f.shard = 0 and f.run_id = s.run_id and f.parent = w.frame and not f.whole and f.node = n.node) f on true
        where case n.type when 'while' then i.count else f.count end <> i.count or coalesce(f.last, -1) <> i.count - 1 or not f.ended
          or n.type = 'while' and (a.output ->> 'n')::bigint is distinct from i.count"),
    ("a foreach gives what its items gave, in their order", "
        select format('run %s frame %s block %s item %s: %s, frame %s in state %s gave %s', w.run_id, w.frame, n.id, e.place, e.output, f.frame, f.state,
            coalesce(f.output, f.error))
        from longshore.frames w
        join longshore.workflow_runs r using (run_id)
        join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = w.node and n.type = 'foreach'
        cross join lateral (
            select p.place, w.output -> p.place as output
            from generate_series(0, greatest((w.bounds ->> 'count')::int, jsonb_array_length(w.output)) - 1) p(place)) e
        left join longshore.frames f on f.shard = 0 and f.run_id = w.run_id and f.parent = w.frame and f.iteration = e.place
        where w.whole and w.state = 3
          and (e.output is distinct from case f.state when 3 then f.output when 4 then jsonb_build_object('error', f.error) end
            or (e.output ->> 'item')::int <> e.place)"),
    ("a body gives what its last node gave, which ran once", "
        select format('run %s frame %s node %s gave %s, the frame %s', f.run_id, f.frame, s.id, s.outputs, f.output)
        from longshore.frames f
        join longshore.workflow_runs r using (run_id)
        cross join lateral (
            select n.id, array_agg(a.output) filter (where a.run_id is not null) as outputs
            from longshore.workflow_nodes n
            left join longshore.execution_step_attempts a on a.shard = 0 and a.run_id = f.run_id and a.frame = f.frame and a.node = n.node and a.outcome = 1
            where n.version_id = r.version_id and n.body = f.body
              and not exists (select from longshore.workflow_edges e where e.version_id = n.version_id and e.from_node = n.node)
            group by n.id) s
        where f.body is not null and f.state = 3 and s.outputs is distinct from array[f.output]"),
    ("a block gives what the frame that stands for it gave", "
        select format('run %s frame %s block %s attempt %s: outcome %s, %s; its frame %s is in state %s: %s', a.run_id, a.frame, n.id, a.attempt, a.outcome,
            coalesce(a.output, a.error), w.frame, w.state, coalesce(w.output, w.error))
        from longshore.frames w
        join longshore.workflow_runs r using (run_id)
        join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = w.node
        join longshore.execution_step_attempts a on a.shard = 0 and a.run_id = w.run_id and a.frame = w.parent and a.node = w.node and a.attempt = w.attempt
        where w.whole and a.outcome in (1, 2)
          and ((w.state, w.output) is distinct from (3::smallint, a.output) and a.outcome = 1
            or (w.state, w.error ->> 'name') is distinct from (4::smallint, a.error ->> 'name') and a.outcome = 2)"),
    ("a parallel gives what its branches gave", "
        select format('run %s frame %s block %s: %s of branch %s', w.run_id, w.frame, n.id, b.value, b.key)
        from longshore.frames w
        join longshore.workflow_runs r using (run_id)
        join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = w.node and n.type = 'parallel'
        cross join lateral jsonb_each(case when w.output = '{}' then '{\"none\": 0}' else w.output end) b
        where w.whole and w.state = 3
          and not exists (select from longshore.frames f where f.shard = 0 and f.run_id = w.run_id and f.parent = w.frame and f.state = 3 and f.output = b.value)"),
    ("a caught failure leaves the catch's output, and the finally ran", "
        select format('run %s frame %s block %s gave %s: bodies %s', w.run_id, w.frame, n.id, w.output, b.bodies)
        from longshore.frames w
        join longshore.workflow_runs r using (run_id)
        join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = w.node and n.type = 'try'
        cross join lateral (
            select jsonb_agg(jsonb_build_array(f.iteration, f.state, f.output) order by f.iteration) as bodies,
                (array_agg(f.output order by f.iteration desc) filter (where f.iteration < 2))[1] as output,
                array_agg(f.state order by f.iteration) filter (where f.iteration < 2) as states, bool_or(f.iteration = 2 and f.state = 3) as finally
            from longshore.frames f
            where f.shard = 0 and f.run_id = w.run_id and f.parent = w.frame and not f.whole) b
        where w.whole and w.state = 3
          and (b.finally is not true or b.output is distinct from w.output or b.states <> '{3}' and b.states <> '{4,3}')"),
    ("a run of one block gives what the block gave", "
        select format('run %s (%s) gave %s', r.run_id, s.kind, r.output)
        from (select distinct run_id, kind from chaos.started where kind in ('caught', 'rescue', 'wide', 'again')) s
        join longshore.workflow_runs r using (run_id)
        where r.state = 3 and not exists (select from longshore.frames w where w.shard = 0 and w.run_id = r.run_id and w.parent = 0 and w.whole
                                          and w.state = 3 and w.output = r.output)"),
    ("nothing of a canceled frame starts after it was settled", "
        select format('run %s frame %s node %s attempt %s, outcome %s, was claimed %s after the frame was canceled', a.run_id, a.frame, b.node_id, a.attempt,
            a.outcome, a.claimed_at - f.finished_at)
        from longshore.frames f
        join longshore.execution_step_attempts a on a.shard = 0 and a.run_id = f.run_id and a.frame = f.frame
        join longshore.workflow_runs r on r.shard = 0 and r.run_id = f.run_id
        join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node
        join chaos.began b on b.run_id = a.run_id and b.frame = a.frame and b.node_id = n.id and b.attempt = a.attempt
        where f.state = 5 and a.claimed_at > f.finished_at"),
    ("nothing is recorded of a frame that never began", "
        select format('run %s frame %s node %s', a.run_id, a.frame, a.node)
        from longshore.execution_step_attempts a
        where a.frame > 0 and not exists (select from longshore.frames f where f.shard = 0 and f.run_id = a.run_id and f.frame = a.frame)
          and not exists (select from longshore.workflow_runs r join longshore.workflows w using (workflow_id) where r.run_id = a.run_id and w.name = 'kept')"),
    ("no lease is left", "select format('lane %s, cycle %s: runs %s', lane_id, cycle, run_ids) from longshore.lanes"),
    ("no closing is left", "select format('run %s, closed at %s', run_id, closed_at) from longshore.closed where closed_at < now() - interval '1 minute'"),
    ("no session is left", SESSIONS),
];

/// Sessions of others than the checker; one that never sent a statement holds nothing, and may be one whose client was killed while it connected.
const SESSIONS: &str = "
    select format('%s: %s', application_name, query) from pg_stat_activity
    where datname = current_database() and backend_type = 'client backend' and application_name <> 'longshore-chaos' and query <> ''";

/// A session whose client went without a word ends when its server has said what it had to say: of a statement of the harness itself, on a machine that does other
/// work, within this time.
const LAST_WORDS: Duration = Duration::from_secs(60);

/// Everything that is not as it must be; `ledger` was loaded before.
pub(crate) async fn violations(session: &mut PgConnection) -> Result<Violations> {
    let until = Instant::now() + LAST_WORDS;
    while !sqlx::query(SESSIONS).fetch_all(&mut *session).await?.is_empty() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut violations = Vec::new();
    for (promise, sql) in CHECKS {
        let broken: Vec<String> =
            sqlx::query_scalar(&format!("with broken as materialized ({sql}) select * from broken limit 5"))
                .fetch_all(&mut *session)
                .await
                .context(*promise)?;
        violations.extend(broken.into_iter().map(|broken| format!("{promise}: {broken}")));
    }
    violations.extend(checks::broken_in(session).await);
    Ok(violations)
}

/// The runs of the queue `probe`, which one worker with one slot took: in the order of their priorities, and the older first.
pub(crate) async fn priorities(session: &mut PgConnection) -> Result<Violations> {
    let sql = "
        select format('run %s of priority %s was claimed after one of priority %s', run_id, priority, before)
        from (
            select r.run_id, r.priority, lag(r.priority) over claims as before, r.created_at, lag(r.created_at) over claims as created_before
            from longshore.workflow_runs r
            join longshore.workflows w on w.workflow_id = r.workflow_id and w.name = 'probe'
            join longshore.execution_step_attempts a on a.run_id = r.run_id and a.node >= 0
            window claims as (order by a.claimed_at)) t
        where before > priority or before = priority and created_before > created_at";
    Ok(sqlx::query_scalar(sql).fetch_all(session).await?)
}

/// Waits that a signal is there for although nothing looks for it: no moment may show one.
pub(crate) async fn unheard(session: &mut PgConnection) -> sqlx::Result<Violations> {
    let sql = "
        with looks as (
            select run_id, frame, node, attempt from longshore.step_ready where node in (-7, -8)
            union all select run_id, frame, node, attempt from longshore.step_delayed where node in (-7, -8)
            union all select l.run_id, l.frame, l.node, l.attempt
                from longshore.lanes b cross join lateral unnest(b.run_ids, b.frames, b.nodes, b.attempts) l(run_id, frame, node, attempt)
                where l.node in (-7, -8))
        select format('a wait misses no signal: run %s frame %s node %s waits for %s since %s, sent at %s', w.run_id, w.frame, w.node, g.name, w.since, g.sent_at)
        from longshore.step_waiting w
        join longshore.workflow_runs r on r.shard = 0 and r.run_id = w.run_id and r.state = 1
        join longshore.signals g on g.shard = 0 and g.run_id = w.run_id and g.name = any (w.names) and g.taken_at is null
        where w.woken_at is null and not w.picky and not exists (select from longshore.closed c where c.run_id = w.run_id)
          and not exists (select from looks l where l.run_id = w.run_id and (l.node = -7 or l.frame = w.frame and l.attempt = w.node))
        limit 5";
    sqlx::query_scalar(sql).fetch_all(session).await
}

/// Runs and closings that are not done with, failed ones that are yet to be tried again among them, and how many attempts are recorded.
pub(crate) async fn left(session: &mut PgConnection) -> Result<(i64, i64)> {
    let sql = "select (select count(*) from longshore.workflow_runs where state in (1, 2)) + (select count(*) from longshore.closed)
            + (select count(*) from longshore.workflow_runs r join longshore.workflows w using (workflow_id) where r.state = 4 and w.name = $1),
        (select count(*) from longshore.execution_step_attempts)";
    Ok(sqlx::query_as(sql).bind(workload::STUBBORN).fetch_one(session).await?)
}

/// What is there of the runs for which a fleet waits that does not settle, and what Postgres is at: for people.
pub(crate) async fn unsettled(session: &mut PgConnection) -> Result<Violations> {
    let sql = "
        with waiting as (
            select run_id from longshore.closed union select run_id from longshore.workflow_runs where state in (1, 2) order by 1 limit 5)
        select 'run ' || (to_jsonb(r) - 'input' - 'output' - 'mocks')::text from longshore.workflow_runs r join waiting using (run_id)
        union all select 'closing ' || to_jsonb(c)::text from longshore.closed c join waiting using (run_id)
        union all select 'frame ' || (to_jsonb(f) - 'input' - 'output')::text from longshore.frames f join waiting using (run_id)
        union all select 'ready ' || to_jsonb(s)::text from longshore.step_ready s join waiting using (run_id)
        union all select 'delayed ' || to_jsonb(s)::text from longshore.step_delayed s join waiting using (run_id)
        union all select 'waits ' || to_jsonb(s)::text from longshore.step_waiting s join waiting using (run_id)
        union all select 'lane ' || to_jsonb(l)::text from longshore.lanes l
        union all select format('session %s, %s since %s, waits for %s %s: %s', pid, state, now() - xact_start, wait_event_type, wait_event, left(query, 200))
            from pg_stat_activity where datname = current_database() and xact_start is not null and pid <> pg_backend_pid()";
    Ok(sqlx::query_scalar(sql).fetch_all(session).await?)
}

/// What a window came to, for the table.
#[derive(Clone, Debug, Default, sqlx::FromRow, serde::Serialize)]
pub(crate) struct Figures {
    /// Runs that ended.
    pub(crate) runs: i64,
    /// Steps that completed, failed for good or were skipped.
    pub(crate) steps: i64,
    /// Tries that were lost.
    pub(crate) lost: i64,
    /// Tries given back, uncharged.
    pub(crate) released: i64,
    /// Handlers that gave a result after their lease was taken back: none was accepted.
    pub(crate) zombies: i64,
    /// Runs that steps of others started.
    pub(crate) children: i64,
    /// How often a run that had failed was tried again.
    pub(crate) retries: i64,
    /// Runs that took over from another.
    pub(crate) reruns: i64,
    /// Changes of contexts.
    pub(crate) snapshots: i64,
    /// From the kill of a worker until its steps ran again, in seconds.
    pub(crate) recovery_p50: Option<f64>,
    /// The same at the 99th percentile.
    pub(crate) recovery_p99: Option<f64>,
}

const FIGURES: &str = "
    with again as (
        select extract(epoch from n.claimed_at - k.at)::float8 as seconds
        from longshore.execution_step_attempts l
        join longshore.workflow_runs r using (run_id)
        join longshore.workflow_nodes w on w.version_id = r.version_id and w.node = l.node
        join chaos.began b on b.run_id = l.run_id and b.frame = l.frame and b.node_id = w.id and b.attempt = l.attempt
        join chaos.killed k on k.pid = b.pid
        join longshore.execution_step_attempts n on n.run_id = l.run_id and n.frame = l.frame and n.node = l.node and n.attempt = l.attempt + 1
        where l.outcome = 3 and n.claimed_at is not null and k.at <= n.claimed_at
          -- nothing of a paused run goes on
          and not exists (select from chaos.paused p where p.run_id = l.run_id)
          and not exists (select from longshore.workflows x where x.workflow_id = r.workflow_id and x.name = 'parks'))
    select (select count(*) from longshore.workflow_runs where state > 2) as runs,
        (select count(*) from longshore.execution_step_attempts where outcome in (1, 2, 5) and node >= 0) as steps,
        (select count(*) from longshore.execution_step_attempts where outcome = 3) as lost,
        (select count(*) from longshore.execution_step_attempts where outcome = 6) as released,
        (select count(*) from chaos.gave g
            join longshore.workflow_runs r using (run_id)
            join longshore.workflow_nodes w on w.version_id = r.version_id and w.id = g.node_id
            join longshore.execution_step_attempts a on a.run_id = g.run_id and a.frame = g.frame and a.node = w.node and a.attempt = g.attempt
            where a.outcome = 3) as zombies,
        (select count(*) from longshore.workflow_runs where parent_run_id is not null) as children,
        (select coalesce(sum(retries), 0) from longshore.workflow_runs) as retries,
        (select count(*) from longshore.workflow_runs where rerun_of is not null) as reruns,
        (select count(*) from longshore.execution_context_snapshots where reason = 2) as snapshots,
        (select percentile_cont(0.5) within group (order by seconds) from again) as recovery_p50,
        (select percentile_cont(0.99) within group (order by seconds) from again) as recovery_p99";

/// See [`Figures`].
pub(crate) async fn figures(session: &mut PgConnection) -> Result<Figures> {
    Ok(sqlx::query_as(FIGURES).fetch_one(session).await?)
}

/// Steps that completed per second of the window.
pub(crate) async fn rate(session: &mut PgConnection, began: DateTime<Utc>, seconds: u64) -> Result<f64> {
    let sql = "select count(*)::float8 / $2 from longshore.execution_step_attempts
        where outcome = 1 and node >= 0 and finished_at >= $1 and finished_at < $1 + $2 * interval '1 second'";
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    let query = sqlx::query_scalar(sql).bind(began).bind(seconds as f64);
    Ok(query.fetch_one(session).await?)
}

/// For each start of Postgres, the seconds until the fleet claimed again; none where nothing was claimed after it.
pub(crate) async fn restarts(session: &mut PgConnection, ledger: &[Entry]) -> Result<Vec<f64>> {
    let mut seconds = Vec::new();
    for entry in ledger {
        let Entry::Restarted { at } = entry else { continue };
        let sql = "select extract(epoch from min(claimed_at) - $1)::float8 from longshore.execution_step_attempts where claimed_at >= $1";
        seconds.extend(sqlx::query_scalar::<_, Option<f64>>(sql).bind(at).fetch_one(&mut *session).await?);
    }
    Ok(seconds)
}

/// The lanes that are registered now, each with the process that has it.
pub(crate) async fn lanes(session: &mut PgConnection) -> Result<Vec<(i64, i64)>, sqlx::Error> {
    let sql =
        "select w.pid::bigint, l.lane_id from longshore.worker_lanes l join longshore.workers w using (worker_id)";
    sqlx::query_as(sql).fetch_all(session).await
}

/// How many attempts ended in these lanes.
pub(crate) async fn attempts_in(session: &mut PgConnection, lanes: &[i64]) -> Result<i64> {
    let sql = "select count(*) from longshore.execution_step_attempts where lane_id = any ($1)";
    Ok(sqlx::query_scalar(sql).bind(lanes).fetch_one(session).await?)
}

/// How many handlers began by a clock that is far ahead of the one by which their run began.
pub(crate) fn began_ahead(ledger: &[Entry]) -> usize {
    let ahead = |entry: &&Entry| match entry {
        Entry::Began { run, at, .. } => {
            let started = run.get_timestamp().and_then(|stamp| i64::try_from(stamp.to_unix().0).ok());
            started.is_some_and(|started| at.timestamp() - started > 50 * 60)
        }
        _ => false,
    };
    ledger.iter().filter(ahead).count()
}

/// Outcomes and their codes in the tables.
const OUTCOMES: [(&str, i16); 4] = [("completed", 1), ("failed", 2), ("canceled", 4), ("released", 6)];

/// The metrics of all processes together against the tables (what was canceled before anyone claimed it, no process counts): equal where none was
/// killed (`whole`), else never more.
pub(crate) async fn metrics(
    session: &mut PgConnection,
    scraped: &std::collections::BTreeMap<String, f64>,
    whole: bool,
) -> Result<Violations> {
    let mut violations = Vec::new();
    for (outcome, code) in OUTCOMES {
        let sql = "select count(*) from longshore.execution_step_attempts a join longshore.workflow_runs r using (run_id)
            join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node where a.outcome = $1 and n.type = 'task' and a.claimed_at is not null";
        let rows: i64 = sqlx::query_scalar(sql).bind(code).fetch_one(&mut *session).await?;
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)] // far below 2^52
        let counted = scraped.get(outcome).copied().unwrap_or(0.0).round() as i64;
        if counted > rows || whole && outcome != "released" && counted < rows {
            violations.push(format!("the metrics say {counted} attempts {outcome}, the table has {rows}"));
        }
    }
    Ok(violations)
}
