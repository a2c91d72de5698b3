-- $1 shard, $2 run ids, $3 frames, $4 nodes.
select run_id, frame, node, outcome, value from longshore.step_results($1, $2, $3, $4)
