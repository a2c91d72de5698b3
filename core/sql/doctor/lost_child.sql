-- Promises 1 and 8: no step waits for a run that has ended. Found, in live runs that are not paused: steps that wait for a run that has ended or is gone,
-- were not woken, and have no step job (node -10) that looks.
with jobs as (
    select s.shard, s.run_id, s.frame, s.attempt from longshore.step_ready s where s.node = -10
    union all
    select s.shard, s.run_id, s.frame, s.attempt from longshore.step_delayed s where s.node = -10
    union all
    select l.shard, h.run_id, h.frame, h.attempt
    from longshore.lanes l cross join lateral unnest(l.run_ids, l.frames, l.nodes, l.attempts) h(run_id, frame, node, attempt)
    where h.node = -10
), broken as materialized (
    select format('run %s frame %s node %s waits for run %s, which %s', w.run_id, w.frame, w.node, w.child_run_id,
        coalesce('ended at ' || c.finished_at, 'is gone')) as example
    from longshore.step_waiting w
    join longshore.workflow_runs r on r.shard = w.shard and r.run_id = w.run_id and r.state = 1
    left join longshore.workflow_runs c on c.shard = w.shard and c.run_id = w.child_run_id
    where w.child_run_id is not null and w.woken_at is null and (c.run_id is null or c.state >= 3)
      and not exists (select from longshore.closed x where x.shard = w.shard and x.run_id = w.run_id)
      and not exists (select from jobs j where j.shard = w.shard and j.run_id = w.run_id and j.frame = w.frame and j.attempt = w.node)
)
select (select count(*) from broken) as found, array(select b.example from broken b order by b.example limit 5) as examples
