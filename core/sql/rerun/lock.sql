-- Nobody else changes the run in this transaction. $1 shard, $2 run.
select from longshore.workflow_runs where shard = $1 and run_id = $2 for update
