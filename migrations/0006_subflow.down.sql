drop function if exists longshore.cycle_2;
drop function if exists longshore.recover;
-- their runs go on, but nobody would wake them
delete from longshore.step_delayed where node = -9 and (shard, run_id, frame, attempt) in
    (select shard, run_id, frame, node from longshore.step_waiting where child_run_id is not null);
delete from longshore.step_waiting where child_run_id is not null;
alter table longshore.step_waiting drop column child_run_id;
alter table longshore.workflow_nodes drop column child_workflow_id, drop column child_version_id;
drop index longshore.workflow_runs_parent;
alter table longshore.workflow_runs drop column parent_run_id, drop column parent_frame, drop column parent_node, drop column parent_attempt,
    drop column depth, drop column close_policy, drop column awaited;
