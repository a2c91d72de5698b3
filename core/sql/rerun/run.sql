-- The run that is to go on, or to be run anew: $1 shard, $2 run.
-- settling: its end is not settled yet, or a lane still holds a step of it.
select r.version_id, r.state, r.priority, w.name as workflow, r.input::text as input, r.key, r.parent_run_id as parent,
    exists (select from longshore.closed c where c.shard = $1 and c.run_id = $2)
        or exists (select from longshore.lanes l where l.shard = $1 and $2 = any (l.run_ids)) as settling
from longshore.workflow_runs r
join longshore.workflows w on w.workflow_id = r.workflow_id
where r.shard = $1 and r.run_id = $2
