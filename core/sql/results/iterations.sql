-- $1 shard, $2 run ids, $3 frames of blocks.
select of_block, frame, iteration, state, output, error, finished_at
from longshore.read_iterations($1, $2, $3)
