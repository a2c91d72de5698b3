-- $1 shard, $2 run.
delete from longshore.step_delayed where shard = $1 and run_id = $2
