-- Promise 1: what belongs to a run goes with it. Found: step jobs, held steps, waits, signals, joins and attempts of runs that do not exist.
with owned as (
    select s.shard, s.run_id, 'ready' as place from longshore.step_ready s
    union all
    select s.shard, s.run_id, 'delayed' from longshore.step_delayed s
    union all
    select l.shard, h.run_id, 'held by lane ' || l.lane_id from longshore.lanes l cross join lateral unnest(l.run_ids) h(run_id)
    union all
    select w.shard, w.run_id, 'waiting' from longshore.step_waiting w
    union all
    select g.shard, g.run_id, 'signals' from longshore.signals g
    union all
    select j.shard, j.run_id, 'join' from longshore.step_joins j
    union all
    select f.shard, f.run_id, 'frame' from longshore.frames f
    union all
    select i.shard, i.run_id, 'iterations' from longshore.frame_chunks i
    union all
    select a.shard, a.run_id, 'attempts' from longshore.execution_step_attempts a
), broken as materialized (
    select format('run %s: %s (%s)', o.run_id, o.place, count(*)) as example
    from owned o
    where not exists (select from longshore.workflow_runs r where r.shard = o.shard and r.run_id = o.run_id)
    group by o.shard, o.run_id, o.place
)
select (select count(*) from broken) as found, array(select b.example from broken b order by b.example limit 5) as examples
