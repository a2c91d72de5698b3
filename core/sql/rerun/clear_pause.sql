-- What is left of a pause that the run ended in; before the run's row, as in a cycle. $1 shard, $2 run.
delete from longshore.pauses where shard = $1 and run_id = $2
