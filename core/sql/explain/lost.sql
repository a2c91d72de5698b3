-- Where a stuck run broke off: pending nodes all of whose predecessors have ended, and entry nodes without a step.
--   $1 version   $2 numbers of the nodes that have ended   $3 numbers of the nodes that are pending
select n.id
from longshore.workflow_nodes n
where n.version_id = $1
  and n.node = any ($3)
  and n.node not in (select e.to_node from longshore.workflow_edges e where e.version_id = $1 and e.from_node <> all ($2))
order by n.node
limit 20
