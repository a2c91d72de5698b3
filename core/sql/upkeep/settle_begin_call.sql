-- $1 shard.
select run_ids, close_ids, lane_ids, cycles from longshore.settle_begin($1)
