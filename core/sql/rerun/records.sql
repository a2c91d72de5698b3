-- How each node of these frames ended, by its last attempt: $1 shard, $2 run, $3 frames; 0 is the run's own graph.
select distinct on (a.frame, a.node) a.frame, a.node, a.attempt, a.outcome, a.output::text as output, a.error::text as error
from longshore.execution_step_attempts a
where a.shard = $1 and a.run_id = $2 and a.frame = any ($3)
order by a.frame, a.node, a.attempt desc
