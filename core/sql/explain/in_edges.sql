-- The nodes that joins wait for, a row for each token they count.
--   $1 version   $2 numbers of the joins   $3 bodies whose end is one of them
-- The end of a graph (node -2) is a join of its sinks and of its joins that may fire early.
select n.body, e.to_node as node, e.from_node as source
from longshore.workflow_edges e
join longshore.workflow_nodes n on n.version_id = e.version_id and n.node = e.to_node
where e.version_id = $1 and e.to_node = any ($2)
union all
select n.body, -2, n.node
from longshore.workflow_nodes n
where n.version_id = $1 and n.body = any ($3)
  and n.node not in (select e.from_node from longshore.workflow_edges e where e.version_id = $1)
union all
select n.body, -2, n.node
from longshore.workflow_nodes n
where n.version_id = $1 and n.body = any ($3) and n.join_need > 0 and n.indegree > 1
order by 1, 2, 3
