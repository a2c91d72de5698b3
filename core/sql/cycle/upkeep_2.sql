-- What a worker asks at each tick, in one statement: its heartbeat, the timers that are due, and what else there is to do.
-- Returns one row: known = false when the worker's row is gone (register again); live = workers with a heartbeat in the last 30 s;
-- ready, solo = the queues (of p_queues) with step jobs to claim above their marks (p_lows: for each queue the marks of priorities 0 to 3; 0 looks
-- from the start, which walks over dead rows under a pinned snapshot), and with step jobs that must be alone in their lane;
-- next_expiry_us = until the first lease of a registered lane ends, negative when it has: a healthy lane renews its own long before;
-- closings = something awaits settling; took_us = how long looking took here, in microseconds.
create or replace function longshore.upkeep_2(p_shard smallint, p_worker uuid, p_queues int[], p_lows bigint[], p_promote int)
returns table (known boolean, live int, promoted int, next_due_us bigint, promoted_queues int[], ready int[], solo int[], next_expiry_us bigint, closings boolean, took_us bigint)
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
    update workers w set heartbeat_at = now() where w.worker_id = p_worker;
    known := found;
    select p.promoted, p.next_due_us, p.queue_ids into promoted, next_due_us, promoted_queues from promote(p_shard, p_promote) p;
    select count(*) into live from workers w where w.heartbeat_at > now() - interval '30 s';
    -- scalar subqueries, not exists, and in the claim's order: planned while the table was empty, a semi-join or a scan of the index by run reads
    -- the whole backlog
    select array_agg(q.queue_id) into ready from unnest(p_queues) with ordinality q (queue_id, o)
    where (select true from generate_series(0, 3) p (priority),
               lateral (select from step_ready r
                        where r.shard = p_shard and r.queue_id = q.queue_id and r.priority = p.priority
                          and r.seq > p_lows[(q.o - 1) * 4 + p.priority + 1]
                        order by r.seq limit 1) k
           limit 1);
    select array_agg(q.queue_id) into solo from unnest(p_queues) q (queue_id)
    where (select true from step_ready r where r.shard = p_shard and r.queue_id = q.queue_id and r.priority between 16 and 19
           order by r.priority, r.seq limit 1);
    select (extract(epoch from min(k.expires_at) - now()) * 1000000)::bigint into next_expiry_us from worker_lanes w,
        lateral (select b.expires_at from lanes b where b.shard = p_shard and b.lane_id = w.lane_id order by b.cycle desc limit 1) k
        where w.shard = p_shard;
    closings := exists (select from closed c where c.shard = p_shard);
    took_us := (extract(epoch from clock_timestamp() - now()) * 1000000)::bigint;
    return next;
end
$upkeep$;
