-- Joins of a run that have begun to count and still miss in-edges, with the nodes those edges come from.
--   $1 shard   $2 run id   $3 version
-- The end of the run (node -2) is a join of its sinks and of its joins that may fire early.
with outs as (
    select distinct e.from_node as node
    from longshore.workflow_edges e
    where e.version_id = $3
), sources as (
    select e.to_node as node, e.from_node as source
    from longshore.workflow_edges e
    where e.version_id = $3
    union all
    select -2, n.node
    from longshore.workflow_nodes n
    where n.version_id = $3 and n.node not in (select o.node from outs o)
    union all
    select -2, n.node
    from longshore.workflow_nodes n
    where n.version_id = $3 and n.join_need > 0 and n.indegree > 1
)
select j.frame, j.node as number, coalesce(n.id, '(end)') as node, coalesce(n.join_need, 0) as need, j.resolved, j.taken,
    count(s.source)::int as in_edges, coalesce(array_agg(distinct s.source) filter (where s.source is not null), '{}') as sources
from longshore.step_joins j
left join longshore.workflow_nodes n on n.version_id = $3 and n.node = j.node
left join sources s on s.node = j.node
where j.shard = $1 and j.run_id = $2
group by j.frame, j.node, n.id, n.join_need, j.resolved, j.taken
having j.resolved < count(s.source)
order by j.frame, j.node = -2, j.node
