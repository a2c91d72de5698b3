-- A step waits again for the run that it had started: $1 shard, $2 run, $3 version, $4 priority, $5 frame, $6 node, $7 attempt, $8 its queue, $9 the child,
-- $10 how long at most, in microseconds, if that is bounded, $11 the queue of the step job that ends the wait then.
with child as (
    update longshore.workflow_runs r set parent_attempt = $7 where r.shard = $1 and r.run_id = $9
), timer as (
    insert into longshore.step_delayed (shard, due_at, queue_id, priority, run_id, version_id, frame, node, kind, attempt)
    select $1, now() + $10::bigint * interval '1 microsecond', $11, $4, $2, $3, $5, -9, 4, $6 where $10::bigint is not null
    returning due_at, seq
)
insert into longshore.step_waiting (shard, run_id, frame, node, attempt, version_id, queue_id, priority, failed, names, picky, due_at, timer_seq, child_run_id)
select $1, $2, $5, $6, $7, $3, $8, $4, 0, '{}', false, t.due_at, t.seq, $9
from (values (1)) one (one) left join timer t on true
