insert into longshore.workflow_versions (workflow_id, version, definition, content_hash, first_node, first_queue_id)
values ($1, $2, $3::jsonb, $4, $5, (select queue_id from longshore.queues where name = $6))
returning version_id
