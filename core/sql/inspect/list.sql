-- Runs, the newest first: run ids are ordered by time, so this walks the primary key backward and stops at the limit.
--   $1 shard   $2 workflow name, or null   $3 state, or null   $4 limit   $5 only runs before this run id, or null
-- A live run is queued until a step of it is held or has an attempt. A filter that few runs pass reads as far back as it must.
with held as materialized (
    select distinct h.run_id
    from longshore.lanes l
    cross join lateral unnest(l.run_ids) h(run_id)
    where l.shard = $1
), page as materialized (
    select r.shard, r.run_id, s.state
    from longshore.workflow_runs r
    cross join lateral (
        select case
            when r.state <> 1 then (array[null, 'paused', 'completed', 'failed', 'canceled'])[r.state]
            when exists (select from longshore.execution_step_attempts a where a.shard = $1 and a.run_id = r.run_id)
                or r.run_id in (select h.run_id from held h) then 'running'
            else 'queued'
        end) s(state)
    where r.shard = $1
      and r.run_id < coalesce($5::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
      and ($2::text is null or r.workflow_id = (select w.workflow_id from longshore.workflows w where w.name = $2))
      and ($3::text is null or s.state = $3)
    order by r.run_id desc
    limit $4
)
select r.run_id, w.name as workflow, v.version, p.state, r.priority, r.key, r.created_at, r.run_at, r.finished_at,
    extract(epoch from coalesce(r.finished_at, now()) - greatest(r.created_at, r.run_at))::float8 as seconds,
    r.error ->> 'name' as error
from page p
join longshore.workflow_runs r on r.shard = p.shard and r.run_id = p.run_id
join longshore.workflow_versions v on v.version_id = r.version_id
join longshore.workflows w on w.workflow_id = r.workflow_id
order by p.run_id desc
