-- Promises 1 and 8: a live instance of a block or of a body waits for something. Found: live frames of live runs that hold no live frame and no step
-- job, where no step job of their block is out either; the timeout of a block (node -6) is nothing to wait for. What is closed awaits settling, and
-- runs without any step job are found by stuck_run: both are left out. A `finally` is live after the run's end, too.
with homes as materialized (
    select s.shard, s.run_id, s.frame, s.node from longshore.step_ready s
    union all
    select s.shard, s.run_id, s.frame, s.node from longshore.step_delayed s
    union all
    select l.shard, h.run_id, h.frame, h.node from longshore.lanes l cross join lateral unnest(l.run_ids, l.frames, l.nodes) h(run_id, frame, node)
    union all
    select w.shard, w.run_id, w.frame, w.node from longshore.step_waiting w where w.woken_at is null
), broken as materialized (
    select format('run %s frame %s, begun %s: %s', f.run_id, f.frame, f.created_at,
        n.id || case when f.iteration >= 0 then '[' || f.iteration || ']' else '' end) as example
    from longshore.frames f
    join longshore.workflow_runs r on r.shard = f.shard and r.run_id = f.run_id
    join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = f.node
    where f.state = 1 and (r.state in (1, 2) or f.shield is not null)
      and (r.state >= 3 or (f.shard, f.run_id) in (select h.shard, h.run_id from homes h))
      and not exists (select from homes h where h.shard = f.shard and h.run_id = f.run_id and h.frame = f.frame and h.node <> -6)
      and not exists (select from homes h where h.shard = f.shard and h.run_id = f.run_id and h.frame = f.parent and h.node = f.node)
      and not exists (select from longshore.frames b where b.shard = f.shard and b.run_id = f.run_id and b.parent = f.frame and b.state = 1)
      and not exists (select from longshore.closed c
                      where c.shard = f.shard and c.run_id = f.run_id and (c.frame in (0, f.frame) or c.frame = any (f.path))
                        and (f.shield is null or array_position(f.path || f.frame, c.frame) >= array_position(f.path || f.frame, f.shield)))
)
select (select count(*) from broken) as found, array(select b.example from broken b order by b.example limit 5) as examples
