-- $1 shard, $2 read the whole table of lanes.
select lane_id, worker_id, steps from longshore.reap($1, $2)
