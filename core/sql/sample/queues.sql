-- Per queue: seconds since its oldest ready step job was enqueued, and how many are ready and delayed, each counted to 10,000 at most. $1 shard.
select q.name,
    coalesce(extract(epoch from clock_timestamp() - longshore.seq_time((
        select min(o.seq) from unnest(array[0, 1, 2, 3, 16, 17, 18, 19]::smallint[]) p (priority),
            lateral (select r.seq from longshore.step_ready r where r.shard = $1 and r.queue_id = q.queue_id and r.priority = p.priority
                     order by r.seq limit 1) o))), 0)::float8 as oldest_seconds,
    (select count(*) from (select from longshore.step_ready r where r.shard = $1 and r.queue_id = q.queue_id limit 10000) c) as ready,
    (select count(*) from (select from (select d.queue_id from longshore.step_delayed d where d.shard = $1 order by d.due_at limit 10000) e
                           where e.queue_id = q.queue_id) c) as delayed
from longshore.queues q
order by q.name
limit 200
