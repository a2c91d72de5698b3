-- For workers of 0.1.0: cycle_2, which took its place, without what concerns blocks.
create or replace function longshore.cycle(
    p_shard smallint, p_lane bigint, p_cycle bigint, p_lease interval, p_worker uuid, p_open boolean, p_look boolean,
    p_ended uuid[], p_known bigint[],
    j_run uuid[], j_frame int[], j_node int[], j_resolved int[], j_taken int[], j_indegree int[], j_need int[],
    j_queue int[], j_priority smallint[], j_version int[], j_keep boolean[], p_keep int,
    g_run uuid[], g_frame int[], g_node int[],
    z_run uuid[], z_state smallint[], z_output text[], z_error text[], z_close boolean[],
    a_run uuid[], a_frame int[], a_node int[], a_attempt int[], a_outcome smallint[], a_enqueued timestamptz[], a_claimed timestamptz[],
    a_duration real[], a_output text[], a_error text[],
    d_after_us bigint[], d_at timestamptz[], d_queue int[], d_priority smallint[], d_run uuid[], d_version int[], d_frame int[], d_node int[],
    d_kind smallint[], d_attempt int[], d_failed smallint[], d_lost smallint[],
    s_queue int[], s_priority smallint[], s_run uuid[], s_version int[], s_frame int[], s_node int[],
    s_kind smallint[], s_attempt int[], s_failed smallint[], s_lost smallint[],
    b_lane bigint[], b_run uuid[], b_frame int[], b_node int[], b_kind smallint[], b_attempt int[], b_claimed timestamptz[],
    q_queue int[], q_priority smallint[], q_low bigint[], q_limit int[], p_limit int,
    h_run uuid[], h_frame int[], h_node int[], h_kind smallint[], h_attempt int[], h_claimed timestamptz[]
) returns table (
    tag text, run_id uuid, version_id int, frame int, node int, kind smallint, attempt int, failed smallint, lost smallint,
    queue_id int, priority smallint, seq bigint, at timestamptz, state smallint, input text, key text
)
language plpgsql volatile
set search_path = longshore, pg_temp
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $cycle$
#variable_conflict use_column
begin
    return query
        select tag, run_id, version_id, frame, node, kind, attempt, failed, lost, queue_id, priority, seq, at, state, input, key
        from cycle_2(
            p_shard, p_lane, p_cycle, p_lease, p_worker, p_open, p_look, p_ended, p_known, j_run, j_frame, j_node, j_resolved, j_taken, j_indegree,
            j_need, j_queue, j_priority, j_version, j_keep, p_keep, null, null, g_run, g_frame, g_node, z_run, z_state, z_output, z_error, z_close,
            a_run, a_frame, a_node, a_attempt, a_outcome, a_enqueued, a_claimed, a_duration, a_output, a_error, d_after_us, d_at, d_queue, d_priority,
            d_run, d_version, d_frame, d_node, d_kind, d_attempt, d_failed, d_lost, s_queue, s_priority, s_run, s_version, s_frame, s_node, s_kind,
            s_attempt, s_failed, s_lost, b_lane, b_run, b_frame, b_node, b_kind, b_attempt, b_claimed, q_queue, q_priority, q_low, q_limit, p_limit,
            h_run, h_frame, h_node, h_kind, h_attempt, h_claimed, null);
end
$cycle$;
