-- Delete system jobs that ended a week ago. $1 job type
delete from apalis.jobs
where job_type = $1
  and status in ('Done', 'Killed')
  and done_at < now() - interval '7 days'
