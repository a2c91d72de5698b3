//! The checker's rules of child runs, reruns, contexts and pauses, asked like those of `check`. To each belongs damage done by hand: it is done to a window's own
//! rows, in a transaction that is rolled back, and the rule must find it. So every window shows that they bite.

use anyhow::{Context, Result};
use sqlx::{Connection, PgConnection};

use crate::check::Violations;
use crate::workload;

/// Tables of what the contexts must be, beside those of the ledger.
const TABLES: &str = "
    drop table if exists chaos.sums;
    create table chaos.sums (x bigint, sum bigint, list jsonb);";

/// A rule: what it says, the statement that returns one text for each fact which breaks it, and damage that it must find.
struct Rule {
    says: &'static str,
    finds: &'static str,
    damage: &'static [&'static str],
}

/// The attempts of nodes that change the context of a run of `sums`: what each added, and what it appended.
const CHANGES: &str = "
    with changes as materialized (
        select a.run_id, a.frame, a.node, a.attempt,
            case n.id when 'aim' then 0 when 'pay' then 10 else 1 end * coalesce((a.output ->> 'item')::bigint, case n.id when 'lone' then 1000 end, 0) as amount,
            case n.id when 'add' then (a.output ->> 'item')::bigint when 'pay' then (a.output ->> 'item')::bigint + 100 when 'lone' then 1000 end as entry
        from longshore.execution_step_attempts a
        join longshore.workflow_runs r using (run_id)
        join longshore.workflows w on w.workflow_id = r.workflow_id and w.name = 'sums'
        join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node and n.id in ('aim', 'add', 'pay', 'lone')
        where a.outcome = 1)";

/// The end of each step that waits for child runs, with the last run it started.
const WAITED: &str = "
    with waited as materialized (
        select a.run_id, a.frame, n.id, a.attempt, a.outcome, a.output, a.error, a.finished_at, c.run_id as child, c.state, c.awaited,
            c.output as gave, c.error as failed, c.finished_at as ended_at
        from longshore.execution_step_attempts a
        join longshore.workflow_runs r using (run_id)
        join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node and n.type = 'subflow'
        left join lateral (
            select c.* from longshore.workflow_runs c
            where c.shard = 0 and c.parent_run_id = a.run_id and c.parent_frame = a.frame and c.parent_node = a.node and c.parent_attempt <= a.attempt
            order by c.parent_attempt desc limit 1) c on true
        where a.outcome in (1, 2) and (r.rerun_of is null or a.claimed_at is not null))";

/// What a rerun took over, and the nodes that come after the one it began from.
const TAKEN: &str = "
    with recursive taken as materialized (
        select a.run_id, r.rerun_of, r.version_id, r.created_at, a.node, a.attempt, a.outcome, a.output, a.error
        from longshore.workflow_runs r
        join longshore.execution_step_attempts a on a.shard = 0 and a.run_id = r.run_id and a.frame = 0 and a.node >= 0 and a.outcome in (1, 2) and a.claimed_at is null
        where r.rerun_of is not null
    ), anew (run_id, of_run, version_id, created_at, node) as (
        select x.run_id, x.of_run, r.version_id, r.created_at, n.node
        from chaos.rerun x
        join longshore.workflow_runs r using (run_id)
        join longshore.workflow_nodes n on n.version_id = r.version_id and n.body = 0 and n.id = x.from_id
        union
        select t.run_id, t.of_run, t.version_id, t.created_at, e.to_node from anew t join longshore.workflow_edges e on e.version_id = t.version_id and e.from_node = t.node
    )";

const RULES: &[Rule] = &[
    Rule {
        says: "an attempt starts one child run at most",
        finds: "
            select format('run %s frame %s node %s attempt %s started %s', parent_run_id, parent_frame, parent_node, parent_attempt, array_agg(run_id))
            from longshore.workflow_runs where parent_run_id is not null
            group by parent_run_id, parent_frame, parent_node, parent_attempt having count(*) > 1",
        damage: &["
            update longshore.workflow_runs c
            set parent_run_id = o.parent_run_id, parent_frame = o.parent_frame, parent_node = o.parent_node, parent_attempt = o.parent_attempt
            from (select min(run_id::text)::uuid as least, max(run_id::text)::uuid as most from longshore.workflow_runs where parent_run_id is not null) t
            join longshore.workflow_runs o on o.run_id = t.least
            where c.run_id = t.most and t.most <> t.least"],
    },
    Rule {
        says: "a step that waits for a child run ends as that run did, and not before it",
        finds: "
            select format('run %s frame %s node %s attempt %s, outcome %s: %s; its run %s, state %s: %s', run_id, frame, id, attempt, outcome,
                coalesce(output, error), child, state, coalesce(gave, failed))
            from waited
            where child is null or awaited and case
                when outcome = 1 then state <> 3 or gave is distinct from output or ended_at > finished_at
                when error ->> 'kind' = 'timeout' then false
                else state <> 4 or (failed ->> 'name', failed ->> 'kind') is distinct from (error ->> 'name', error ->> 'kind') or ended_at > finished_at end
              or not awaited and (outcome <> 1 or output ->> 'run_id' <> child::text)",
        damage: &[
            "update longshore.workflow_runs set output = '\"other\"' where run_id = (select c.run_id from longshore.workflow_runs c join longshore.execution_step_attempts a on a.run_id = c.parent_run_id and a.frame = c.parent_frame
                and a.node = c.parent_node and a.attempt = c.parent_attempt and a.outcome = 1 where c.awaited limit 1)",
            "update longshore.workflow_runs set error = jsonb_set(error, '{name}', '\"other\"')
             where run_id = (select c.run_id from longshore.workflow_runs c join longshore.execution_step_attempts a on a.run_id = c.parent_run_id and a.frame = c.parent_frame
                and a.node = c.parent_node and a.outcome = 2 where c.awaited and c.state = 4 limit 1)",
            "delete from longshore.workflow_runs c where c.run_id = (select run_id from longshore.workflow_runs where not awaited limit 1)",
        ],
    },
    Rule {
        says: "a child run that was to end with what started it has ended",
        finds: "
            select format('run %s is in state %s, its parent %s in state %s', c.run_id, c.state, p.run_id, p.state)
            from longshore.workflow_runs c left join longshore.workflow_runs p on p.shard = 0 and p.run_id = c.parent_run_id
            where c.parent_run_id is not null and c.close_policy = 1 and c.state in (1, 2) and (p.run_id is null or p.state > 2)",
        damage: &[
            "update longshore.workflow_runs set state = 1, finished_at = null, output = null, error = null
             where run_id = (select c.run_id from longshore.workflow_runs c join longshore.workflow_runs p on p.run_id = c.parent_run_id and p.state = 5
                where c.close_policy = 1 limit 1)",
        ],
    },
    // nobody of the load cancels one
    Rule {
        says: "a child run is canceled only when nobody waits for it any more, and never if it was to live on",
        finds: "
            select format('run %s, policy %s, was canceled at %s; its parent %s, state %s, ended at %s', c.run_id, c.close_policy, c.finished_at, p.run_id,
                p.state, p.finished_at)
            from longshore.workflow_runs c join longshore.workflow_runs p on p.shard = 0 and p.run_id = c.parent_run_id
            where c.state = 5 and (c.close_policy <> 1
                or (p.finished_at is null or p.finished_at > c.finished_at) and not (c.awaited and exists (
                    select from longshore.execution_step_attempts a
                    where a.shard = 0 and a.run_id = c.parent_run_id and a.frame = c.parent_frame and a.node = c.parent_node and a.attempt >= c.parent_attempt
                      and (a.outcome = 4 or a.outcome = 2 and a.error ->> 'kind' = 'timeout'))))",
        damage: &[
            "update longshore.workflow_runs set state = 5, output = null
             where run_id = (select c.run_id from longshore.workflow_runs c join longshore.workflow_runs p on p.run_id = c.parent_run_id and p.state = 3
                where c.awaited and c.state = 3 and c.finished_at < p.finished_at
                  and not exists (select from longshore.execution_step_attempts a where a.run_id = p.run_id and a.frame = c.parent_frame and a.node = c.parent_node
                    and a.outcome <> 1) limit 1)",
            "update longshore.workflow_runs set state = 5, output = null where run_id = (select run_id from longshore.workflow_runs where close_policy = 2 and state = 3 limit 1)",
        ],
    },
    // some of them can go on for some time, and are not asked where they end by themselves meanwhile
    Rule {
        says: "a child run that is to be asked to end is asked once, and no other is",
        finds: "
            select format('run %s, policy %s, state %s, was asked %s times; its parent %s, state %s', c.run_id, c.close_policy, c.state, s.asked, p.run_id, p.state)
            from longshore.workflow_runs c
            join longshore.workflow_runs p on p.shard = 0 and p.run_id = c.parent_run_id
            join longshore.workflows w on w.workflow_id = c.workflow_id
            cross join lateral (select count(*) as asked from longshore.signals s where s.shard = 0 and s.run_id = c.run_id and s.name = 'cancel_requested') s
            cross join lateral (
                select bool_or(a.outcome = 1) as given, min(a.finished_at) filter (where a.outcome = 2 and a.error ->> 'kind' = 'timeout') as late
                from longshore.execution_step_attempts a
                where a.shard = 0 and a.run_id = p.run_id and a.frame = c.parent_frame and a.node = c.parent_node and a.attempt >= c.parent_attempt) a
            where case when c.close_policy <> 3 then s.asked > 0
                else s.asked > 1 or s.asked = 0 and (w.name = 'patient' or c.awaited and a.late < c.finished_at - interval '1 second')
                    or s.asked = 1 and c.awaited and a.given end",
        damage: &[
            "insert into longshore.signals (shard, run_id, name, payload)
             select 0, run_id, 'cancel_requested', '{}' from longshore.signals where name = 'cancel_requested' limit 1",
            "delete from longshore.signals s using longshore.workflow_runs c join longshore.workflows w using (workflow_id)
             where w.name = 'patient' and s.run_id = c.run_id",
            "insert into longshore.signals (shard, run_id, name, payload)
             select 0, run_id, 'cancel_requested', '{}' from longshore.workflow_runs where close_policy = 1 limit 1",
        ],
    },
    Rule {
        says: "after an attempt that failed the next starts a child run of its own",
        finds: "
            select format('run %s frame %s node %s attempt %s ended as run %s, started by attempt %s, did before', a.run_id, a.frame, a.id, a.attempt, a.child, b.attempt)
            from waited a join waited b on b.run_id = a.run_id and b.frame = a.frame and b.id = a.id and b.attempt < a.attempt
            where a.awaited and a.child = b.child",
        damage: &[
            "delete from longshore.workflow_runs c where c.run_id = (select c.run_id from longshore.workflow_runs c
                where c.parent_attempt > 1 and exists (select from longshore.execution_step_attempts a where a.run_id = c.parent_run_id and a.frame = c.parent_frame
                    and a.node = c.parent_node and a.attempt = c.parent_attempt - 1 and a.outcome = 2)
                  and exists (select from longshore.execution_step_attempts a where a.run_id = c.parent_run_id and a.frame = c.parent_frame
                    and a.node = c.parent_node and a.attempt = c.parent_attempt and a.outcome in (1, 2)) limit 1)",
        ],
    },
    Rule {
        says: "a rerun ends as its workflow says",
        finds: "
            select format('run %s (%s), of run %s, ended in state %s: %s', r.run_id, w.name, r.rerun_of, r.state, r.error)
            from longshore.workflow_runs r join longshore.workflows w using (workflow_id)
            where r.rerun_of is not null and r.state > 2 and r.state <> case when w.name in (select kind from chaos.fails) then 4 else 3 end",
        damage: &["update longshore.workflow_runs set state = 5, output = null where run_id = (select run_id from longshore.workflow_runs where rerun_of is not null limit 1)"],
    },
    Rule {
        says: "what a rerun takes over is what the other run has on record, and no handler is given it",
        finds: "
            select format('run %s node %s: outcome %s, %s, not that of run %s', t.run_id, t.node, t.outcome, coalesce(t.output, t.error), t.rerun_of)
            from taken t
            join longshore.workflow_nodes n on n.version_id = t.version_id and n.node = t.node
            where t.attempt <> 1
               or not exists (
                   select from longshore.execution_step_attempts a
                   where a.shard = 0 and a.run_id = t.rerun_of and a.frame = 0 and a.node = t.node and (a.outcome = t.outcome or a.outcome = 3 and t.outcome = 2)
                     and a.output is not distinct from t.output and a.error is not distinct from t.error)
               or exists (select from chaos.began b where b.run_id = t.run_id and b.frame = 0 and b.node_id = n.id and b.attempt = t.attempt)",
        damage: &[
            "update longshore.execution_step_attempts a set output = '\"other\"' where (a.run_id, a.frame, a.node) = (
                select a.run_id, a.frame, a.node from longshore.execution_step_attempts a join longshore.workflow_runs r using (run_id)
                where r.rerun_of is not null and a.claimed_at is null and a.outcome = 1 and a.frame = 0 and a.node >= 0 limit 1)",
        ],
    },
    // what went on after it was run anew says nothing
    Rule {
        says: "a rerun takes over all that had completed and does not come after the node it began from, and nothing else",
        finds: "
            select format('run %s, of run %s from %s: node %s was not taken over', x.run_id, x.of_run, x.from_id, a.node)
            from chaos.rerun x
            join longshore.workflow_runs r using (run_id)
            join longshore.execution_step_attempts a on a.shard = 0 and a.run_id = x.of_run and a.frame = 0 and a.node >= 0 and a.outcome = 1 and a.finished_at < r.created_at
            where not exists (select from anew o where o.run_id = x.run_id and o.node = a.node)
              and not exists (select from taken t where t.run_id = x.run_id and t.node = a.node)
            union all
            select format('run %s, of run %s: node %s was taken over', t.run_id, t.rerun_of, t.node) from taken t join anew o using (run_id, node)",
        damage: &[
            "update longshore.execution_step_attempts a set claimed_at = finished_at where (a.run_id, a.frame, a.node) = (
                select a.run_id, a.frame, a.node from longshore.execution_step_attempts a join chaos.rerun x using (run_id)
                where a.claimed_at is null and a.outcome = 1 and a.frame = 0 and a.node >= 0 limit 1)",
            "update longshore.execution_step_attempts a set claimed_at = null where (a.run_id, a.frame, a.node) = (
                select a.run_id, a.frame, a.node from longshore.execution_step_attempts a
                join longshore.workflow_runs r using (run_id)
                join longshore.workflow_nodes n on n.version_id = r.version_id and n.body = 0 and n.node = a.node
                join chaos.rerun x on x.run_id = r.run_id and x.from_id = n.id
                where a.outcome in (1, 2) and a.frame = 0 limit 1)",
        ],
    },
    Rule {
        says: "a completed run's context is what its definition adds up to",
        finds: "
            select format('run %s (x %s): %s, not %s and %s', r.run_id, s.x, h.context, e.sum, e.list)
            from (select run_id, x from chaos.started where kind = 'sums'
                  union select r.run_id, (r.input ->> 'x')::bigint from longshore.workflow_runs r join longshore.workflows w using (workflow_id)
                  where r.rerun_of is not null and w.name = 'sums') s
            join longshore.workflow_runs r on r.run_id = s.run_id and r.state = 3
            join chaos.sums e on e.x = s.x
            left join lateral (
                select c.context, (select jsonb_agg(v order by v) from jsonb_array_elements(c.context -> 'list') v) as list
                from longshore.execution_context_snapshots c where c.shard = 0 and c.run_id = r.run_id order by c.n desc limit 1) h on true
            where ((h.context ->> 'sum')::bigint, h.list) is distinct from (e.sum, e.list)",
        damage: &[
            "update longshore.execution_context_snapshots s set context = jsonb_set(context, '{sum}', '1')
             where (run_id, n) = (select run_id, n from longshore.execution_context_snapshots where reason = 3 limit 1)",
            "update longshore.execution_context_snapshots s set context = jsonb_set(context, '{list,0}', '5')
             where (run_id, n) = (select run_id, n from longshore.execution_context_snapshots where reason = 3 limit 1)",
        ],
    },
    Rule {
        says: "a context is what the attempts that were accepted made of it",
        finds: "
            select format('run %s: %s, not %s and %s', r.run_id, h.context, c.sum, c.list)
            from longshore.workflow_runs r
            join longshore.workflows w on w.workflow_id = r.workflow_id and w.name = 'sums'
            left join (select run_id, sum(amount) as sum, jsonb_agg(entry order by entry) filter (where entry is not null) as list from changes group by run_id) c
                on c.run_id = r.run_id
            left join lateral (
                select s.context, (select jsonb_agg(v order by v) from jsonb_array_elements(s.context -> 'list') v) as list
                from longshore.execution_context_snapshots s where s.shard = 0 and s.run_id = r.run_id order by s.n desc limit 1) h on true
            where r.rerun_of is null and (coalesce((h.context ->> 'sum')::bigint, 0), h.list) is distinct from (coalesce(c.sum, 0), c.list)",
        damage: &[
            "update longshore.execution_context_snapshots set context = jsonb_set(context, '{sum}', '1')
             where (run_id, n) = (select run_id, max(n) from longshore.execution_context_snapshots join longshore.workflow_runs r using (run_id)
                where r.rerun_of is null group by run_id order by max(n) desc limit 1)",
            "delete from longshore.execution_step_attempts where (run_id, frame, node, attempt) = (
                select run_id, frame, node, attempt from longshore.execution_context_snapshots join longshore.workflow_runs r using (run_id)
                where reason = 2 and n > 1 and r.rerun_of is null limit 1)",
        ],
    },
    Rule {
        says: "each snapshot is that of one accepted attempt, and differs from the one before by what that changed",
        finds: "
            select format('run %s snapshot %s, frame %s node %s attempt %s: %s after %s, which adds %s and appends %s', s.run_id, s.n, s.frame, s.node, s.attempt,
                s.context, s.before, c.amount, c.entry)
            from (select s.*, lag(s.context) over w as before, lag(s.n) over w as before_n, count(*) over (partition by s.run_id, s.frame, s.node, s.attempt) as by_attempt
                  from longshore.execution_context_snapshots s window w as (partition by s.run_id order by s.n)) s
            left join changes c on c.run_id = s.run_id and c.frame = s.frame and c.node = s.node and c.attempt = s.attempt
            left join longshore.execution_step_attempts a on a.shard = 0 and a.run_id = s.run_id and a.frame = s.frame and a.node = s.node
                and a.attempt = s.attempt and a.claimed_at is null and a.lane_id = 0 -- taken over
            where s.n <> coalesce(s.before_n + 1, 0)
               or s.reason = 1 and s.n <> 0 or s.n = 0 and s.reason <> 1
               or s.reason = 2 and a.run_id is null and s.attempt > 0 and (c.run_id is null or s.by_attempt > 1
                  or (s.context ->> 'sum')::bigint is distinct from (s.before ->> 'sum')::bigint + c.amount
                  or s.context -> 'list' is distinct from (s.before -> 'list') || case when c.entry is null then '[]' else jsonb_build_array(c.entry) end)
               or s.reason > 2 and s.context is distinct from s.before",
        damage: &[
            "delete from longshore.execution_context_snapshots where (run_id, n) = (select run_id, n from longshore.execution_context_snapshots where reason = 2 and n > 1 limit 1)",
            "update longshore.execution_context_snapshots set attempt = attempt + 1
             where (run_id, n) = (select run_id, n from longshore.execution_context_snapshots where reason = 2 limit 1)",
            "update longshore.execution_context_snapshots set context = jsonb_set(context, '{sum}', '-1')
             where (run_id, n) = (select run_id, n from longshore.execution_context_snapshots join longshore.workflow_runs r using (run_id)
                where reason = 2 and n > 1 and r.rerun_of is null limit 1)",
        ],
    },
    Rule {
        says: "a milestone was reached when it completed",
        finds: "
            select format('run %s: completed at %s, %s reached at %s', a.run_id, a.finished_at, r.input -> 'target', s.at)
            from longshore.execution_step_attempts a
            join longshore.workflow_runs r using (run_id)
            join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node and n.type = 'milestone'
            left join lateral (
                select min(s.at) as at from longshore.execution_context_snapshots s
                where s.shard = 0 and s.run_id = a.run_id and (s.context ->> 'sum')::bigint >= (r.input ->> 'target')::bigint) s on true
            where a.outcome = 1 and (r.rerun_of is null or a.claimed_at is not null) and (s.at is null or s.at > a.finished_at)",
        damage: &[
            "update longshore.execution_context_snapshots set at = at + interval '1 hour' where run_id = (select run_id from longshore.execution_context_snapshots where reason = 3 limit 1)",
        ],
    },
    Rule {
        says: "no step is parked but of a paused run",
        finds: "
            select format('run %s, state %s: frame %s node %s', s.run_id, r.state, s.frame, s.node)
            from longshore.step_delayed s left join longshore.workflow_runs r on r.shard = 0 and r.run_id = s.run_id
            where s.parked and r.state is distinct from 2",
        damage: &[
            "insert into longshore.step_delayed (due_at, run_id, version_id, queue_id, node, attempt, shard, priority, kind, parked)
             select 'infinity', run_id, version_id, 1, 0, 1, 0, 0, 0, true from longshore.workflow_runs limit 1",
        ],
    },
    Rule {
        says: "no run stays paused",
        finds: "
            select format('run %s, state %s, paused at %s', coalesce(r.run_id, p.run_id), r.state, p.paused_at)
            from longshore.pauses p full join longshore.workflow_runs r on r.shard = 0 and r.run_id = p.run_id
            where p.run_id is not null or r.state = 2",
        damage: &[
            "insert into longshore.pauses (run_id, shard, why) select run_id, 0, '{}' from longshore.workflow_runs limit 1",
            "update longshore.workflow_runs set state = 2, finished_at = null, output = null, error = null where run_id = (select run_id from longshore.workflow_runs limit 1)",
        ],
    },
    Rule {
        says: "a policy of three failures is kept in each round, and each round was asked for",
        finds: "
            select format('run %s frame %s node %s: outcomes %s, %s retries', a.run_id, a.frame, a.node, array_agg(a.outcome order by a.attempt), r.retries)
            from longshore.execution_step_attempts a join longshore.workflow_runs r using (run_id) where a.node >= 0
            group by a.run_id, a.frame, a.node, r.retries having count(*) filter (where a.outcome = 2) > 3 * (1 + r.retries)
            union all
            select format('run %s was tried again %s times after %s failures', r.run_id, r.retries, a.failures)
            from longshore.workflow_runs r
            cross join lateral (select count(*) as failures, bool_or(a.error ->> 'name' = 'lost') as poison from longshore.execution_step_attempts a where a.shard = 0 and a.run_id = r.run_id and a.outcome = 2) a
            where r.retries > a.failures / 3 and a.poison is not true",
        damage: &[
            "update longshore.workflow_runs set retries = 0
             where run_id = (select a.run_id from longshore.execution_step_attempts a where a.node >= 0 group by a.run_id, a.frame, a.node
                having count(*) filter (where a.outcome = 2) > 3 limit 1)",
            "update longshore.workflow_runs set retries = 7 where run_id = (select run_id from longshore.workflow_runs where retries > 0 limit 1)",
        ],
    },
];

/// The statement of a rule.
fn statement(rule: &Rule) -> String {
    let common = if rule.finds.contains("from waited") {
        WAITED
    } else if rule.finds.contains("taken t") {
        TAKEN
    } else if rule.finds.contains("changes") {
        CHANGES
    } else {
        ""
    };
    // all of them are looked for: with a limit outside, large databases get plans that are good for five rows alone
    let with = if common.is_empty() { "with" } else { "," };
    format!("{common}{with} broken as materialized ({}) select * from broken limit 5", rule.finds)
}

/// Lay what the contexts must be beside the tables.
pub(crate) async fn load(session: &mut PgConnection) -> Result<()> {
    sqlx::raw_sql(TABLES).execute(&mut *session).await?;
    for x in 0..workload::X {
        let (sum, list) = workload::sums(x);
        let insert = sqlx::query("insert into chaos.sums values ($1, $2, to_jsonb($3::bigint[]))");
        insert.bind(x).bind(sum).bind(list).execute(&mut *session).await?;
    }
    Ok(())
}

/// Everything that breaks a rule; and the rules that do not find what is done to them. Returns also how many kinds of damage were done: what this window
/// has no rows for cannot be.
pub(crate) async fn violations(session: &mut PgConnection) -> Result<(Violations, u32)> {
    let (mut violations, mut done) = (Violations::new(), 0);
    for rule in RULES {
        let broken: Vec<String> =
            sqlx::query_scalar(&statement(rule)).fetch_all(&mut *session).await.context(rule.says)?;
        let before = broken.len();
        violations.extend(broken.into_iter().map(|broken| format!("{}: {broken}", rule.says)));
        for damage in rule.damage.iter().filter(|_| before == 0) {
            let mut tx = session.begin().await?;
            let rows = sqlx::query(damage).execute(&mut *tx).await.context(*damage)?.rows_affected();
            let found: Vec<String> = sqlx::query_scalar(&statement(rule)).fetch_all(&mut *tx).await?;
            tx.rollback().await?;
            if rows > 0 {
                done += 1;
                if found.is_empty() {
                    violations.push(format!("the rule \"{}\" does not find this: {damage}", rule.says));
                }
            }
        }
    }
    Ok((violations, done))
}

/// Parked steps of runs that go on: no moment may show one.
pub(crate) async fn parked(session: &mut PgConnection) -> sqlx::Result<Violations> {
    let sql = "
        select format('no moment shows a parked step of a run that goes on: run %s frame %s node %s', s.run_id, s.frame, s.node)
        from longshore.step_delayed s
        join longshore.workflow_runs r on r.shard = 0 and r.run_id = s.run_id and r.state = 1
        where s.parked limit 5";
    sqlx::query_scalar(sql).fetch_all(session).await
}
