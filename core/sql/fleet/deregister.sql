-- The worker is gone, and with it the lanes of its that hold nothing; one that still holds steps stays known to the reaper. $1 worker, $2 shard.
with gone as (
    delete from longshore.worker_lanes w
    where w.shard = $2 and w.worker_id = $1
      and not exists (select from longshore.lanes l where l.shard = $2 and l.lane_id = w.lane_id)
)
delete from longshore.workers where worker_id = $1
