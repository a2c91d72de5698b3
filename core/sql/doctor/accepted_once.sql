-- Promise 2: one attempt of a step is accepted. Found: steps with two completed attempts, with an attempt after the completed one, or, in a
-- live run, completed and still to be run.
with homes as (
    select s.shard, s.run_id, s.frame, s.node, s.kind from longshore.step_ready s
    union all
    select s.shard, s.run_id, s.frame, s.node, s.kind from longshore.step_delayed s
    union all
    select w.shard, w.run_id, w.frame, w.node, 0 from longshore.step_waiting w where w.woken_at is null
    union all
    select l.shard, h.run_id, h.frame, h.node, h.kind
    from longshore.lanes l cross join lateral unnest(l.run_ids, l.frames, l.nodes, l.kinds) h(run_id, frame, node, kind)
), broken as materialized (
    select format('run %s frame %s node %s: %s of %s attempts completed, the first is attempt %s',
        a.run_id, a.frame, a.node, count(*) filter (where a.outcome = 1), count(*), min(a.attempt) filter (where a.outcome = 1)) as example
    from longshore.execution_step_attempts a
    group by a.shard, a.run_id, a.frame, a.node
    having count(*) filter (where a.outcome = 1) > 1
        or max(a.attempt) > max(a.attempt) filter (where a.outcome = 1)
    union all
    select format('run %s frame %s node %s: completed by attempt %s, and still to be run', a.run_id, a.frame, a.node, a.attempt)
    from longshore.execution_step_attempts a
    join longshore.workflow_runs r on r.shard = a.shard and r.run_id = a.run_id
    join homes h on h.shard = a.shard and h.run_id = a.run_id and h.frame = a.frame and h.node = a.node
    where a.outcome = 1 and r.state in (1, 2) and h.kind in (0, 1, 3)
)
select (select count(*) from broken) as found, array(select b.example from broken b order by b.example limit 5) as examples
