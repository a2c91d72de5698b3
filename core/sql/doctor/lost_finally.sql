-- Promise 1: a `try` that was cut off comes to its `finally`. Found: such that have not begun it, with nothing closed around them that settling would
-- still look at, and without the step job (node -11) that begins it.
with jobs as (
    select s.shard, s.run_id, s.frame from longshore.step_ready s where s.node = -11
    union all
    select s.shard, s.run_id, s.frame from longshore.step_delayed s where s.node = -11
    union all
    select l.shard, h.run_id, h.frame from longshore.lanes l cross join lateral unnest(l.run_ids, l.frames, l.nodes) h(run_id, frame, node) where h.node = -11
), broken as materialized (
    select format('run %s frame %s, begun %s: %s', f.run_id, f.frame, f.created_at, n.id) as example
    from longshore.frames f
    join longshore.workflow_runs r on r.shard = f.shard and r.run_id = f.run_id
    join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = f.node
    where f.whole and f.state <> 1
      and not exists (select from longshore.frames y where y.shard = f.shard and y.run_id = f.run_id and y.parent = f.frame and y.shield = y.frame)
      and (f.cleanup = 1 and not exists (select from longshore.closed c
                                         where c.shard = f.shard and c.run_id = f.run_id and (c.frame in (0, f.frame) or c.frame = any (f.path)))
           or f.cleanup = 2 and not exists (select from jobs j where j.shard = f.shard and j.run_id = f.run_id and j.frame = f.frame))
)
select (select count(*) from broken) as found, array(select b.example from broken b order by b.example limit 5) as examples
