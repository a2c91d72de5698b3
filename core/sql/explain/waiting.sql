-- Steps of a run that wait for signals, those that have waited longest first, and how many signals of these names are there that none of them took.
--   $1 shard   $2 run id   $3 how many to show
with mine as materialized (
    select s.since, s.due_at, s.version_id, s.frame, s.node, s.attempt, s.names
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
    ) c) as untaken
from mine m
left join longshore.workflow_nodes n on n.version_id = m.version_id and n.node = m.node
order by m.since, m.frame, m.node
limit $3
