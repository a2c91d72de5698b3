-- $1 shard, $2 run.
delete from longshore.step_joins where shard = $1 and run_id = $2
