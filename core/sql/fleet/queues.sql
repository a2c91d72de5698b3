-- All queues.
select queue_id, name from longshore.queues order by queue_id
