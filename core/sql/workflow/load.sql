select v.version_id, v.workflow_id, w.name as workflow, v.version, v.definition, v.content_hash, v.published_at, v.first_queue_id,
    q.name as first_queue,
    array(select n.queue_id from longshore.workflow_nodes n where n.version_id = v.version_id order by n.node) as queue_ids,
    array(select n.node from longshore.workflow_nodes n where n.version_id = v.version_id and n.child_workflow_id is not null order by n.node) as child_nodes,
    array(select n.child_workflow_id from longshore.workflow_nodes n
        where n.version_id = v.version_id and n.child_workflow_id is not null order by n.node) as child_workflow_ids,
    array(select n.child_version_id from longshore.workflow_nodes n
        where n.version_id = v.version_id and n.child_workflow_id is not null order by n.node) as child_version_ids
from longshore.workflow_versions v
join longshore.workflows w on w.workflow_id = v.workflow_id
join longshore.queues q on q.queue_id = v.first_queue_id
where v.version_id = $1
