-- Microseconds since the first attempt of each step was claimed that its policies count. $1 shard, $2 run ids, $3 frames, $4 nodes, $5 how many have failed since
-- these began: they began after the last end on record before those, and after the run was tried again. Asked only for retries whose policy bounds the total time; reads by key.
select t.run_id, t.frame, t.node, (extract(epoch from clock_timestamp() - f.claimed_at) * 1000000)::bigint
from unnest($2::uuid[], $3::int[], $4::int[], $5::int[]) t (run_id, frame, node, most),
    lateral (select min(a.claimed_at) as claimed_at from longshore.execution_step_attempts a
             where a.shard = $1 and a.run_id = t.run_id and a.frame = t.frame and a.node = t.node
               and a.attempt > coalesce((
                   select x.attempt from longshore.execution_step_attempts x
                   where x.shard = $1 and x.run_id = t.run_id and x.frame = t.frame and x.node = t.node and x.attempt > 0 and x.outcome in (1, 2, 4)
                   order by x.attempt desc offset t.most limit 1), 0)
               and a.claimed_at > coalesce((select r.retried_at from longshore.workflow_runs r where r.shard = $1 and r.run_id = t.run_id), '-infinity')) f
