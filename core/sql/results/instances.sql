-- $1 shard, $2 run ids, $3 frames, $4 whether with those that led to them.
select of_instance, frame, iteration, state, attempt, failed, before, input, output, error, created_at, finished_at
from longshore.read_instances($1, $2, $3, $4)
