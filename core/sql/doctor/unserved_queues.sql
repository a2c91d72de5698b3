-- Queues with step jobs that wait for over 60 s and that no live worker serves. The runs are whole; they only wait for a worker.
-- The first 51 bits of seq are microseconds since 2024.
with waiting as materialized (
    select s.queue_id, count(*) as steps
    from longshore.step_ready s
    where timestamptz '2024-01-01 00:00:00+00' + (s.seq >> 13) * interval '1 microsecond' < now() - interval '60 s'
    group by s.queue_id
), unserved as materialized (
    select format('queue %s: %s ready step jobs', coalesce(q.name, w.queue_id::text), w.steps) as example
    from waiting w
    left join longshore.queues q on q.queue_id = w.queue_id
    where not exists (select from longshore.workers k where k.heartbeat_at > now() - interval '30 s' and not k.draining and q.name = any (k.queues))
)
select (select count(*) from unserved) as found, array(select u.example from unserved u order by u.example limit 5) as examples
