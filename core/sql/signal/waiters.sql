-- $1 shard, $2 run ids.
select run_id, frame, node from longshore.read_waiters($1, $2)
