-- How the runs of a test stand.
--   $1 shard   $2 the run that is tested
-- quiet: nothing is ready, held or due. All live runs count: there are no others where tests run. timers: something is due later; what is parked is due
-- when its run is resumed. ended: where it is quiet, the nodes of the run that have completed or failed, in any frame.
with live as materialized (
    select r.run_id from longshore.workflow_runs r where r.shard = $1 and r.state in (1, 2)
), quiet as materialized (
    select not exists (select from longshore.step_ready s where s.shard = $1 and s.run_id in (select run_id from live))
        and not exists (select from longshore.lanes l cross join lateral unnest(l.run_ids) h(run_id)
                        where l.shard = $1 and h.run_id in (select run_id from live))
        and not exists (select from longshore.step_delayed d
                        where d.shard = $1 and d.run_id in (select run_id from live) and d.due_at <= now()) as quiet
)
select r.state, q.quiet,
    exists (select from longshore.step_delayed d where d.shard = $1 and d.run_id in (select run_id from live) and not d.parked) as timers,
    array(select distinct n.id
          from longshore.execution_step_attempts a
          join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node
          where q.quiet and a.shard = $1 and a.run_id = $2 and a.outcome in (1, 2)) as ended
from longshore.workflow_runs r
cross join quiet q
where r.shard = $1 and r.run_id = $2
