-- Promises 1 and 8: a live run waits for something. Found: live or paused runs that no row of step_ready or step_delayed and no lane holds.
with homes as (
    select s.shard, s.run_id from longshore.step_ready s
    union all
    select s.shard, s.run_id from longshore.step_delayed s
    union all
    select l.shard, h.run_id from longshore.lanes l cross join lateral unnest(l.run_ids) h(run_id)
), broken as materialized (
    select format('run %s, started %s', r.run_id, r.created_at) as example
    from longshore.workflow_runs r
    where r.state in (1, 2)
      and not exists (select from homes h where h.shard = r.shard and h.run_id = r.run_id)
)
select (select count(*) from broken) as found, array(select b.example from broken b order by b.example limit 5) as examples
