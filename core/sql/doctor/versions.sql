-- Every published version with its nodes and edges as the definition should give them.
select format('%s version %s', w.name, v.version) as version, w.name as workflow, v.definition, v.content_hash, v.first_node, f.name as first_queue,
    (select coalesce(jsonb_agg(jsonb_build_array(n.node, n.id, n.type, n.handler, q.name, n.indegree, n.join_need) order by n.node), '[]')
     from longshore.workflow_nodes n
     join longshore.queues q on q.queue_id = n.queue_id
     where n.version_id = v.version_id) as nodes,
    (select coalesce(jsonb_agg(jsonb_build_array(e.edge, e.from_node, e.to_node, e.on_outcome, e.condition) order by e.edge), '[]')
     from longshore.workflow_edges e
     where e.version_id = v.version_id) as edges
from longshore.workflow_versions v
join longshore.workflows w on w.workflow_id = v.workflow_id
join longshore.queues f on f.queue_id = v.first_queue_id
order by v.version_id
