-- Every recorded attempt of a run, in the order they ended; skips too (attempt 0).
--   $1 shard   $2 run id
-- Nodes such as (start) and (end) are the engine's own; no id of a definition can hold parentheses.
select a.frame, a.node as number,
    longshore.node_name(n.id, a.node) as node,
    a.attempt, a.outcome, a.enqueued_at, a.claimed_at, a.finished_at,
    a.duration_ms, a.lane_id, w.name as worker, a.output, a.error
from longshore.workflow_runs r
join longshore.execution_step_attempts a on a.shard = $1 and a.run_id = $2
left join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node
left join longshore.worker_lanes wl on wl.shard = $1 and wl.lane_id = a.lane_id
left join longshore.workers w on w.worker_id = wl.worker_id
where r.shard = $1 and r.run_id = $2
order by a.finished_at, a.node, a.frame, a.attempt
