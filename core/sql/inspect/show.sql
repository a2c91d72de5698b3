-- One run with its payloads; no row if there is none.
--   $1 shard   $2 run id
select r.run_id, w.name as workflow, v.version,
    case
        when r.state <> 1 then (array[null, 'paused', 'completed', 'failed', 'canceled'])[r.state]
        when exists (select from longshore.execution_step_attempts a where a.shard = $1 and a.run_id = $2)
            or exists (select from longshore.lanes l where l.shard = $1 and $2 = any (l.run_ids)) then 'running'
        else 'queued'
    end as state,
    r.priority, r.key, r.created_at, r.run_at, r.finished_at,
    extract(epoch from coalesce(r.finished_at, now()) - greatest(r.created_at, r.run_at))::float8 as seconds,
    r.error ->> 'name' as error, r.input, r.output, r.error as error_detail, r.parent_run_id,
    case when r.mocks is null then 'live' else 'test' end as mode
from longshore.workflow_runs r
join longshore.workflow_versions v on v.version_id = r.version_id
join longshore.workflows w on w.workflow_id = r.workflow_id
where r.shard = $1 and r.run_id = $2
