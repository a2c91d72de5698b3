-- Promises 1 and 8: a live run waits for something. Found: live or paused runs that no row of step_ready, step_delayed or step_waiting and no lane holds.
-- Step jobs that look for signals (nodes -7 and -8), end a wait in time (-9) or say that a child run has ended (-10) hold nothing.
with homes as (
    select s.shard, s.run_id from longshore.step_ready s where s.node not between -10 and -7
    union all
    select s.shard, s.run_id from longshore.step_delayed s where s.node not between -10 and -7
    union all
    select w.shard, w.run_id from longshore.step_waiting w where w.woken_at is null
    union all
    select l.shard, h.run_id from longshore.lanes l cross join lateral unnest(l.run_ids, l.nodes) h(run_id, node) where h.node not between -10 and -7
), broken as materialized (
    select format('run %s, started %s', r.run_id, r.created_at) as example
    from longshore.workflow_runs r
    where r.state in (1, 2)
      and not exists (select from homes h where h.shard = r.shard and h.run_id = r.run_id)
)
select (select count(*) from broken) as found, array(select b.example from broken b order by b.example limit 5) as examples
