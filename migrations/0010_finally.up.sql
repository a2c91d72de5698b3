-- A `finally` runs also where its `try` is cut off: by the end of the run, or of a frame around it.

-- shield: the number of the innermost `finally` at or around the frame; what is closed around that does not concern it.
-- cleanup: of an instance of a `try`: 1 its `finally` has not begun, 2 it was cut off and the step job (node -11) is out that begins it.
-- Of a `finally`: 3 it was closed around, its time is bounded.
alter table longshore.frames add column shield int, add column cleanup smallint check (cleanup in (1, 2, 3));

-- It returns a column more now.
drop function if exists longshore.read_frames;

create or replace view longshore.block_group_runs as
select f.shard, f.run_id, f.frame, f.parent, n.id as block, n.type, f.attempt, nullif(f.iteration, -1) as iteration,
    case when f.state = 1 and r.state >= 3 and f.shield is null then 'canceled'
        else (array['running', null, 'completed', 'failed', 'canceled'])[f.state] end as state,
    f.input, f.output, f.error, f.created_at, f.finished_at
from longshore.frames f
join longshore.workflow_runs r on r.shard = f.shard and r.run_id = f.run_id
join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = f.node;

