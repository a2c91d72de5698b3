-- First half of settling: what is closed now, then, in a later statement, every lane and its cycle. Once each of these lanes has passed its
-- baton (or is gone), no cycle can be left that began before the closings were visible.
-- (A cycle that opens a lane has no baton to wait for: settle looks after those.)
-- Closings wait as long as a `finally` below them is at work, so those that are looked at are not always the same.
create or replace function longshore.settle_begin(p_shard smallint)
returns table (run_ids uuid[], close_ids bigint[], lane_ids bigint[], cycles bigint[])
language plpgsql volatile
set search_path = longshore, pg_temp
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $settle_begin$
#variable_conflict use_column
begin
    select array_agg(x.run_id), array_agg(x.close_id) into run_ids, close_ids
    from (select c.run_id, c.close_id from closed c where c.shard = p_shard order by random() limit 1000) x;
    if run_ids is null then
        return;
    end if;
    select coalesce(array_agg(l.lane_id), '{}'), coalesce(array_agg(l.cycle), '{}') into lane_ids, cycles from lanes l where l.shard = p_shard;
    return next;
end
$settle_begin$;
