-- Blocks: nodes that hold bodies. Each instance of a body within a run is a frame.

-- body: the graph within the version that the node belongs to; 0 is the run's own.
-- on_error: what its giving up means.
alter table longshore.workflow_nodes add column body int not null default 0 check (body >= 0),
    add column on_error text not null default 'fail' check (on_error in ('fail', 'continue', 'fallback', 'skip'));

-- The numbers of frames, unique within a run. Workers take 1024 at a time.
create sequence longshore.frame_seq as int increment 1024 minvalue 1 maxvalue 2147482625 cycle cache 1;

-- What goes with what in a frame; one function, as for runs. Each frame is updated once, so half of a page is kept for that.
create function longshore.frame_is_sound(p_frame int, p_parent int, p_node int, p_attempt int, p_iteration int, p_state smallint,
    p_finished_at timestamptz, p_output jsonb, p_error jsonb) returns boolean
language plpgsql immutable parallel safe as $$
begin
    return p_frame > 0 and p_parent >= 0 and p_node >= 0 and p_attempt > 0 and p_iteration >= -1
        and p_state in (1, 3, 4, 5) and (p_state = 1) = (p_finished_at is null)
        and (p_state = 3) = (p_output is not null) and (p_state = 4) = (p_error is not null);
end $$;

-- One instance of a block (whole) or of one of its bodies; of if and switch, whose one body is all they do, one row is both.
-- node, attempt: the block, and which of its attempts. parent: the frame of that node, 0 being the run's own graph; for a body, the block's instance.
-- iteration: the item, the pass, or which of its bodies; -1 for an instance that is no body. body: the graph it is an instance of, if any. path: the frames around it, the outermost first, without 0.
-- before: the frames that led to this one: the last passes of a while that keeps only some, the body or catch before a finally.
-- failed: attempts of the block that failed before. bounds: how many iterations there are and how they go on, for an instance of parallel or foreach.
-- state: 1 live, 3 completed, 4 failed, 5 canceled. A frame whose run has ended, or one around it, is not live whatever it says.
create table longshore.frames (
    run_id      uuid not null,
    created_at  timestamptz not null default now(),
    finished_at timestamptz,
    frame       int not null,
    parent      int not null,
    node        int not null,
    attempt     int not null,
    iteration   int not null,
    body        int,
    shard       smallint not null,
    state       smallint not null default 1,
    failed      smallint not null default 0,
    whole       boolean not null,
    path        int[] not null,
    before      int[],
    bounds      jsonb,
    input       jsonb,
    output      jsonb,
    error       jsonb,
    primary key (shard, run_id, frame),
    constraint sound check (longshore.frame_is_sound(frame, parent, node, attempt, iteration, state, finished_at, output, error))
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);

-- The iterations of a block that runs its bodies at once, those that begin together to a row: their frames, numbered from `first` on, or, of a foreach,
-- the items of those that have not begun. (Not an index of frames by parent: with two indexes that begin with the run, a plan made while the table is
-- empty may take the wrong one, and a lookup of one frame then reads all of the run's.)
create table longshore.frame_chunks (
    run_id uuid not null,
    frame  int not null,
    chunk  int not null check (chunk >= 0),
    first  int,
    count  int not null check (count > 0),
    shard  smallint not null,
    items  jsonb,
    check (first is null or items is null),
    primary key (shard, run_id, frame, chunk)
) with (fillfactor = 80);

-- (Not validated, which would read every attempt there is under a lock: what is there kept a narrower rule.)
-- Engine nodes of a frame: -2 its end; -3 the count of its failed iterations, a join; -4 opens iterations; -5 a body of it ended; -6 its timeout.
alter table longshore.step_joins drop constraint step_joins_node_check, add constraint step_joins_node_check check (node >= -3);
alter table longshore.execution_step_attempts drop constraint execution_step_attempts_node_check,
    add constraint execution_step_attempts_node_check check (node >= -3) not valid;

-- The instances of blocks and of their bodies.
create view longshore.block_group_runs as
select f.shard, f.run_id, f.frame, f.parent, n.id as block, n.type, f.attempt, nullif(f.iteration, -1) as iteration,
    case when f.state = 1 and r.state >= 3 then 'canceled' else (array['running', null, 'completed', 'failed', 'canceled'])[f.state] end as state,
    f.input, f.output, f.error, f.created_at, f.finished_at
from longshore.frames f
join longshore.workflow_runs r on r.shard = f.shard and r.run_id = f.run_id
join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = f.node;

-- The instances of graphs: each run's own (frame 0, body 0), and the frames of bodies. state as of a run; a frame that was cut off counts as canceled.
create view longshore.body_instances as
select r.shard, r.run_id, 0 as frame, r.version_id, 0 as body, r.state
from longshore.workflow_runs r
union all
select f.shard, f.run_id, f.frame, r.version_id, f.body,
    case when f.state = 1 and (r.state >= 3 or exists (select from longshore.closed c where c.shard = f.shard and c.run_id = f.run_id)) then 5::smallint
        else f.state end
from longshore.frames f
join longshore.workflow_runs r on r.shard = f.shard and r.run_id = f.run_id
where f.body is not null;
