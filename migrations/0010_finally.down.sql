drop function if exists longshore.read_frames;
create or replace view longshore.block_group_runs as
select f.shard, f.run_id, f.frame, f.parent, n.id as block, n.type, f.attempt, nullif(f.iteration, -1) as iteration,
    case when f.state = 1 and r.state >= 3 then 'canceled' else (array['running', null, 'completed', 'failed', 'canceled'])[f.state] end as state,
    f.input, f.output, f.error, f.created_at, f.finished_at
from longshore.frames f
join longshore.workflow_runs r on r.shard = f.shard and r.run_id = f.run_id
join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = f.node;
-- nobody would know the step jobs that begin a `finally`
delete from longshore.step_ready where node = -11;
delete from longshore.step_delayed where node = -11;
alter table longshore.frames drop column shield, drop column cleanup;
alter table longshore.closed drop column bounded;
