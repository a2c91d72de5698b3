-- What the new run takes over, each as one attempt: $1 shard, $2 the new run, $3 the other, $4 frames, $5 nodes of the other in these, $6 their numbers in the
-- new version.
insert into longshore.execution_step_attempts (shard, run_id, frame, node, attempt, outcome, lane_id, finished_at, output, error)
select $1, $2, t.frame, t.node, case when a.outcome = 5 then 0 else 1 end, a.outcome, 0, now(), a.output, a.error
from unnest($4::int[], $5::int[], $6::int[]) t (frame, old_node, node)
cross join lateral (
    select x.outcome, x.output, x.error from longshore.execution_step_attempts x
    where x.shard = $1 and x.run_id = $3 and x.frame = t.frame and x.node = t.old_node
    order by x.attempt desc limit 1) a
