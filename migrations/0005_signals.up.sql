-- Signals: what is sent to a run, and the steps that wait for it.

-- A number for each signal. CACHE 1: of two signals that one session sends the second has the larger.
create sequence longshore.signal_seq cache 1;

-- A signal that was sent to a run. It stays untaken until a step that waits for it takes it, at most one does.
-- taken_frame, taken_node: who took it. refused: the payload is not what that step may be given; it waits on.
create table longshore.signals (
    signal_id   bigint not null default nextval('longshore.signal_seq'),
    run_id      uuid not null,
    sent_at     timestamptz not null default clock_timestamp(),
    taken_at    timestamptz,
    taken_frame int,
    taken_node  int,
    shard       smallint not null,
    name        text not null check (length(name) between 1 and 256),
    key         text check (length(key) between 1 and 512),
    payload     jsonb not null,
    refused     text,
    primary key (shard, run_id, signal_id),
    check ((taken_at is null) = (taken_frame is null) and (taken_at is null) = (taken_node is null) and (refused is null or taken_at is not null))
) with (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
create unique index signals_key on longshore.signals (shard, run_id, key) where key is not null;
create index signals_untaken on longshore.signals (shard, run_id, name, signal_id) where taken_at is null;

-- A step that waits: from the moment it is announced until it is woken this row is its home. Whoever sets woken_at wakes it, once: with the signal it
-- took, or without one when its time is over; the step job that is made then is its home, and the row goes when the attempt ends.
-- names: the signals it waits for. picky: it asks more of them than the name. since: when it began to wait. due_at, timer_seq: the step_delayed row of its time, if that is bounded.
create table longshore.step_waiting (
    run_id     uuid not null,
    since      timestamptz not null default now(),
    due_at     timestamptz,
    timer_seq  bigint,
    woken_at   timestamptz,
    signal_id  bigint check (signal_id is null or woken_at is not null),
    version_id int not null,
    queue_id   int not null,
    frame      int not null,
    node       int not null check (node >= 0),
    attempt    int not null check (attempt > 0),
    shard      smallint not null,
    priority   smallint not null check (priority between 0 and 3),
    failed     smallint not null default 0,
    picky      boolean not null,
    names      text[] not null,
    primary key (shard, run_id, frame, node)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_vacuum_insert_threshold = -1, vacuum_truncate = off);

-- Which versions wait at all: a signal to a run of any other is only kept.
create index workflow_nodes_wait on longshore.workflow_nodes (version_id) where type in ('wait', 'approval');

alter table longshore.workflow_edges drop constraint workflow_edges_on_outcome_check,
    add constraint workflow_edges_on_outcome_check check (on_outcome in ('success', 'failure', 'always', 'timeout'));

-- As before; a step that waits for a signal is waiting, and a block whose instance is live is running.
create or replace view longshore.execution_steps as
select distinct on (s.shard, s.run_id, s.frame, s.node) s.shard, s.run_id, s.frame, s.node, s.state, s.attempt, s.since, s.until
from (
    select shard, run_id, frame, node, 'ready'::text as state, attempt, longshore.seq_time(seq) as since, null::timestamptz as until, true as home
    from longshore.step_ready where kind in (0, 3)
    union all
    select shard, run_id, frame, node, 'delayed', attempt, null, due_at, true
    from longshore.step_delayed where kind in (0, 3)
    union all
    select shard, run_id, frame, node, 'waiting', attempt, since, due_at, true
    from longshore.step_waiting where woken_at is null
    union all
    select shard, run_id, frame, node, 'running', attempt, claimed_at, expires_at, true
    from longshore.step_leases where kind in (0, 3)
    union all
    select shard, run_id, parent, node, 'running', attempt, created_at, null, true
    from longshore.frames where whole and state = 1
    union all
    select shard, run_id, frame, node, (array['completed', 'failed', 'failed', 'canceled', 'skipped', 'canceled'])[outcome], attempt, finished_at, null, false
    from longshore.execution_step_attempts
) s
where s.node >= 0
order by s.shard, s.run_id, s.frame, s.node, s.home desc, s.attempt desc;
