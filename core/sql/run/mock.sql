-- A run that this transaction started is in test mode: $1 shard, $2 runs, $3 their mocks. Nobody else sees these rows yet.
update longshore.workflow_runs r set mocks = t.mocks::jsonb
from unnest($2::uuid[], $3::text[]) t (run_id, mocks)
where r.shard = $1 and r.run_id = t.run_id
