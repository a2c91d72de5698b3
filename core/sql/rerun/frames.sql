-- The frames of a run, without what they were given and gave: $1 shard, $2 run.
select f.frame, f.parent, f.node, f.attempt, f.iteration, f.state, f.whole, f.path, f.bounds::text as bounds,
    f.shield is not distinct from f.frame as finally
from longshore.frames f
where f.shard = $1 and f.run_id = $2
order by f.created_at, f.frame
