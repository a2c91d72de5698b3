-- $1 version, then one array element a node. A child version of 0 is the version itself.
insert into longshore.workflow_nodes (version_id, node, id, type, handler, queue_id, indegree, join_need, body, on_error, child_workflow_id, child_version_id)
select $1, t.node, t.id, t.type, t.handler, (select q.queue_id from longshore.queues q where q.name = t.queue), t.indegree, t.join_need, t.body, t.on_error,
    t.child_workflow_id, case when t.child_version_id = 0 then $1 else t.child_version_id end
from unnest($2::int[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int[], $8::int[], $9::int[], $10::text[], $11::int[], $12::int[])
    t(node, id, type, handler, queue, indegree, join_need, body, on_error, child_workflow_id, child_version_id)
