-- $1 shard, $2 run. A live run is queued while its first step job still lies where the start put it.
select r.run_id, w.name as workflow, v.version, r.state, r.priority, r.key, r.parent_run_id as parent, r.created_at, r.run_at, r.finished_at,
    r.input::text as input, r.output::text as output, r.error::text as error,
    r.state = 1
        and not exists (select from longshore.execution_step_attempts a where a.shard = $1 and a.run_id = $2)
        and (exists (select from longshore.step_ready s where s.shard = $1 and s.run_id = $2)
            or exists (select from longshore.step_delayed d where d.shard = $1 and d.run_id = $2)) as queued
from longshore.workflow_runs r
join longshore.workflow_versions v on v.version_id = r.version_id
join longshore.workflows w on w.workflow_id = r.workflow_id
where r.shard = $1 and r.run_id = $2
