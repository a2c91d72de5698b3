-- $1 shard, $2 run ids, $3 frames, $4 nodes, $5 whether with what the runs gave.
select of_step, since, child_run_id, woken, state, output, error from longshore.read_children($1, $2, $3, $4, $5)
