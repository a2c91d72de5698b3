-- How many runs are around these. $1 shard, $2 run ids.
select t.run_id, coalesce((select r.depth from longshore.workflow_runs r where r.shard = $1 and r.run_id = t.run_id), 0)::int
from unnest($2::uuid[]) t (run_id)
