-- Steps of a run that wait for signals, or for a run, those that have waited longest first, and how many signals of these names are there that none of
-- them took, or how that run stands.
--   $1 shard   $2 run id   $3 how many to show
with mine as materialized (
    select s.since, s.due_at, s.version_id, s.frame, s.node, s.attempt, s.names, s.child_run_id
    from longshore.step_waiting s
    where s.shard = $1 and s.run_id = $2 and s.woken_at is null
)
select (select count(*) from mine) as total,
    m.frame, m.attempt, m.names, m.since, m.due_at,
    coalesce(n.id, '(node ' || m.node || ')') as node,
    (select count(*) from (
        select
        from unnest(m.names) t (name), lateral (
            select from longshore.signals g where g.shard = $1 and g.run_id = $2 and g.name = t.name and g.taken_at is null limit 1000) g
    ) c) as untaken,
    m.child_run_id, c.workflow as child_workflow, c.state as child_state
from mine m
left join longshore.workflow_nodes n on n.version_id = m.version_id and n.node = m.node
left join lateral (
    select w.name as workflow, case when r.state = 1 then 'running' else (array[null, 'paused', 'completed', 'failed', 'canceled'])[r.state] end as state
    from longshore.workflow_runs r join longshore.workflows w on w.workflow_id = r.workflow_id
    where r.shard = $1 and r.run_id = m.child_run_id offset 0) c on true
order by m.since, m.frame, m.node
limit $3
