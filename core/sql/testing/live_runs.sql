-- The runs that have not ended.
--   $1 shard
select r.run_id from longshore.workflow_runs r where r.shard = $1 and r.state in (1, 2)
