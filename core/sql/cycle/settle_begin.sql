-- First half of settling: what is closed now, then, in a later statement, every lane and its cycle. Once each of these lanes has passed its
-- baton (or is gone), no cycle can be left that began before the closings were visible.
-- A cycle that opens a lane has no baton to wait for, and what it claims may have been read as live before it was closed. But it locks the step job
-- before it reads: as long as one is locked, its closing is left for the next time. Who claims after that reads that it is closed.
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
declare
    q record;
    v_free boolean;
begin
    for q in
        select x.run_id, x.close_id, x.frame
        from (select c.run_id, c.close_id, c.frame from closed c where c.shard = p_shard order by c.run_id, c.close_id limit 1000) x
    loop
        -- both of one snapshot
        select (select count(*) from step_ready s
                where s.shard = p_shard and s.run_id = q.run_id
                  and (q.frame in (0, s.frame) or exists (select from frames f
                       where f.shard = p_shard and f.run_id = s.run_id and f.frame = s.frame and q.frame = any (f.path))))
             = (select count(*) from (
                    select from step_ready s
                    where s.shard = p_shard and s.run_id = q.run_id
                      and (q.frame in (0, s.frame) or exists (select from frames f
                           where f.shard = p_shard and f.run_id = s.run_id and f.frame = s.frame and q.frame = any (f.path)))
                    for update of s skip locked) l)
        into v_free;
        if v_free then
            run_ids := run_ids || q.run_id; close_ids := close_ids || q.close_id;
        end if;
    end loop;
    if run_ids is null then
        return;
    end if;
    select coalesce(array_agg(l.lane_id), '{}'), coalesce(array_agg(l.cycle), '{}') into lane_ids, cycles from lanes l where l.shard = p_shard;
    return next;
end
$settle_begin$;
