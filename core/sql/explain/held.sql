-- Step jobs of a run that lanes hold, the longest held first, with the lease and the worker of each lane.
--   $1 shard   $2 run id   $3 how many to show   $4 seconds without a heartbeat after which a worker counts as gone
select count(*) over () as total,
    h.frame, h.kind, h.attempt, h.claimed_at, l.lane_id, l.expires_at,
    longshore.node_name(n.id, h.node) as node,
    w.name as worker, w.host, w.pid, w.heartbeat_at,
    coalesce(w.heartbeat_at > now() - $4 * interval '1 s', false) as worker_live
from longshore.lanes l
cross join lateral unnest(l.run_ids, l.frames, l.nodes, l.kinds, l.attempts, l.claimed_at) h(run_id, frame, node, kind, attempt, claimed_at)
left join longshore.workflow_runs r on r.shard = $1 and r.run_id = h.run_id
left join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = h.node
left join longshore.worker_lanes wl on wl.shard = l.shard and wl.lane_id = l.lane_id
left join longshore.workers w on w.worker_id = wl.worker_id
where l.shard = $1 and $2 = any (l.run_ids) and h.run_id = $2
order by h.claimed_at, h.frame, h.node
limit $3
