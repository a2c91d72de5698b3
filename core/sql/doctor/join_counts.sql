-- Promise 4: a join counts each in-edge once and fires when it must. Found: joins that counted more than their in-edges, joins that are no node
-- of the run's version, and, in live runs, joins with every in-edge counted whose node is neither decided nor about to be.
-- The end of a run (node -2) is a join of its sinks and of its joins that may fire early.
with homes as (
    select s.shard, s.run_id, s.frame, s.node, s.kind from longshore.step_ready s
    union all
    select s.shard, s.run_id, s.frame, s.node, s.kind from longshore.step_delayed s
    union all
    select l.shard, h.run_id, h.frame, h.node, h.kind
    from longshore.lanes l cross join lateral unnest(l.run_ids, l.frames, l.nodes, l.kinds) h(run_id, frame, node, kind)
), in_edges as (
    select e.version_id, e.to_node as node, count(*) as edges
    from longshore.workflow_edges e
    group by e.version_id, e.to_node
), tokens as (                                                   -- how many arrivals a join can count
    select i.version_id, i.node, i.edges from in_edges i
    union all
    select n.version_id, -2,
        count(*) filter (where not exists (select from longshore.workflow_edges e where e.version_id = n.version_id and e.from_node = n.node))
        + count(*) filter (where n.join_need > 0 and i.edges > 1)
    from longshore.workflow_nodes n
    left join in_edges i on i.version_id = n.version_id and i.node = n.node
    group by n.version_id
), broken as materialized (
    select case
            when t.edges is null then format('run %s frame %s node %s: no join of version %s', j.run_id, j.frame, j.node, r.version_id)
            when j.resolved > t.edges then format('run %s frame %s node %s: counted %s of %s in-edges', j.run_id, j.frame, j.node, j.resolved, t.edges)
            else format('run %s frame %s node %s: all %s in-edges counted, yet not decided', j.run_id, j.frame, j.node, t.edges)
        end as example
    from longshore.step_joins j
    join longshore.workflow_runs r on r.shard = j.shard and r.run_id = j.run_id
    left join tokens t on t.version_id = r.version_id and t.node = j.node
    where t.edges is null
       or j.resolved > t.edges
       or j.resolved = t.edges and r.state in (1, 2)
          and not exists (select from homes h
                          where h.shard = j.shard and h.run_id = j.run_id and h.frame = j.frame and h.node = j.node and h.kind in (0, 1, 3))
          and not exists (select from longshore.execution_step_attempts a
                          where a.shard = j.shard and a.run_id = j.run_id and a.frame = j.frame and a.node = j.node)
)
select (select count(*) from broken) as found, array(select b.example from broken b order by b.example limit 5) as examples
