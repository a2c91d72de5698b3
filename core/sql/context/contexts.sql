-- $1 shard, $2 run ids.
select run_id, context from longshore.read_contexts($1, $2)
