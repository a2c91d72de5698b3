-- Promises 1 and 8: no wait and no signal miss each other. Found, in live runs that are not paused: waits that ask nothing of a signal but its name
-- although one of that name is there untaken, was sent and announced over 75 s ago, and no step job of the run is there to look for it; waits whose
-- time was over 75 s ago and that no step job is there to end.
with jobs as (
    select s.shard, s.run_id, s.frame, s.node, s.attempt from longshore.step_ready s where s.node in (-7, -8, -9)
    union all
    select s.shard, s.run_id, s.frame, s.node, s.attempt from longshore.step_delayed s where s.node in (-7, -8, -9)
    union all
    select l.shard, h.run_id, h.frame, h.node, h.attempt
    from longshore.lanes l cross join lateral unnest(l.run_ids, l.frames, l.nodes, l.attempts) h(run_id, frame, node, attempt)
    where h.node in (-7, -8, -9)
), waits as (
    select w.shard, w.run_id, w.frame, w.node, w.since, w.names, w.due_at, w.picky
    from longshore.step_waiting w
    join longshore.workflow_runs r on r.shard = w.shard and r.run_id = w.run_id and r.state = 1
    where w.woken_at is null and not exists (select from longshore.closed c where c.shard = w.shard and c.run_id = w.run_id)
), broken as materialized (
    select format('run %s frame %s node %s waits for %s, which was sent at %s', w.run_id, w.frame, w.node, g.name, g.sent_at) as example
    from waits w
    join longshore.signals g on g.shard = w.shard and g.run_id = w.run_id and g.taken_at is null and g.name = any (w.names)
    where not w.picky and greatest(w.since, g.sent_at) < now() - interval '75 s'
      and not exists (select from jobs j where j.shard = w.shard and j.run_id = w.run_id
                      and (j.node = -7 or j.node = -8 and j.frame = w.frame and j.attempt = w.node))
    union all
    select format('run %s frame %s node %s waits, though its time was over at %s', w.run_id, w.frame, w.node, w.due_at)
    from waits w
    where w.due_at < now() - interval '75 s'
      and not exists (select from jobs j where j.shard = w.shard and j.run_id = w.run_id and j.node = -9 and j.frame = w.frame and j.attempt = w.node)
)
select (select count(*) from broken) as found, array(select b.example from broken b order by b.example limit 5) as examples
