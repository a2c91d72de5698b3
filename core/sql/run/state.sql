select state from longshore.workflow_runs where shard = $1 and run_id = $2
