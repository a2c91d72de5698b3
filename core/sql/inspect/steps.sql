-- Where each node of a run stands, in the order of the definition; no rows if there is no such run.
--   $1 shard   $2 run id
-- A step's home (ready, delayed, a lane's arrays) says its state; without one its latest attempt does; without any it is pending. In a run
-- that ended, a step that is still queued is canceled: it will be dropped when it is claimed.
with run as materialized (
    select r.version_id, r.state >= 3 as ended, greatest(r.created_at, r.run_at) as began
    from longshore.workflow_runs r
    where r.shard = $1 and r.run_id = $2
), latest as materialized (
    select distinct on (a.frame, a.node) a.frame, a.node, a.attempt, a.outcome, a.lane_id, a.claimed_at, a.finished_at, a.duration_ms, a.error
    from longshore.execution_step_attempts a
    where a.shard = $1 and a.run_id = $2 and a.node >= 0
    order by a.frame, a.node, a.attempt desc
), homes as materialized (
    select s.frame, s.node, 'ready' as state, s.attempt, longshore.seq_time(s.seq) as since, null::timestamptz as until, null::bigint as lane_id
    from longshore.step_ready s
    where s.shard = $1 and s.run_id = $2 and s.kind in (0, 3) and s.node >= 0
    union all
    select s.frame, s.node, 'delayed', s.attempt, null, s.due_at, null
    from longshore.step_delayed s
    where s.shard = $1 and s.run_id = $2 and s.kind in (0, 3) and s.node >= 0
    union all
    select h.frame, h.node, 'running', h.attempt, h.claimed_at, l.expires_at, l.lane_id
    from longshore.lanes l
    cross join lateral unnest(l.run_ids, l.frames, l.nodes, l.kinds, l.attempts, l.claimed_at) h(run_id, frame, node, kind, attempt, claimed_at)
    where l.shard = $1 and h.run_id = $2 and h.kind in (0, 3) and h.node >= 0
), known as (
    select frame, node, h.state as home, coalesce(h.attempt, e.attempt) as attempt, h.since, h.until, coalesce(h.lane_id, e.lane_id) as lane_id,
        e.outcome, e.finished_at, e.duration_ms, e.error
    from homes h
    full join latest e using (frame, node)
)
select coalesce(k.frame, 0) as frame, n.node as number, n.id as node, n.type, n.handler, q.name as queue,
    case
        when k.node is null then 'pending'
        when run.ended and k.home in ('ready', 'delayed') then 'canceled'
        else coalesce(k.home, (array['completed', 'failed', 'failed', 'canceled', 'skipped', 'canceled'])[k.outcome])
    end as state,
    coalesce(k.attempt, 0) as attempts,
    coalesce(k.since, k.finished_at, case when k.node is not null then run.began end) as since,
    k.until,
    w.name as worker,
    case when k.home is null then k.duration_ms end as duration_ms,
    case when k.outcome <> 1 then k.error end as error
from run
join longshore.workflow_nodes n on n.version_id = run.version_id
join longshore.queues q on q.queue_id = n.queue_id
left join known k on k.node = n.node
left join longshore.worker_lanes wl on wl.shard = $1 and wl.lane_id = k.lane_id
left join longshore.workers w on w.worker_id = wl.worker_id
order by 1, n.node
