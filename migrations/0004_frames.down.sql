drop view longshore.block_group_runs, longshore.body_instances;
create or replace view longshore.execution_steps as
select distinct on (s.shard, s.run_id, s.frame, s.node) s.shard, s.run_id, s.frame, s.node, s.state, s.attempt, s.since, s.until
from (
    select shard, run_id, frame, node, 'ready'::text as state, attempt, longshore.seq_time(seq) as since, null::timestamptz as until, true as home
    from longshore.step_ready where kind in (0, 3)
    union all
    select shard, run_id, frame, node, 'delayed', attempt, null, due_at, true
    from longshore.step_delayed where kind in (0, 3)
    union all
    select shard, run_id, frame, node, 'running', attempt, claimed_at, expires_at, true
    from longshore.step_leases where kind in (0, 3)
    union all
    select shard, run_id, frame, node, (array['completed', 'failed', 'failed', 'canceled', 'skipped', 'canceled'])[outcome], attempt, finished_at, null, false
    from longshore.execution_step_attempts
) s
where s.node >= 0
order by s.shard, s.run_id, s.frame, s.node, s.home desc, s.attempt desc;
drop table longshore.frame_chunks, longshore.frames;
drop sequence longshore.frame_seq;
drop function longshore.frame_is_sound(int, int, int, int, int, smallint, timestamptz, jsonb, jsonb);
alter table longshore.workflow_nodes drop column body, drop column on_error;
delete from longshore.step_joins where node < -2;
delete from longshore.execution_step_attempts where node < -2;
alter table longshore.step_joins drop constraint step_joins_node_check, add constraint step_joins_node_check check (node >= -2);
alter table longshore.execution_step_attempts drop constraint execution_step_attempts_node_check,
    add constraint execution_step_attempts_node_check check (node >= -2) not valid;
