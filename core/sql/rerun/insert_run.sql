-- A run that takes over from another: $1 shard, $2 its id, $3 the other, $4 version, $5 input; $6 the run that waits for it, if one does, $7 the frame and
-- $8 the node of the step that does, which is at its first attempt.
insert into longshore.workflow_runs (run_id, workflow_id, version_id, shard, priority, input, rerun_of, parent_run_id, parent_frame, parent_node, parent_attempt,
    depth, close_policy, awaited)
select $2, r.workflow_id, $4, r.shard, r.priority, $5::jsonb, r.run_id, $6::uuid, $7::int, $8::int, case when $6 is not null then 1 end,
    case when $6 is not null then coalesce((select p.depth from longshore.workflow_runs p where p.shard = $1 and p.run_id = $6), 0) + 1 end,
    case when $6 is not null then r.close_policy end, case when $6 is not null then true end
from longshore.workflow_runs r
where r.shard = $1 and r.run_id = $3
