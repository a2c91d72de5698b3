-- Microseconds since the first attempt of each step was claimed, or the first since its run was tried again. $1 shard, $2 run ids, $3 frames, $4 nodes.
-- Asked only for retries whose policy bounds the total time; reads by key.
select t.run_id, t.frame, t.node,
    (select (extract(epoch from clock_timestamp() - a.claimed_at) * 1000000)::bigint from longshore.execution_step_attempts a
     where a.shard = $1 and a.run_id = t.run_id and a.frame = t.frame and a.node = t.node and a.attempt > 0
       and a.claimed_at > coalesce((select r.retried_at from longshore.workflow_runs r where r.shard = $1 and r.run_id = t.run_id), '-infinity')
     order by a.attempt limit 1)
from unnest($2::uuid[], $3::int[], $4::int[]) t (run_id, frame, node)
