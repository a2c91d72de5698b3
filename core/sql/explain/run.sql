-- The run as it stands, and the database's clock; no row if there is no such run.
--   $1 shard   $2 run id
select now() as now, w.name as workflow, v.version, r.version_id,
    case
        when r.state <> 1 then (array[null, 'paused', 'completed', 'failed', 'canceled'])[r.state]
        when exists (select from longshore.execution_step_attempts a where a.shard = $1 and a.run_id = $2)
            or exists (select from longshore.lanes l where l.shard = $1 and $2 = any (l.run_ids)) then 'running'
        else 'queued'
    end as state,
    r.created_at, r.run_at, r.finished_at, r.error,
    r.state >= 3 and exists (
        select from longshore.frames f
        where f.shard = $1 and f.run_id = $2 and (f.shield = f.frame and f.state = 1 or f.cleanup > 0 and f.state <> 1
            and exists (select from longshore.closed c where c.shard = $1 and c.run_id = $2)
            and not exists (select from longshore.frames y where y.shard = $1 and y.run_id = $2 and y.parent = f.frame and y.shield = y.frame))) as cleans_up,
    case when r.state = 2 then p.paused_at end as paused_at, case when r.state = 2 then p.why end as paused_because
from longshore.workflow_runs r
join longshore.workflow_versions v on v.version_id = r.version_id
join longshore.workflows w on w.workflow_id = r.workflow_id
left join longshore.pauses p on p.shard = r.shard and p.run_id = r.run_id
where r.shard = $1 and r.run_id = $2
