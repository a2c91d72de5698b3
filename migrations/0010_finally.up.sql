-- A `finally` runs also where its `try` is cut off: by the end of the run, or of a frame around it.

-- shield: the number of the innermost `finally` at or around the frame; what is closed around that does not concern it.
-- cleanup: of an instance of a `try` that has a `finally`: 1, or 2 if it was cut off and the step job (node -11) is out that begins that. It says nothing
-- any more once there is a frame of the `finally`. (A live frame is not updated but to end it: the cycle ends frames by their place.)
alter table longshore.frames add column shield int, add column cleanup smallint check (cleanup in (1, 2));

-- The time of each `finally` that was at work within it is bounded from now on.
alter table longshore.closed add column bounded boolean not null default false;

create or replace view longshore.block_group_runs as
select f.shard, f.run_id, f.frame, f.parent, n.id as block, n.type, f.attempt, nullif(f.iteration, -1) as iteration,
    case when f.state = 1 and r.state >= 3 and f.shield is null then 'canceled'
        else (array['running', null, 'completed', 'failed', 'canceled'])[f.state] end as state,
    f.input, f.output, f.error, f.created_at, f.finished_at
from longshore.frames f
join longshore.workflow_runs r on r.shard = f.shard and r.run_id = f.run_id
join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = f.node;

