-- Every worker that is registered, live ones first. What a lane holds is its newest baton's arrays.
--   $1 shard   $2 seconds without a heartbeat after which a worker counts as gone
with held as materialized (
    select wl.worker_id, count(*) as lanes, sum(cardinality(l.run_ids)) as held, min(l.expires_at) as lease_until
    from longshore.lanes l
    join longshore.worker_lanes wl on wl.shard = l.shard and wl.lane_id = l.lane_id
    where l.shard = $1
    group by wl.worker_id
)
select w.worker_id, w.name, w.host, w.pid, w.version, w.started_at, w.heartbeat_at,
    extract(epoch from now() - w.heartbeat_at)::float8 as heartbeat_age_seconds,
    w.heartbeat_at > now() - $2 * interval '1 s' as live,
    w.draining, w.queues, w.handlers, w.slots,
    coalesce(h.lanes, 0) as lanes, coalesce(h.held, 0)::bigint as held, h.lease_until
from longshore.workers w
left join held h on h.worker_id = w.worker_id
order by live desc, w.name, w.worker_id
