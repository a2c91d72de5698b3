-- The runs that steps of a run started, in the order they began.
--   $1 shard   $2 run id   $3 how many
select c.run_id, w.name as workflow, v.version,
    case when c.state = 1 then 'running' else (array[null, 'paused', 'completed', 'failed', 'canceled'])[c.state] end as state,
    coalesce(n.id, '(node ' || c.parent_node || ')') as node, c.parent_frame as frame, c.parent_attempt as attempt, c.awaited
from longshore.workflow_runs c
join longshore.workflow_versions v on v.version_id = c.version_id
join longshore.workflows w on w.workflow_id = c.workflow_id
join longshore.workflow_runs p on p.shard = $1 and p.run_id = $2
left join longshore.workflow_nodes n on n.version_id = p.version_id and n.node = c.parent_node
where c.shard = $1 and c.parent_run_id = $2
order by c.run_id
limit $3
