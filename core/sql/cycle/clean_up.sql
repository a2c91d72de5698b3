-- Make the step job that begins the `finally` of a `try` that was cut off, or, given the frame of a `finally` at work, bounds its time.
create or replace function longshore.clean_up(p_shard smallint, p_run uuid, p_frame int)
returns void
language plpgsql volatile
set search_path = longshore, pg_temp
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $clean_up$
begin
    insert into step_ready (shard, queue_id, priority, run_id, version_id, frame, node, kind, attempt)
    select p_shard, v.first_queue_id, r.priority, p_run, r.version_id, p_frame, -11, 4, p_frame
    from workflow_runs r, lateral (select x.first_queue_id from workflow_versions x where x.version_id = r.version_id offset 0) v
    where r.shard = p_shard and r.run_id = p_run;
end
$clean_up$;
