-- What the joins of a run have counted.
--   $1 shard   $2 run id   $3 version
-- body: the graph that the join is part of; null where it counts the iterations of a block (or those of them that failed), of which there are as many
-- as iterations says.
select j.frame, j.node as number, j.resolved, j.taken, x.body, x.iterations,
    coalesce(n.id, case when j.node = -3 then '(failed iterations)' when x.body is null then '(iterations)' else '(end)' end) as node,
    coalesce(n.join_need, case j.node when -3 then x.tolerated + 1 else x.need end, 0) as need
from longshore.step_joins j
left join longshore.workflow_nodes n on n.version_id = $3 and n.node = j.node
left join longshore.frames f on f.shard = $1 and f.run_id = $2 and f.frame = j.frame
cross join lateral (
    select case when j.frame = 0 then 0 else f.body end as body, (f.bounds ->> 'count')::int as iterations,
        (f.bounds ->> 'tolerated')::int as tolerated, (f.bounds ->> 'need')::int as need
) x
where j.shard = $1 and j.run_id = $2
order by j.frame, j.node < 0, j.node desc
