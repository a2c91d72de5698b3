-- Tables of Longshore. Hot rows (step_ready, step_delayed, step_joins, lanes, attempts) are inserted once and deleted once, narrow, without
-- foreign keys or triggers. `shard` leads every run-scoped key, so that the same schema can be distributed by it; one shard (0) today.

create table longshore.queues (
    queue_id   int generated always as identity primary key,
    name       text not null unique check (name ~ '^[A-Za-z0-9_.:-]{1,128}$'),
    created_at timestamptz not null default now()
);
insert into longshore.queues (name) values ('default');

create table longshore.workflows (
    workflow_id int generated always as identity primary key,
    name        text not null unique check (name ~ '^[A-Za-z0-9_.:-]{1,128}$'),
    created_at  timestamptz not null default now()
);

-- A published version never changes: a trigger refuses updates of anything a run depends on (no hot path writes here).
create table longshore.workflow_versions (
    version_id     int generated always as identity primary key,
    workflow_id    int not null references longshore.workflows,
    version        int not null check (version > 0),
    definition     jsonb not null,
    content_hash   text not null,
    first_node     int not null check (first_node >= -1),      -- the entry node, or -1: the engine node `start`
    first_queue_id int not null references longshore.queues,
    published_at   timestamptz not null default now(),
    unique (workflow_id, version)
);

create table longshore.workflow_nodes (
    version_id int not null references longshore.workflow_versions,
    node       int not null check (node >= 0),
    id         text not null,
    type       text not null,
    handler    text,
    queue_id   int not null references longshore.queues,
    indegree   int not null check (indegree >= 0),
    join_need  int not null check (join_need >= 0),             -- 0: all in-edges, n: the first n taken
    primary key (version_id, node),
    unique (version_id, id),
    check ((type = 'task') = (handler is not null))
);

create table longshore.workflow_edges (
    version_id int not null,
    edge       int not null,
    from_node  int not null,
    to_node    int not null,
    on_outcome text not null check (on_outcome in ('success', 'failure', 'always')),
    condition  text,
    primary key (version_id, edge),
    foreign key (version_id, from_node) references longshore.workflow_nodes (version_id, node),
    foreign key (version_id, to_node) references longshore.workflow_nodes (version_id, node)
);

create function longshore.refuse_change() returns trigger language plpgsql set search_path = longshore, pg_temp as $$
begin
    raise exception 'a published version never changes: apply a new version of the workflow instead' using errcode = 'LS009';
end $$;
create trigger published_versions_never_change before update on longshore.workflow_versions
    for each row execute function longshore.refuse_change();

-- What goes with which state of a run. One plpgsql function, not a check for each rule: Postgres reads the text of every check anew for each
-- statement, and a cycle ends its runs one statement at a time (single-step runs cost 37 us each with seven checks, 23 us without).
create function longshore.run_is_sound(p_state smallint, p_priority smallint, p_finished_at timestamptz, p_output jsonb, p_error jsonb) returns boolean
language plpgsql immutable parallel safe as $$
begin
    return p_state between 1 and 5 and p_priority between 0 and 3
        and (p_state <= 2) = (p_finished_at is null)
        and (p_output is null or p_state in (3, 5))
        and (p_error is null or p_state in (4, 5))
        and (p_state <> 4 or p_error is not null);
end $$;

-- A baton lists 1 to 200 steps in arrays of one length.
create function longshore.baton_is_sound(p_runs uuid[], p_frames int[], p_nodes int[], p_kinds smallint[], p_attempts int[], p_claimed timestamptz[])
returns boolean language plpgsql immutable parallel safe as $$
declare
    v_steps int := cardinality(p_runs);
begin
    return v_steps between 1 and 200 and cardinality(p_frames) = v_steps and cardinality(p_nodes) = v_steps and cardinality(p_kinds) = v_steps
        and cardinality(p_attempts) = v_steps and cardinality(p_claimed) = v_steps;
end $$;

-- state: 1 live (queued and running are derived from its steps), 2 paused, 3 completed, 4 failed, 5 canceled
create table longshore.workflow_runs (
    run_id      uuid not null,
    created_at  timestamptz not null default now(),
    run_at      timestamptz,                                    -- when the start was asked for, if later than created_at
    finished_at timestamptz,
    workflow_id int not null,
    version_id  int not null,
    shard       smallint not null,
    state       smallint not null default 1,
    priority    smallint not null,
    key         text,
    input       jsonb not null,
    output      jsonb,
    error       jsonb,
    primary key (shard, run_id),
    constraint sound check (longshore.run_is_sound(state, priority, finished_at, output, error))
) with (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
create unique index workflow_runs_key on longshore.workflow_runs (shard, workflow_id, key) where key is not null;

-- The claim order. CACHE 1 and a fresh value for every insert: a claim trails its low-water mark only 100 ms behind.
-- The value carries the clock (microseconds since 2024 << 13), 5 bits of node and 8 bits of sequence, so that rows enqueued through any node
-- of a distributed engine compare; it is also when the row was enqueued.
create sequence longshore.ready_seq cache 1;
create sequence longshore.delayed_seq cache 1;
create sequence longshore.close_seq cache 1;

-- priority 0 to 3, the smaller first; 16 to 19: the same for a step job that must be alone in its lane (it was lost before).
-- kind: 0 run the node; 1 the node is skipped: say so to its successors; 2 a join that fired early has all its in-edges resolved now;
--       3 a delay is over; 4 the attempt is written, spread its consequences.
-- failed, lost: earlier attempts that count toward max_attempts, and losses suffered alone.
create table longshore.step_ready (
    seq        bigint not null default (
        (((extract(epoch from clock_timestamp()) * 1000000)::bigint - 1704067200000000) << 13)
        | (((nextval('longshore.ready_seq') >> 48) & 31) << 8) | (currval('longshore.ready_seq') & 255)),
    run_id     uuid not null,
    version_id int not null,
    queue_id   int not null,
    frame      int not null default 0,
    node       int not null,
    attempt    int not null check (attempt >= 0),
    shard      smallint not null,
    priority   smallint not null check (priority between 0 and 3 or priority between 16 and 19),
    kind       smallint not null check (kind between 0 and 4),
    failed     smallint not null default 0,
    lost       smallint not null default 0,
    primary key (shard, queue_id, priority, seq)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_analyze_scale_factor = 0.2,
        autovacuum_vacuum_cost_delay = 0, autovacuum_vacuum_insert_threshold = -1, vacuum_truncate = off);
create index step_ready_run on longshore.step_ready (shard, run_id);

create table longshore.step_delayed (
    due_at     timestamptz not null,
    seq        bigint not null default nextval('longshore.delayed_seq'),
    run_id     uuid not null,
    version_id int not null,
    queue_id   int not null,
    frame      int not null default 0,
    node       int not null,
    attempt    int not null check (attempt >= 0),
    shard      smallint not null,
    priority   smallint not null check (priority between 0 and 3 or priority between 16 and 19),
    kind       smallint not null check (kind between 0 and 4),
    failed     smallint not null default 0,
    lost       smallint not null default 0,
    primary key (shard, due_at, seq)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_analyze_scale_factor = 0.2,
        autovacuum_vacuum_cost_delay = 0, autovacuum_vacuum_insert_threshold = -1, vacuum_truncate = off);
create index step_delayed_run on longshore.step_delayed (shard, run_id);

-- A join that has begun to count. Node -2 is the end of the run: a join of its sinks.
create table longshore.step_joins (
    run_id   uuid not null,
    frame    int not null,
    node     int not null check (node >= -2),
    resolved int not null check (resolved > 0),
    taken    int not null check (taken between 0 and resolved),
    shard    smallint not null,
    primary key (shard, run_id, frame, node)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_vacuum_insert_threshold = -1, vacuum_truncate = off);

-- A lane's baton: the lease of every step in its arrays. Each cycle deletes row n and inserts row n + 1.
create table longshore.lanes (
    lane_id    bigint not null,
    cycle      bigint not null,
    expires_at timestamptz not null,
    shard      smallint not null,
    run_ids    uuid[] not null,
    frames     int[] not null,
    nodes      int[] not null,
    kinds      smallint[] not null,
    attempts   int[] not null,
    claimed_at timestamptz[] not null,
    primary key (shard, lane_id, cycle),
    constraint sound check (longshore.baton_is_sound(run_ids, frames, nodes, kinds, attempts, claimed_at))
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_vacuum_insert_threshold = -1, vacuum_truncate = off, toast_tuple_target = 8160);
-- 200 steps fit a page as they are, so nothing is compressed (that was 4 % of Postgres' time); `main`: should they ever not, compressed in line, never out of line; plain would refuse 300 held steps, extended would toast each cycle.
alter table longshore.lanes alter run_ids set storage main, alter frames set storage main, alter nodes set storage main,
    alter kinds set storage main, alter attempts set storage main, alter claimed_at set storage main;

-- Which worker a lane belongs to. The reaper probes the newest baton of each lane named here, so dead batons cost it nothing.
create table longshore.worker_lanes (
    lane_id   bigint not null,
    worker_id uuid not null,
    shard     smallint not null,
    primary key (shard, lane_id)
);

-- A run that ended while steps of it may be out. Nearly always empty; every cycle that ends steps probes it.
create table longshore.closed (
    run_id    uuid not null,
    close_id  bigint not null default nextval('longshore.close_seq'),
    frame     int not null default 0,
    closed_at timestamptz not null default clock_timestamp(),
    shard     smallint not null,
    primary key (shard, run_id, close_id)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);

-- outcome: 1 completed, 2 failed, 3 lost, 4 canceled, 5 skipped, 6 released.
-- attempt: from 1 without gaps; 0 for the record of a skipped node. node -1 is the engine node `start`, -2 `end`.
-- Partitioned by run_id (its first bits are the start time), so old months are dropped, not deleted. No default partition.
create table longshore.execution_step_attempts (
    run_id      uuid not null,
    frame       int not null,
    node        int not null check (node >= -2),
    attempt     int not null,
    duration_ms real,                                            -- by the worker's monotonic clock; null when no handler ran
    lane_id     bigint not null,
    enqueued_at timestamptz,
    claimed_at  timestamptz,
    finished_at timestamptz not null,
    shard       smallint not null,
    outcome     smallint not null check (outcome between 1 and 6),
    output      jsonb,
    error       jsonb,
    primary key (shard, run_id, frame, node, attempt),
    check ((attempt = 0) = (outcome = 5) and attempt >= 0),
    check ((outcome = 1) = (output is not null) and (outcome not in (2, 3, 5) or error is not null))
) partition by range (run_id);

create table longshore.workers (
    worker_id    uuid primary key,
    name         text not null,
    host         text not null,
    pid          int not null,
    version      text not null,
    started_at   timestamptz not null default now(),
    heartbeat_at timestamptz not null default now(),
    draining     boolean not null default false,
    queues       text[] not null,
    handlers     text[] not null,
    slots        int not null
) with (fillfactor = 50);
