-- Promise 1: a run completes when every node is decided. Found: nodes without any attempt in completed runs.
-- The end waits for all sinks and for joins that fired early, so only a terminate node may leave nodes undecided: versions that have one are
-- left out. So are nodes that lost_successor finds, and runs so old that the partition of their attempts was dropped.
with kept as (                                                   -- the lowest run id that a partition still covers
    select substring(pg_get_expr(c.relpartbound, c.oid) from $$FROM \('([0-9a-f-]{36})'\)$$)::uuid as from_run
    from pg_inherits i
    join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'longshore.execution_step_attempts'::regclass
    order by from_run
    limit 1
), single as (
    select e.version_id, e.to_node as node, min(e.from_node) as source
    from longshore.workflow_edges e
    group by e.version_id, e.to_node
    having count(*) = 1
), terminating as (
    select distinct n.version_id from longshore.workflow_nodes n where n.type = 'terminate'
), broken as materialized (
    select format('run %s frame %s node %s', r.run_id, r.frame, n.id) as example
    from longshore.body_instances r
    join longshore.workflow_nodes n on n.version_id = r.version_id and n.body = r.body
    left join single s on s.version_id = n.version_id and s.node = n.node
    where r.state = 3
      and r.run_id >= (select k.from_run from kept k)
      and r.version_id not in (select t.version_id from terminating t)
      and not exists (select from longshore.execution_step_attempts a where a.shard = r.shard and a.run_id = r.run_id and a.frame = r.frame and a.node = n.node)
      and not exists (select from longshore.execution_step_attempts a
                      where a.shard = r.shard and a.run_id = r.run_id and a.frame = r.frame and a.node = s.source and a.outcome in (1, 2, 3, 5))
)
select (select count(*) from broken) as found, array(select b.example from broken b order by b.example limit 5) as examples
