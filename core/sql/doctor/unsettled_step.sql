-- Promise 11: the steps of an ended run are told. Found: steps that a lane has held for over 75 s (60 s and a lease) of runs that ended over
-- 75 s ago, without the row of `closed` by which the lane learns of it. (A lane that just claimed a left-over step job of such a run holds it
-- for a cycle.)
with broken as materialized (
    select format('run %s frame %s node %s: held by lane %s since %s, the run ended at %s',
        r.run_id, h.frame, h.node, l.lane_id, h.claimed_at, r.finished_at) as example
    from longshore.lanes l
    cross join lateral unnest(l.run_ids, l.frames, l.nodes, l.claimed_at) h(run_id, frame, node, claimed_at)
    join longshore.workflow_runs r on r.shard = l.shard and r.run_id = h.run_id
    where r.finished_at < now() - interval '75 s'
      and (h.claimed_at is null or h.claimed_at < now() - interval '75 s')
      and not exists (select from longshore.closed c where c.shard = l.shard and c.run_id = h.run_id)
)
select (select count(*) from broken) as found, array(select b.example from broken b order by b.example limit 5) as examples
