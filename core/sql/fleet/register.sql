-- A worker's row. Safe to send again: $1 worker, $2 name, $3 host, $4 pid, $5 version, $6 queues, $7 handlers, $8 slots.
insert into longshore.workers (worker_id, name, host, pid, version, queues, handlers, slots)
values ($1, $2, $3, $4, $5, $6, $7, $8)
on conflict (worker_id) do update set heartbeat_at = now(), queues = excluded.queues
