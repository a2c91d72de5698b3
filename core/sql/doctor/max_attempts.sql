-- Promise 3: only what failed counts, and no step fails more often than its policy allows. Found: steps with more failed attempts than
-- retry.max_attempts of their node (3 where the definition says nothing).
with policies as (
    select v.version_id, d.node ->> 'id' as id, (d.node -> 'retry' ->> 'max_attempts')::bigint as max_attempts
    from longshore.workflow_versions v
    cross join lateral jsonb_array_elements(case when jsonb_typeof(v.definition -> 'nodes') = 'array' then v.definition -> 'nodes' else '[]' end) d(node)
), failed as (
    select a.shard, a.run_id, a.frame, a.node, count(*) as times
    from longshore.execution_step_attempts a
    where a.outcome = 2 and a.node >= 0
    group by a.shard, a.run_id, a.frame, a.node
), broken as materialized (
    select format('run %s frame %s node %s: failed %s times, %s allowed', f.run_id, f.frame, n.id, f.times, coalesce(p.max_attempts, 3)) as example
    from failed f
    join longshore.workflow_runs r on r.shard = f.shard and r.run_id = f.run_id
    join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = f.node
    left join policies p on p.version_id = n.version_id and p.id = n.id
    where f.times > coalesce(p.max_attempts, 3)
)
select (select count(*) from broken) as found, array(select b.example from broken b order by b.example limit 5) as examples
