drop view longshore.block_group_runs, longshore.body_instances;
drop table longshore.frame_chunks, longshore.frames;
drop sequence longshore.frame_seq;
drop function longshore.frame_is_sound(int, int, int, int, int, smallint, timestamptz, jsonb, jsonb);
alter table longshore.workflow_nodes drop column body, drop column on_error;
delete from longshore.step_joins where node < -2;
delete from longshore.execution_step_attempts where node < -2;
alter table longshore.step_joins drop constraint step_joins_node_check, add constraint step_joins_node_check check (node >= -2);
alter table longshore.execution_step_attempts drop constraint execution_step_attempts_node_check,
    add constraint execution_step_attempts_node_check check (node >= -2) not valid;
