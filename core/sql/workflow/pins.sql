-- Which workflows the nodes of a version start, and which versions of them.
select n.node, n.child_workflow_id, n.child_version_id
from longshore.workflow_nodes n
where n.version_id = $1 and n.child_workflow_id is not null
