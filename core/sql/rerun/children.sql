-- The runs that steps of a run waited for, the newest of each step last: $1 shard, $2 run.
select r.run_id, r.parent_frame, r.parent_node, r.parent_attempt, r.state
from longshore.workflow_runs r
where r.shard = $1 and r.parent_run_id = $2 and r.awaited
order by r.parent_attempt
