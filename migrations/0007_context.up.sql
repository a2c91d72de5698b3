-- A run's context: JSON that its nodes and handlers change while it goes on.

-- How often a run's context was changed; no row: never. Whoever changes it holds the row until the change is committed, so changes have an order.
create table longshore.context_heads (
    run_id uuid not null,
    n      int not null check (n >= 0),
    shard  smallint not null,
    primary key (shard, run_id)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);

-- The context after each change; the newest is the context. 0 is what it was before the first.
-- reason: 1 init, 2 step (a step changed it), 3 final (the run completed), 4 error (it failed). frame, node, attempt: the step that wrote.
create table longshore.execution_context_snapshots (
    run_id  uuid not null,
    at      timestamptz not null default now(),
    n       int not null check (n >= 0),
    frame   int,
    node    int,
    attempt int,
    shard   smallint not null,
    reason  smallint not null check (reason between 1 and 4),
    context jsonb not null check (jsonb_typeof(context) = 'object'),
    primary key (shard, run_id, n),
    check ((reason = 2) = (node is not null) and (node is null) = (frame is null) and (node is null) = (attempt is null))
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
