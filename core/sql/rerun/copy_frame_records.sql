-- All that is on record of frames which a new run takes over, each node as one attempt: $1 shard, $2 the new run, $3 the other, $4 frames.
insert into longshore.execution_step_attempts (shard, run_id, frame, node, attempt, outcome, lane_id, finished_at, output, error)
select distinct on (x.frame, x.node) $1, $2, x.frame, x.node, case when x.outcome = 5 then 0 else 1 end, x.outcome, 0, now(), x.output, x.error
from longshore.execution_step_attempts x
where x.shard = $1 and x.run_id = $3 and x.frame = any ($4)
order by x.frame, x.node, x.attempt desc
