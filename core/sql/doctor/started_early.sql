-- Promise 4: a step starts after its predecessors, by the database's clock alone. Found: for each edge into a node with one in-edge or into a
-- join of all in-edges, attempts claimed before the predecessor's last attempt finished, or though it has none (unless the run is completed:
-- then undecided_node and lost_successor find the predecessor).
with steps as materialized (
    select a.shard, a.run_id, a.frame, a.node, max(a.finished_at) as finished_at, min(a.claimed_at) filter (where a.attempt > 0) as claimed_at
    from longshore.execution_step_attempts a
    where a.node >= 0
    group by a.shard, a.run_id, a.frame, a.node
), needs as (
    select distinct e.version_id, e.from_node as source, e.to_node as node
    from longshore.workflow_edges e
    join longshore.workflow_nodes n on n.version_id = e.version_id and n.node = e.to_node
    where n.join_need = 0 or n.indegree = 1
), broken as materialized (
    select case when p.node is null
            then format('run %s frame %s: node %s was claimed at %s, its predecessor %s has not ended', t.run_id, t.frame, t.node, t.claimed_at, e.source)
            else format('run %s frame %s: node %s was claimed at %s, its predecessor %s finished at %s', t.run_id, t.frame, t.node, t.claimed_at,
                e.source, p.finished_at)
        end as example
    from steps t
    join longshore.body_instances r on r.shard = t.shard and r.run_id = t.run_id and r.frame = t.frame
    join needs e on e.version_id = r.version_id and e.node = t.node
    left join steps p on p.shard = t.shard and p.run_id = t.run_id and p.frame = t.frame and p.node = e.source
    where t.claimed_at < p.finished_at
       or t.claimed_at is not null and p.node is null and r.state <> 3
)
select (select count(*) from broken) as found, array(select b.example from broken b order by b.example limit 5) as examples
