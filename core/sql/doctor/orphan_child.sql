-- Promise 11: a run ends with what started it, where its policy says so. Found: live runs that are to be canceled with their parent, which has ended or is
-- gone and awaits no settling; and such that a step of a live parent started to wait for, and waits for no more.
with broken as materialized (
    select format('run %s, started by run %s, which %s', r.run_id, r.parent_run_id,
        case when p.run_id is null then 'is gone' when p.state >= 3 then 'ended at ' || p.finished_at else 'waits for it no more' end) as example
    from longshore.workflow_runs r
    left join longshore.workflow_runs p on p.shard = r.shard and p.run_id = r.parent_run_id
    where r.parent_run_id is not null and r.close_policy = 1 and r.state in (1, 2)
      and not exists (select from longshore.closed x where x.shard = r.shard and x.run_id = r.parent_run_id)
      and (p.run_id is null or p.state >= 3
           or r.awaited and not exists (select from longshore.step_waiting w
               where w.shard = r.shard and w.run_id = r.parent_run_id and w.frame = r.parent_frame and w.node = r.parent_node and w.child_run_id = r.run_id))
)
select (select count(*) from broken) as found, array(select b.example from broken b order by b.example limit 5) as examples
