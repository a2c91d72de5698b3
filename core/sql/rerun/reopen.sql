-- An ended run is live again: $1 shard, $2 run. retried_at is later than the end of every attempt there is, and earlier than that of every other.
update longshore.workflow_runs set state = 1, finished_at = null, output = null, error = null,
    retries = least(retries + 1, 32767), retried_at = clock_timestamp() where shard = $1 and run_id = $2 and state in (4, 5)
