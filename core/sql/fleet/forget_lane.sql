-- $1 shard, $2 lane.
delete from longshore.worker_lanes where shard = $1 and lane_id = $2
