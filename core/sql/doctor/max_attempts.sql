-- Promise 3: only what failed counts, and no step fails more often than its policy allows. Found: steps with more failed attempts than
-- retry.max_attempts of their node (where the definition says nothing: 3, of a block or a subflow 1). Of several policies all but one attempt each, and the
-- last.
with policies as (
    select v.version_id, d.node ->> 'id' as id, max(s.most) as max_attempts
    from longshore.workflow_versions v
    -- the nodes of bodies too, however deep
    cross join lateral jsonb_path_query(v.definition, 'strict $.**.nodes[*] ? (@.id.type() == "string" && (@.retry.type() == "object" || @.retry.type() == "array"))', silent => true) d(node)
    cross join lateral (
        select 1 + sum((p.policy -> 'max_attempts')::numeric - 1)::bigint
        from jsonb_path_query(d.node, 'lax $.retry[*]') p(policy)
        where jsonb_typeof(p.policy -> 'max_attempts') = 'number'
    ) s (most)
    where s.most is not null
    group by v.version_id, d.node ->> 'id'
), unbounded as (
    -- they pause the run instead of giving up, and begin anew when it is resumed
    select v.version_id, d.node ->> 'id' as id
    from longshore.workflow_versions v
    cross join lateral jsonb_path_query(v.definition, 'strict $.**.nodes[*] ? (@.id.type() == "string" && (@.retry.give_up == "pause" || @.retry[*].give_up == "pause"))', silent => true) d(node)
), failed as (
    select a.shard, a.run_id, a.frame, a.node, count(*) as times
    from longshore.execution_step_attempts a
    where a.outcome = 2 and a.node >= 0
    group by a.shard, a.run_id, a.frame, a.node
), broken as materialized (
    select format('run %s frame %s node %s: failed %s times, %s allowed', f.run_id, f.frame, n.id, f.times, coalesce(p.max_attempts, u.max_attempts)) as example
    from failed f
    join longshore.workflow_runs r on r.shard = f.shard and r.run_id = f.run_id
    join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = f.node
    left join policies p on p.version_id = n.version_id and p.id = n.id
    cross join lateral (select case when n.type in ('parallel', 'foreach', 'while', 'if', 'switch', 'try', 'subflow') then 1 else 3 end) u (max_attempts)
    where f.times > coalesce(p.max_attempts, u.max_attempts) * (1 + r.retries)     -- a run that is tried again begins anew
      and not exists (select from unbounded b where b.version_id = n.version_id and b.id = n.id)
)
select (select count(*) from broken) as found, array(select b.example from broken b order by b.example limit 5) as examples
