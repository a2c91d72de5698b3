-- $1 shard, $2 run ids.
select run_id, input from longshore.read_inputs($1, $2)
