-- $1 shard, $2 run, $3 nodes of the run's own graph.
select node, state from longshore.execution_steps where shard = $1 and run_id = $2 and frame = 0 and node = any ($3)
