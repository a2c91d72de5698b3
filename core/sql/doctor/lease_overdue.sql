-- Promise 6: the steps of a lane that died are taken back within about 15 s of its lease. Found: lanes whose lease ended over 60 s ago.
with broken as materialized (
    select format('lane %s of worker %s: %s steps held, lease over since %s s', l.lane_id, coalesce(w.name, '(unknown)'),
        cardinality(l.run_ids), floor(extract(epoch from now() - l.expires_at))) as example
    from longshore.lanes l
    left join longshore.worker_lanes wl on wl.shard = l.shard and wl.lane_id = l.lane_id
    left join longshore.workers w on w.worker_id = wl.worker_id
    where l.expires_at < now() - interval '60 s'
)
select (select count(*) from broken) as found, array(select b.example from broken b order by b.example limit 5) as examples
