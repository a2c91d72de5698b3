-- End a step inside a caller's transaction: delete its private baton, record the attempt, enqueue the job that spreads its consequences.
-- Touches nothing that another lane could wait for. Returns false, and does nothing, when the lease was lost.
create or replace function longshore.complete_in(p_shard smallint, p_lane bigint, p_cycle bigint, p_queue int, p_priority smallint, p_run uuid, p_version int,
    p_frame int, p_node int, p_attempt int, p_enqueued timestamptz, p_claimed timestamptz, p_duration real, p_output text)
returns boolean
language plpgsql volatile
set search_path = longshore, pg_temp
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
as $complete_in$
#variable_conflict use_column
begin
    delete from lanes l where l.shard = p_shard and l.lane_id = p_lane and l.cycle = p_cycle;
    if not found then
        return false;
    end if;
    insert into execution_step_attempts (shard, run_id, frame, node, attempt, outcome, lane_id, enqueued_at, claimed_at, finished_at, duration_ms, output)
    values (p_shard, p_run, p_frame, p_node, p_attempt, 1, p_lane, p_enqueued, p_claimed, clock_timestamp(), p_duration, p_output::jsonb);
    insert into step_ready (shard, queue_id, priority, run_id, version_id, frame, node, kind, attempt)
    values (p_shard, p_queue, p_priority, p_run, p_version, p_frame, p_node, 4, p_attempt);
    delete from worker_lanes w where w.shard = p_shard and w.lane_id = p_lane;
    return true;
end
$complete_in$;
