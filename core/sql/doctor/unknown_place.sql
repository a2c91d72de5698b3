-- Promise 9: a run keeps the version it started with, and its steps go to queues that exist. Found: step jobs and held steps whose version,
-- node or queue is unknown, or whose version is not the run's.
with homes as (
    select s.shard, s.run_id, s.node, s.version_id, s.queue_id, 'ready' as place from longshore.step_ready s
    union all
    select s.shard, s.run_id, s.node, s.version_id, s.queue_id, 'delayed' from longshore.step_delayed s
    union all
    select w.shard, w.run_id, w.node, w.version_id, w.queue_id, 'waiting' from longshore.step_waiting w
    union all
    select l.shard, h.run_id, h.node, null, null, 'held by lane ' || l.lane_id
    from longshore.lanes l cross join lateral unnest(l.run_ids, l.nodes) h(run_id, node)
), broken as materialized (
    select format('run %s node %s (%s): %s', h.run_id, h.node, h.place, case
            when v.version_id is null then 'version ' || r.version_id || ' of the run is unknown'
            when h.version_id <> r.version_id then 'version ' || h.version_id || ', but the run keeps version ' || r.version_id
            when h.queue_id is not null and q.queue_id is null then 'queue ' || h.queue_id || ' is unknown'
            else 'the node is unknown in version ' || r.version_id
        end) as example
    from homes h
    join longshore.workflow_runs r on r.shard = h.shard and r.run_id = h.run_id
    left join longshore.workflow_versions v on v.version_id = r.version_id
    left join longshore.queues q on q.queue_id = h.queue_id
    left join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = h.node
    where v.version_id is null
       or h.version_id <> r.version_id
       or h.queue_id is not null and q.queue_id is null
       or n.node is null and h.node not between -11 and -1
)
select (select count(*) from broken) as found, array(select b.example from broken b order by b.example limit 5) as examples
