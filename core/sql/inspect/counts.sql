-- Steps of runs by state, one row for each run that exists. Nodes of a body count in each of its instances: all of them while that is live, then those
-- that came to something. Every table but lanes (a few rows) is read by its index, run by run: the laterals
-- keep the planner from joining the array to a whole table.
--   $1 shard   $2 run ids
with held as materialized (
    select h.run_id, h.frame, h.node
    from longshore.lanes l
    cross join lateral unnest(l.run_ids, l.frames, l.nodes, l.kinds) h(run_id, frame, node, kind)
    where l.shard = $1 and h.run_id = any ($2) and h.kind in (0, 3) and h.node >= 0
)
select u.run_id,
    (s.known + i.nodes - s.placed)::bigint as nodes, s.known, s.ready, s.delayed, s.waiting, s.running, s.completed, s.failed, s.skipped, s.canceled
from unnest($2::uuid[]) u(run_id)
cross join lateral (
    select w.version_id, w.state
    from longshore.workflow_runs w
    where w.shard = $1 and w.run_id = u.run_id
    offset 0
) r
cross join lateral (                                              -- the graphs whose nodes are all to come to something
    select sum(b.nodes) as nodes, array_agg(b.frame) filter (where b.frame > 0) as live,
        coalesce(array_agg(b.frame) filter (where b.shield is not null), '{}') as spared
    from (
        select 0 as frame, null::int as shield, (select count(*) from longshore.workflow_nodes n where n.version_id = r.version_id and n.body = 0) as nodes
        union all
        select f.frame, f.shield, (select count(*) from longshore.workflow_nodes n where n.version_id = r.version_id and n.body = f.body)
        from longshore.frames f
        where f.shard = $1 and f.run_id = u.run_id and f.state = 1 and f.body is not null
    ) b
) i
cross join lateral (
    select count(*) as known, count(*) filter (where x.frame = 0 or x.frame = any (i.live)) as placed,
        count(*) filter (where x.state = 11 and (r.state < 3 or x.frame = any (i.spared))) as ready,
        count(*) filter (where x.state = 12 and (r.state < 3 or x.frame = any (i.spared))) as delayed,
        count(*) filter (where x.state = 15 and (r.state < 3 or x.frame = any (i.spared))) as waiting,
        count(*) filter (where x.state = 13 or x.state = 14 and (r.state < 3 or x.frame = any (i.spared))) as running,
        count(*) filter (where x.state = 1) as completed,
        count(*) filter (where x.state in (2, 3)) as failed,
        count(*) filter (where x.state = 5) as skipped,
        count(*) filter (where x.state in (4, 6) or x.state in (11, 12, 14, 15) and r.state >= 3 and x.frame <> all (i.spared)) as canceled
    from (
        select distinct on (y.frame, y.node) y.frame, y.node, y.state
        from (                                                    -- a home (attempt beyond any) comes before the latest attempt
            select a.frame, a.node, a.attempt, a.outcome as state
            from longshore.execution_step_attempts a
            where a.shard = $1 and a.run_id = u.run_id and a.node >= 0
            union all
            select t.frame, t.node, 2147483647, 11
            from longshore.step_ready t
            where t.shard = $1 and t.run_id = u.run_id and t.kind in (0, 3) and t.node >= 0
            union all
            select t.frame, t.node, 2147483647, 12
            from longshore.step_delayed t
            where t.shard = $1 and t.run_id = u.run_id and t.kind in (0, 3) and t.node >= 0
            union all
            select t.frame, t.node, 2147483647, 15
            from longshore.step_waiting t
            where t.shard = $1 and t.run_id = u.run_id and t.woken_at is null
            union all
            select h.frame, h.node, 2147483647, 13
            from held h
            where h.run_id = u.run_id
            union all                                             -- blocks: live, canceled, or ended and about to be recorded
            select f.parent, f.node, case when f.state = 1 then 2147483647 else f.attempt end, case f.state when 5 then 4 else 14 end
            from longshore.frames f
            where f.shard = $1 and f.run_id = u.run_id and f.whole
        ) y
        order by y.frame, y.node, y.attempt desc, y.state
    ) x
) s
