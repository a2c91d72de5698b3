-- Delete the registrations of processes that are long gone: each start of a worker makes one. $1 job type
delete from apalis.workers gone
where gone.worker_type = $1
  and gone.last_seen < now() - interval '1 day'
  and not exists (select from apalis.jobs held where held.lock_by = gone.id)
