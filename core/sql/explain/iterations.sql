-- Iterations of blocks that go on, the first of each block first.
--   $1 shard   $2 run id   $3 frames that stand for blocks   $4 how many of each to show
select p.frame, n.id || '[' || f.iteration || ']' as node
from unnest($3::int[]) as p(frame)
cross join lateral (
    select x.node, x.iteration
    from longshore.frames x
    where x.shard = $1 and x.run_id = $2 and x.parent = p.frame and not x.whole and x.state = 1
    order by x.iteration
    limit $4
) f
join longshore.workflow_runs r on r.shard = $1 and r.run_id = $2
join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = f.node
order by p.frame, f.iteration
