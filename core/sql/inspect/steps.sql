-- Where each node of a run stands, in the order of the definition; no rows if there is no such run.
--   $1 shard   $2 run id
-- A step's home (ready, delayed, waiting, a lane's arrays) says its state; without one its latest attempt does; without any it is pending. In a run
-- that ended, a step that is still queued is canceled, but for those of a `finally`: it will be dropped when it is claimed.
-- A block whose instance is live is running, and canceled where that was. Nodes of a body are pending in its live instances alone.
-- The nodes come in by union, not by a join: a join of two sets without an index, both believed small, would loop over 10,000 nodes squared.
with run as materialized (
    select r.version_id, r.state >= 3 as ended, greatest(r.created_at, r.run_at) as began
    from longshore.workflow_runs r
    where r.shard = $1 and r.run_id = $2
), frames as materialized (
    select f.frame, f.parent, f.node, f.attempt, f.whole, f.body, f.state, f.shield, f.created_at, f.finished_at
    from longshore.frames f
    where f.shard = $1 and f.run_id = $2
), latest as materialized (
    select distinct on (a.frame, a.node) a.frame, a.node, a.attempt, a.outcome, a.lane_id, a.finished_at, a.duration_ms, a.error
    from (
        select a.frame, a.node, a.attempt, a.outcome, a.lane_id, a.finished_at, a.duration_ms, a.error
        from longshore.execution_step_attempts a
        where a.shard = $1 and a.run_id = $2 and a.node >= 0
        union all
        select f.parent, f.node, f.attempt, case when f.state = 5 then 4::smallint end, null, f.finished_at, null, null
        from frames f
        where f.whole and f.state <> 1
    ) a
    order by a.frame, a.node, a.attempt desc, a.outcome nulls last, a.lane_id nulls last
), homes as materialized (
    select s.frame, s.node, 'ready' as state, s.attempt, longshore.seq_time(s.seq) as since, null::timestamptz as until, null::bigint as lane_id
    from longshore.step_ready s
    where s.shard = $1 and s.run_id = $2 and s.kind in (0, 3) and s.node >= 0
    union all
    select s.frame, s.node, 'delayed', s.attempt, null, s.due_at, null
    from longshore.step_delayed s
    where s.shard = $1 and s.run_id = $2 and s.kind in (0, 3) and s.node >= 0
    union all
    select s.frame, s.node, 'waiting', s.attempt, s.since, s.due_at, null
    from longshore.step_waiting s
    where s.shard = $1 and s.run_id = $2 and s.woken_at is null
    union all
    select h.frame, h.node, 'running', h.attempt, h.claimed_at, l.expires_at, l.lane_id
    from longshore.lanes l
    cross join lateral unnest(l.run_ids, l.frames, l.nodes, l.kinds, l.attempts, l.claimed_at) h(run_id, frame, node, kind, attempt, claimed_at)
    where l.shard = $1 and h.run_id = $2 and h.kind in (0, 3) and h.node >= 0
    union all
    select f.parent, f.node, 'open', f.attempt, f.created_at, null, null
    from frames f
    where f.whole and f.state = 1
    union all                                                     -- its end is about to be recorded
    select e.frame, e.node, 'open', e.attempt, e.finished_at, null, null
    from latest e
    where e.outcome is null
), known as (                                                    -- a step has at most a home and a latest attempt, so max() is the one value
    select x.frame, x.node, max(x.home) as home, coalesce(max(x.attempt) filter (where x.home is not null), max(x.attempt)) as attempt,
        max(x.since) as since, max(x.until) as until,
        coalesce(max(x.lane_id) filter (where x.home is not null), max(x.lane_id)) as lane_id,
        max(x.outcome) as outcome, max(x.finished_at) as finished_at, max(x.duration_ms) as duration_ms, max(x.error) as error
    from (
        select h.frame, h.node, h.state as home, h.attempt, h.since, h.until, h.lane_id,
            null::smallint as outcome, null::timestamptz as finished_at, null::real as duration_ms, null::text as error
        from homes h
        union all
        select e.frame, e.node, null, e.attempt, null, null, e.lane_id, e.outcome, e.finished_at, e.duration_ms, e.error::text
        from latest e
        where e.outcome is not null
        union all
        select i.frame, n.node, null, null, null, null, null, null, null, null, null
        from (select 0 as frame, 0 as body union all select f.frame, f.body from frames f where f.state = 1 and f.body is not null) i
        join longshore.workflow_nodes n on n.version_id = (select version_id from run) and n.body = i.body
    ) x
    group by x.frame, x.node
)
select k.frame, n.node as number, n.id as node, n.type, n.handler, q.name as queue,
    case
        when k.home is null and k.outcome is null then 'pending'
        when run.ended and k.home in ('ready', 'delayed', 'waiting', 'open')
            and k.frame not in (select f.frame from frames f where f.shield is not null and f.state = 1) then 'canceled'
        when k.home = 'open' then 'running'
        else coalesce(k.home, (array['completed', 'failed', 'failed', 'canceled', 'skipped', 'canceled'])[k.outcome])
    end as state,
    coalesce(k.attempt, 0) as attempts,
    coalesce(k.since, k.finished_at, case when k.home is not null then run.began end) as since,
    k.until,
    w.name as worker,
    case when k.home is null then k.duration_ms end as duration_ms,
    case when k.outcome <> 1 then k.error::jsonb end as error
from run
cross join known k
join longshore.workflow_nodes n on n.version_id = run.version_id and n.node = k.node
join longshore.queues q on q.queue_id = n.queue_id
left join longshore.worker_lanes wl on wl.shard = $1 and wl.lane_id = k.lane_id
left join longshore.workers w on w.worker_id = wl.worker_id
order by k.frame, n.node
