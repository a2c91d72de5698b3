-- How each node of the run's own graph ended, by its last attempt: $1 shard, $2 run.
select distinct on (a.node) a.node, a.attempt, a.outcome, a.output::text as output, a.error::text as error
from longshore.execution_step_attempts a
where a.shard = $1 and a.run_id = $2 and a.frame = 0
order by a.node, a.attempt desc
