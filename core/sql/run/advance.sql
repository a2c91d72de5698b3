-- Move the clock of a run in test mode, and of the runs that it started, on: $1 shard, $2 run, $3 by how many microseconds (null: to the next timer).
-- All their timers come nearer by as much, so that they keep their order; a wait names its timer by its time, so that moves along. Nothing happens to any
-- other run. No row if there is none.
with recursive family as (
    select r.run_id from longshore.workflow_runs r where r.shard = $1 and r.run_id = $2 and r.mocks is not null
    union all
    select c.run_id from family f, lateral (select r.run_id from longshore.workflow_runs r where r.shard = $1 and r.parent_run_id = f.run_id offset 0) c
), step as materialized (
    select coalesce($3::bigint * interval '1 microsecond',
        (select make_interval(secs => greatest(extract(epoch from min(d.due_at) - now()), 0)::float8)
         from family f, lateral (select x.due_at from longshore.step_delayed x where x.shard = $1 and x.run_id = f.run_id and not x.parked offset 0) d)) as by
), waits as (
    update longshore.step_waiting w set due_at = w.due_at - s.by
    from step s
    where w.shard = $1 and w.run_id = any (array(select f.run_id from family f)) and w.due_at is not null
), timers as (
    update longshore.step_delayed d set due_at = d.due_at - s.by
    from step s
    where d.shard = $1 and d.run_id = any (array(select f.run_id from family f)) and not d.parked
    returning d.due_at
)
select r.mocks is not null as test, (select count(*) from timers) as timers
from longshore.workflow_runs r
where r.shard = $1 and r.run_id = $2
