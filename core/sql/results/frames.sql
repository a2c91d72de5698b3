-- $1 shard, $2 run ids, $3 frames.
select run_id, frame, path, before, parent, node, attempt, iteration, live, failed, whole, bounds, input, created_at, finally
from longshore.read_frames($1, $2, $3)
