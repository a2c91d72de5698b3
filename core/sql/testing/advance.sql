-- Move the clock of a test on to the next timer of the live runs: all their timers come nearer by as much, so that they keep their order.
--   $1 shard
-- Nothing happens where something is ready, held or due: a timer that came due since the test looked may have set others, and these are no next ones.
-- A wait names its timer by its time, so that moves along. The span is in seconds: one in days would be shorter or longer where summer time begins or ends.
with live as materialized (
    select r.run_id from longshore.workflow_runs r where r.shard = $1 and r.state in (1, 2)
), step as materialized (
    select make_interval(secs => extract(epoch from min(d.due_at) - now())::float8) as by
    from longshore.step_delayed d
    where d.shard = $1 and d.run_id in (select run_id from live) and not d.parked
        and not exists (select from longshore.step_ready s where s.shard = $1 and s.run_id in (select run_id from live))
        and not exists (select from longshore.lanes l cross join lateral unnest(l.run_ids) h(run_id)
                        where l.shard = $1 and h.run_id in (select run_id from live))
    having min(d.due_at) > now()
), waits as (
    update longshore.step_waiting w set due_at = w.due_at - s.by
    from step s
    where w.shard = $1 and w.run_id in (select run_id from live) and w.due_at is not null
)
update longshore.step_delayed d set due_at = d.due_at - s.by
from step s
where d.shard = $1 and d.run_id in (select run_id from live) and not d.parked
