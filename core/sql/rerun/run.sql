-- The run that is to go on, or to be run anew: $1 shard, $2 run.
-- bound_to_parent: it was to end with the run that started it, or with the step that waits for it. settling: its end is not settled yet, or a lane still holds a step of it.
select r.version_id, r.state, r.priority, w.name as workflow, r.input::text as input, r.key, r.parent_run_id as parent,
    r.close_policy is not distinct from 1 and (r.awaited or not exists (select from longshore.workflow_runs p
        where p.shard = $1 and p.run_id = r.parent_run_id and p.state in (1, 2))) as bound_to_parent,
    exists (select from longshore.closed c where c.shard = $1 and c.run_id = $2)
        or exists (select from longshore.lanes l where l.shard = $1 and $2 = any (l.run_ids)) as settling
from longshore.workflow_runs r
join longshore.workflows w on w.workflow_id = r.workflow_id
where r.shard = $1 and r.run_id = $2
