-- For workers of 0.1.0: upkeep_2, which took its place, with the end of a lease told as yes or no.
create or replace function longshore.upkeep(p_shard smallint, p_worker uuid, p_queues int[], p_lows bigint[], p_promote int)
returns table (known boolean, live int, promoted int, next_due_us bigint, promoted_queues int[], ready int[], solo int[], expired boolean, closings boolean, took_us bigint)
language plpgsql volatile
set search_path = longshore, pg_temp
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $upkeep$
#variable_conflict use_column
begin
    return query
        select u.known, u.live, u.promoted, u.next_due_us, u.promoted_queues, u.ready, u.solo, coalesce(u.next_expiry_us < 0, false), u.closings, u.took_us
        from upkeep_2(p_shard, p_worker, p_queues, p_lows, p_promote) u;
end
$upkeep$;
