-- $1 shard, $2 run, $3 why.
select found, changed, state from longshore.pause_run($1, $2, $3::jsonb)
