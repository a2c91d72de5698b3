-- The nodes that joins wait for, a row for each token they count.
--   $1 version   $2 numbers of the joins
-- The end of the run (node -2) is a join of its sinks and of its joins that may fire early.
select e.to_node as node, e.from_node as source
from longshore.workflow_edges e
where e.version_id = $1 and e.to_node = any ($2)
union all
select -2, n.node
from longshore.workflow_nodes n
where n.version_id = $1 and -2 = any ($2)
  and n.node not in (select e.from_node from longshore.workflow_edges e where e.version_id = $1)
union all
select -2, n.node
from longshore.workflow_nodes n
where n.version_id = $1 and -2 = any ($2) and n.join_need > 0 and n.indegree > 1
order by 1, 2
