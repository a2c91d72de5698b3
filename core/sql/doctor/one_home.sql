-- Promise 2: a step has one home, or two lanes would run it. Found: step jobs that are in two places at once. A node may have step jobs of
-- different purpose: one that decides it (kinds 0, 1, 3), one that says a join is whole (2), one that spreads its consequences (4).
with homes as (
    select s.shard, s.run_id, s.frame, s.node, s.kind, 'ready' as place from longshore.step_ready s
    union all
    select s.shard, s.run_id, s.frame, s.node, s.kind, 'delayed' from longshore.step_delayed s
    union all
    select l.shard, h.run_id, h.frame, h.node, h.kind, 'lane ' || l.lane_id
    from longshore.lanes l cross join lateral unnest(l.run_ids, l.frames, l.nodes, l.kinds) h(run_id, frame, node, kind)
    union all                                                    -- a wait, until it is woken
    select w.shard, w.run_id, w.frame, w.node, 0, 'waiting' from longshore.step_waiting w where w.woken_at is null
    union all                                                    -- a block is where the frame is that stands for it
    select f.shard, f.run_id, f.parent, f.node, 0, 'frame ' || f.frame from longshore.frames f where f.whole and f.state = 1
), broken as materialized (
    select format('run %s frame %s node %s: %s', h.run_id, h.frame, h.node, string_agg(h.place, ', ' order by h.place)) as example
    from homes h
    -- several steps of one block may open more of it, or say what follows one of its bodies; several of one wait may look for a signal
    where h.node > -4
    group by h.shard, h.run_id, h.frame, h.node, case when h.kind in (0, 1, 3) then 0 else h.kind end
    having count(*) > 1
)
select (select count(*) from broken) as found, array(select b.example from broken b order by b.example limit 5) as examples
