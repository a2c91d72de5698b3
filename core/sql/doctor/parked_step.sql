-- Promises 1 and 8: what a pause holds back goes on when the run is resumed. Found: parked steps of live runs that are not paused, and paused runs of which
-- nobody says so, which could not be resumed.
with broken as materialized (
    select format('run %s frame %s node %s is parked', s.run_id, s.frame, s.node) as example
    from longshore.step_delayed s
    join longshore.workflow_runs r on r.shard = s.shard and r.run_id = s.run_id
    where s.parked and r.state = 1
    union all
    select format('run %s is paused', r.run_id)
    from longshore.workflow_runs r
    where r.state = 2 and not exists (select from longshore.pauses p where p.shard = r.shard and p.run_id = r.run_id)
)
select (select count(*) from broken) as found, array(select b.example from broken b order by b.example limit 5) as examples
