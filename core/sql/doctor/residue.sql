-- Harmless: step jobs, waits and joins of ended runs that are no part of a `finally` and do not begin one (node -11). A step job goes when a lane claims it or the run is settled; a join goes with the run.
with owned as (
    select s.shard, s.run_id, s.frame, 'ready' as place from longshore.step_ready s where s.node <> -11
    union all
    select s.shard, s.run_id, s.frame, 'delayed' from longshore.step_delayed s where s.node <> -11
    union all
    select w.shard, w.run_id, w.frame, 'waiting' from longshore.step_waiting w
    union all
    select j.shard, j.run_id, j.frame, 'join' from longshore.step_joins j
), left_over as materialized (
    select o.run_id, o.place
    from owned o
    join longshore.workflow_runs r on r.shard = o.shard and r.run_id = o.run_id
    where r.state >= 3
      and not exists (select from longshore.frames f where f.shard = o.shard and f.run_id = o.run_id and f.frame = o.frame and f.shield is not null and f.state = 1)
)
select (select count(*) from left_over) as found,
    array(select format('%s %s', count(*), o.place) from left_over o group by o.place order by o.place) as examples
