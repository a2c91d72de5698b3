-- Runs that are paused, since when and why. Whoever parks a step of such a run holds the row meanwhile, and whoever resumes the run deletes it before it
-- makes the parked steps ready: so none is parked when the run goes on. The row of a run that ended while it was paused goes when that is settled or pruned.
create table longshore.pauses (
    run_id    uuid not null,
    paused_at timestamptz not null default now(),
    shard     smallint not null,
    why       jsonb not null,
    primary key (shard, run_id)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);

-- parked: the run is paused, and the step is due when it is resumed; due_at is the end of time.
alter table longshore.step_delayed add column parked boolean not null default false;
