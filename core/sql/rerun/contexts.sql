-- The context by which it was decided what follows nodes, as their last attempts saw it when they were claimed: $1 shard, $2 run, $3 frames, $4 ids of nodes.
-- One row for each snapshot, with the places of those nodes. What was taken over from another run was decided in that one. Before its first change the
-- context is what it began with.
with recursive decided as (
    select t.place, 0 as depth, null::uuid as run_id, $2::uuid as of, t.frame, t.id, null::timestamptz as at
    from unnest($3::int[], $4::text[]) with ordinality t (frame, id, place)
    union all
    select d.place, d.depth + 1, r.run_id, case when a.taken_over then r.rerun_of end, d.frame, d.id, a.at
    from decided d
    join longshore.workflow_runs r on r.shard = $1 and r.run_id = d.of
    cross join lateral (
        select coalesce(x.claimed_at, x.finished_at) as at, x.claimed_at is null and x.lane_id = 0 as taken_over
        from longshore.workflow_nodes n
        join longshore.execution_step_attempts x on x.shard = $1 and x.run_id = r.run_id and x.frame = d.frame and x.node = n.node
        where n.version_id = r.version_id and n.id = d.id
        order by x.attempt desc limit 1) a
), first as (
    select distinct on (d.place) d.place, d.run_id, d.at from decided d where d.depth > 0 order by d.place, d.depth desc
)
select array_agg(f.place) as places, coalesce(
    (select s.context from longshore.execution_context_snapshots s where s.shard = $1 and s.run_id = f.run_id and s.n = c.n),
    (select v.definition -> 'context' from longshore.workflow_versions v
     join longshore.workflow_runs r on r.version_id = v.version_id where r.shard = $1 and r.run_id = f.run_id), '{}')::text as context
from first f
left join lateral (
    select s.n from longshore.execution_context_snapshots s
    where s.shard = $1 and s.run_id = f.run_id and (s.n = 0 or s.at <= f.at)
    order by s.n desc limit 1) c on true
group by f.run_id, c.n
