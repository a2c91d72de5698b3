-- Put a system job on its queue, unless one of its kind waits or runs, or had its turn in this period of the database's clock.
-- $1 job type, $2 the job, $3 number of its kind (one digit), $4 period in seconds
-- The id is made of the kind and the period's number: of all workers that ask at once, one inserts. It must read as a ULID
-- (26 digits of base 32), and begins in 1970 so that it meets no id that apalis draws itself.
insert into apalis.jobs (job, id, job_type, status, attempts, max_attempts, run_at, priority)
select $2, '0000000000' || $3::int || lpad(floor(extract(epoch from now()) / $4::float8)::bigint::text, 15, '0'), $1, 'Pending', 0, 25, now(), 0
where not exists (
    select
    from apalis.jobs waiting
    where waiting.job_type = $1
      and waiting.job ->> 'kind' = $2 ->> 'kind'
      and (waiting.status in ('Pending', 'Running') or waiting.status = 'Failed' and waiting.attempts < waiting.max_attempts)
  )
on conflict (id) do nothing
