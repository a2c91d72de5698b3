-- Frames that a new run takes over: $1 shard, $2 the new run, $3 the other, $4 frames, $5 those of them that go on in it. Each is that of one attempt, as the
-- records are. What is live in the other run yet, or owes a `finally`, is so in that run alone, unless it goes on here.
insert into longshore.frames (shard, run_id, created_at, finished_at, frame, parent, node, attempt, iteration, body, state, failed, whole, path, before, bounds,
    input, output, error, shield, cleanup)
select f.shard, $2, f.created_at, coalesce(f.finished_at, now()), f.frame, f.parent, f.node, 1, f.iteration, f.body, case f.state when 1 then 5 else f.state end, 0,
    f.whole, f.path, f.before, f.bounds, f.input, f.output, f.error, f.shield, case when f.cleanup is not null and f.frame = any ($5) then 1 end
from longshore.frames f
where f.shard = $1 and f.run_id = $3 and f.frame = any ($4)
