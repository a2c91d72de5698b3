-- Promise 4: a join counts each in-edge once and fires when it must. Found: joins that counted more than their in-edges and joins that are no node
-- of the run's version; in live runs, joins whose node is neither decided nor about to be although every in-edge is counted or enough are taken,
-- and joins that counted fewer in-edges than have ended predecessors (the token was lost: the join would never fire).
-- The end of a run (node -2) is a join of its sinks and of its joins that may fire early; what it must have counted is not worked out here.
with homes as (
    select s.shard, s.run_id, s.frame, s.node, s.kind from longshore.step_ready s
    union all
    select s.shard, s.run_id, s.frame, s.node, s.kind from longshore.step_delayed s
    union all
    select w.shard, w.run_id, w.frame, w.node, 0 from longshore.step_waiting w where w.woken_at is null
    union all
    select l.shard, h.run_id, h.frame, h.node, h.kind
    from longshore.lanes l cross join lateral unnest(l.run_ids, l.frames, l.nodes, l.kinds) h(run_id, frame, node, kind)
), in_edges as (
    select e.version_id, e.to_node as node, count(*) as edges
    from longshore.workflow_edges e
    group by e.version_id, e.to_node
), ends as (                                                     -- how many arrivals the end of a graph can count
    select n.version_id, n.body,
        count(*) filter (where not exists (select from longshore.workflow_edges e where e.version_id = n.version_id and e.from_node = n.node))
        + count(*) filter (where n.join_need > 0 and i.edges > 1) as edges
    from longshore.workflow_nodes n
    left join in_edges i on i.version_id = n.version_id and i.node = n.node
    group by n.version_id, n.body
), takes_failure as (
    select e.version_id, e.from_node as node from longshore.workflow_edges e where e.on_outcome in ('failure', 'always', 'timeout')
    union
    select n.version_id, n.node from longshore.workflow_nodes n where n.on_error = 'skip'
), ended as (                                                    -- steps of live runs that have ended and told their successors
    select distinct a.shard, a.run_id, a.frame, a.node, r.version_id
    from longshore.execution_step_attempts a
    join longshore.body_instances r on r.shard = a.shard and r.run_id = a.run_id and r.frame = a.frame
    where r.state in (1, 2)
      and (a.outcome in (1, 5)
           or a.outcome in (2, 3) and exists (select from takes_failure f where f.version_id = r.version_id and f.node = a.node))
      and not exists (select from homes h where h.shard = a.shard and h.run_id = a.run_id and h.frame = a.frame and h.node = a.node and h.kind <> 2)
), sent as (
    select n.shard, n.run_id, n.frame, e.to_node as node, i.edges, count(*) as arrivals
    from ended n
    join longshore.workflow_edges e on e.version_id = n.version_id and e.from_node = n.node
    join in_edges i on i.version_id = e.version_id and i.node = e.to_node
    where i.edges > 1
    group by n.shard, n.run_id, n.frame, e.to_node, i.edges
), decided as (
    select h.shard, h.run_id, h.frame, h.node from homes h where h.kind in (0, 1, 3)
    union all
    select a.shard, a.run_id, a.frame, a.node from longshore.execution_step_attempts a
), broken as materialized (
    select case
            when t.edges is null then format('run %s frame %s node %s: no join of version %s', j.run_id, j.frame, j.node, r.version_id)
            when j.resolved > t.edges then format('run %s frame %s node %s: counted %s of %s in-edges', j.run_id, j.frame, j.node, j.resolved, t.edges)
            when j.resolved = t.edges then format('run %s frame %s node %s: all %s in-edges counted, yet not decided', j.run_id, j.frame, j.node, t.edges)
            else format('run %s frame %s node %s: %s in-edges taken, %s needed, yet not decided', j.run_id, j.frame, j.node, j.taken, t.need)
        end as example
    from longshore.step_joins j
    join longshore.workflow_runs r on r.shard = j.shard and r.run_id = j.run_id
    left join longshore.frames f on f.shard = j.shard and f.run_id = j.run_id and f.frame = j.frame
    left join longshore.body_instances b on b.shard = j.shard and b.run_id = j.run_id and b.frame = j.frame
    left join in_edges i on i.version_id = r.version_id and i.node = j.node
    left join ends e on e.version_id = r.version_id and e.body = b.body and j.node = -2
    left join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = j.node
    -- a block counts the iterations that ended (-2), and those that failed (-3)
    cross join lateral (select coalesce(i.edges, e.edges, case when j.node in (-2, -3) then (f.bounds ->> 'count')::int end) as edges,
        coalesce(n.join_need, case j.node when -2 then (f.bounds ->> 'need')::int when -3 then (f.bounds ->> 'tolerated')::int + 1 end, 0) as need) t
    where t.edges is null
       or j.resolved > t.edges
       or (j.resolved = t.edges and j.node <> -3 or t.need > 0 and j.taken >= t.need) and coalesce(b.state, f.state) in (1, 2) and r.state in (1, 2)
          and not exists (select from longshore.closed c where c.shard = j.shard and c.run_id = j.run_id)
          and not exists (select from decided d where d.shard = j.shard and d.run_id = j.run_id and d.frame = j.frame and d.node = j.node)
    union all
    select format('run %s frame %s node %s: counted %s in-edges, %s of its predecessors have ended', s.run_id, s.frame, s.node,
        coalesce(j.resolved, 0), s.arrivals)
    from sent s
    left join longshore.step_joins j on j.shard = s.shard and j.run_id = s.run_id and j.frame = s.frame and j.node = s.node
    where s.arrivals > coalesce(j.resolved, 0)
      and not exists (select from decided d where d.shard = s.shard and d.run_id = s.run_id and d.frame = s.frame and d.node = s.node)
)
select (select count(*) from broken) as found, array(select b.example from broken b order by b.example limit 5) as examples
