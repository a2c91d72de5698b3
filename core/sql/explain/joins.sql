-- What the joins of a run have counted.
--   $1 shard   $2 run id   $3 version
select j.frame, j.node as number, coalesce(n.id, '(end)') as node, coalesce(n.join_need, 0) as need, j.resolved, j.taken
from longshore.step_joins j
left join longshore.workflow_nodes n on n.version_id = $3 and n.node = j.node
where j.shard = $1 and j.run_id = $2
order by j.frame, j.node = -2, j.node
