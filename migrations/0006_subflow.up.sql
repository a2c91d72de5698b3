-- Child runs: what a `subflow` node starts.

-- Null in a run that nobody's step started. parent_*: the step that did, and which attempt of it. depth: how many runs are around it.
-- awaited: that step waits for its end. close_policy: what becomes of it when that step, or its run, ends before: 1 it is canceled, 2 it lives on,
-- 3 it is asked by the signal cancel_requested. (No check: what must be true of a run is asked at each of its two writes.)
alter table longshore.workflow_runs add column parent_run_id uuid, add column parent_frame int, add column parent_node int,
    add column parent_attempt int, add column depth smallint, add column close_policy smallint, add column awaited boolean;
create index workflow_runs_parent on longshore.workflow_runs (shard, parent_run_id, parent_frame) where parent_run_id is not null;

-- Which workflow a node starts, and the version it is pinned to; null: the newest when its step starts.
alter table longshore.workflow_nodes add column child_workflow_id int references longshore.workflows,
    add column child_version_id int references longshore.workflow_versions,
    add check (child_version_id is null or child_workflow_id is not null);

-- A step may wait for a run instead of signals: it has no names.
alter table longshore.step_waiting add column child_run_id uuid, add check (child_run_id is null or names = '{}' and signal_id is null);
