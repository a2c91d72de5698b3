-- By what it was decided what follows nodes, after their last attempts: $1 shard, $2 run, $3 frames, $4 ids of nodes. One row for each run in which it was decided
-- and snapshot of its context, with the places of those nodes. What was taken over from another run was decided in that one. What follows a block, or a step that
-- waited, is decided when that ends, what follows any other when it begins; before its first change the context is what it began with.
with recursive decided as (
    select t.place, 0 as depth, null::uuid as run_id, $2::uuid as of, t.frame, t.id, null::timestamptz as at, false as ends
    from unnest($3::int[], $4::text[]) with ordinality t (frame, id, place)
    union all
    select d.place, d.depth + 1, r.run_id, case when a.taken_over then r.rerun_of end, d.frame, d.id, a.at, a.ends
    from decided d
    join longshore.workflow_runs r on r.shard = $1 and r.run_id = d.of
    cross join lateral (
        select case when a.ends then x.finished_at else coalesce(x.claimed_at, x.finished_at) end as at, a.ends, a.taken_over
        from longshore.workflow_nodes n
        join longshore.execution_step_attempts x on x.shard = $1 and x.run_id = r.run_id and x.frame = d.frame and x.node = n.node
        cross join lateral (select x.claimed_at is null and x.lane_id = 0) t (taken_over)
        cross join lateral (select t.taken_over,
            not t.taken_over and n.type in ('parallel', 'foreach', 'while', 'if', 'switch', 'try', 'wait', 'approval', 'milestone', 'subflow')) a (taken_over, ends)
        where n.version_id = r.version_id and n.id = d.id
        order by x.attempt desc limit 1) a
), first as (
    select distinct on (d.place) d.place, d.run_id, d.at, d.ends from decided d where d.depth > 0 order by d.place, d.depth desc
), grouped as (
    select f.run_id, c.n, array_agg(f.place) as places
    from first f
    left join lateral (
        select s.n from longshore.execution_context_snapshots s
        where s.shard = $1 and s.run_id = f.run_id and (s.n = 0 or s.at < f.at or s.at = f.at and not f.ends)
        order by s.n desc limit 1) c on true
    group by f.run_id, c.n
)
select g.places, r.run_id, r.key, r.parent_run_id as parent, v.version, r.input::text as input, coalesce(
    (select s.context from longshore.execution_context_snapshots s where s.shard = $1 and s.run_id = g.run_id and s.n = g.n),
    v.definition -> 'context', '{}')::text as context
from grouped g
join longshore.workflow_runs r on r.shard = $1 and r.run_id = g.run_id
join longshore.workflow_versions v on v.version_id = r.version_id
