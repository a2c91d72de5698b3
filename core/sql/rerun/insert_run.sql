-- A run that takes over from another: $1 shard, $2 its id, $3 the other, $4 version, $5 input.
insert into longshore.workflow_runs (run_id, workflow_id, version_id, shard, priority, input, rerun_of)
select $2, r.workflow_id, $4, r.shard, r.priority, $5::jsonb, r.run_id
from longshore.workflow_runs r
where r.shard = $1 and r.run_id = $3
