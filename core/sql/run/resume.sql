-- $1 shard, $2 run.
select found, changed, state, queues from longshore.resume_run($1, $2)
