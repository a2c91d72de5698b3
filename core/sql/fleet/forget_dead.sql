-- Workers without a heartbeat for five minutes, and lanes of unknown workers that hold nothing. $1 shard.
with dead as (
    delete from longshore.workers where heartbeat_at < now() - interval '5 minutes'
)
delete from longshore.worker_lanes w
where w.shard = $1
  and not exists (select from longshore.workers k where k.worker_id = w.worker_id)
  and not exists (select from longshore.lanes l where l.shard = $1 and l.lane_id = w.lane_id)
