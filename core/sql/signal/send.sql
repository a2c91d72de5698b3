-- $1 run, $2 name, $3 payload as JSON text, $4 key. The queue is where a worker that idles is to look.
select s.signal_id,
    (select q.name from longshore.queues q where q.queue_id = (
        select v.first_queue_id from longshore.workflow_versions v where v.version_id = (
            select r.version_id from longshore.workflow_runs r where r.shard = 0::smallint and r.run_id = $1))) as queue
from (select longshore.signal($1, $2, $3::text::jsonb, $4) as signal_id offset 0) s
