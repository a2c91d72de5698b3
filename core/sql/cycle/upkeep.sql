-- For workers of 0.1.0: upkeep_2, which took its place, with the end of a lease told as yes or no.
create or replace function longshore.upkeep(p_shard smallint, p_worker uuid, p_queues int[], p_lows bigint[], p_promote int)
returns table (known boolean, live int, promoted int, next_due_us bigint, promoted_queues int[], ready int[], solo int[], expired boolean, closings boolean, took_us bigint)
language sql volatile
set search_path = longshore, pg_temp
as $upkeep$
select known, live, promoted, next_due_us, promoted_queues, ready, solo, coalesce(next_expiry_us < 0, false), closings, took_us
from upkeep_2(p_shard, p_worker, p_queues, p_lows, p_promote)
$upkeep$;
