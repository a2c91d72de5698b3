-- What each lane holds, one row a step: who runs what, since when, until when its lease stands.
create view longshore.step_leases as
select l.shard, l.lane_id, l.cycle, l.expires_at, w.worker_id, k.name as worker, h.run_id, h.frame, h.node, h.kind, h.attempt, h.claimed_at
from longshore.lanes l
cross join lateral unnest(l.run_ids, l.frames, l.nodes, l.kinds, l.attempts, l.claimed_at) h(run_id, frame, node, kind, attempt, claimed_at)
left join longshore.worker_lanes w on w.shard = l.shard and w.lane_id = l.lane_id
left join longshore.workers k on k.worker_id = w.worker_id;

-- The state of every step that has one. A step has exactly one home (ready, delayed, a lane's baton) or, once it ended, its latest attempt.
-- since: when it came to that home, or when it finished; until: when it is due, or when its lease expires.
-- One sort, no join of homes and attempts: a plan made on empty tables would loop over them (13 s for one run of 10,000 nodes).
create view longshore.execution_steps as
select distinct on (s.shard, s.run_id, s.frame, s.node) s.shard, s.run_id, s.frame, s.node, s.state, s.attempt, s.since, s.until
from (
    select shard, run_id, frame, node, 'ready'::text as state, attempt, longshore.seq_time(seq) as since, null::timestamptz as until, true as home
    from longshore.step_ready where kind in (0, 3)
    union all
    select shard, run_id, frame, node, 'delayed', attempt, null, due_at, true
    from longshore.step_delayed where kind in (0, 3)
    union all
    select shard, run_id, frame, node, 'running', attempt, claimed_at, expires_at, true
    from longshore.step_leases where kind in (0, 3)
    union all
    select shard, run_id, frame, node, (array['completed', 'failed', 'failed', 'canceled', 'skipped', 'canceled'])[outcome], attempt, finished_at, null, false
    from longshore.execution_step_attempts
) s
where s.node >= 0
order by s.shard, s.run_id, s.frame, s.node, s.home desc, s.attempt desc;
