-- Second half of settling: if every baton seen by settle_begin is gone, remove what the closed runs left: joins, and step jobs nobody had
-- claimed (each try gets its record, `canceled`). The row in closed goes when no baton holds the run any more.
-- Returns how many closings were removed, or null while a baton of settle_begin still stands. Safe to call again.
create or replace function longshore.settle(p_shard smallint, p_runs uuid[], p_closes bigint[], p_lanes bigint[], p_cycles bigint[])
returns int
language plpgsql volatile
set search_path = longshore, pg_temp
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $settle$
#variable_conflict use_column
declare
    q record;
    v_settled int := 0;
    v_held uuid[];
    m_run uuid[]; m_frame int[]; m_node int[]; m_kind smallint[]; m_attempt int[];
begin
    for q in select t.lane_id, t.cycle from unnest(p_lanes, p_cycles) t (lane_id, cycle) loop
        perform from lanes l where l.shard = p_shard and l.lane_id = q.lane_id and l.cycle = q.cycle;
        if found then
            return null;
        end if;
    end loop;
    select array_agg(distinct h.run_id) into v_held
    from (select unnest(l.run_ids) as run_id from lanes l where l.shard = p_shard) h where h.run_id = any (p_runs);
    for q in select t.run_id, t.close_id from unnest(p_runs, p_closes) t (run_id, close_id) order by t.run_id, t.close_id loop
        -- one settler per closing: the others skip it
        perform from closed c where c.shard = p_shard and c.run_id = q.run_id and c.close_id = q.close_id for update skip locked;
        continue when not found;
        delete from step_joins j where j.shard = p_shard and j.run_id = q.run_id;
        with d as (
            delete from step_ready r
            where (r.shard = p_shard and r.attempt >= 0 or p_shard = r.shard and r.attempt < 0)
              and r.ctid = any (array(select s.ctid from step_ready s where s.shard = p_shard and s.run_id = q.run_id for update skip locked))
            returning r.run_id, r.frame, r.node, r.kind, r.attempt)
        select array_agg(d.run_id), array_agg(d.frame), array_agg(d.node), array_agg(d.kind), array_agg(d.attempt)
        into m_run, m_frame, m_node, m_kind, m_attempt from d;
        insert into execution_step_attempts (shard, run_id, frame, node, attempt, outcome, lane_id, finished_at)
        select p_shard, t.run_id, t.frame, t.node, t.attempt, 4, 0, now()
        from unnest(m_run, m_frame, m_node, m_kind, m_attempt) t (run_id, frame, node, kind, attempt) where t.kind in (0, 3)
        on conflict (shard, run_id, frame, node, attempt) do nothing;
        with d as (
            delete from step_delayed r
            where (r.shard = p_shard and r.attempt >= 0 or p_shard = r.shard and r.attempt < 0)
              and r.ctid = any (array(select s.ctid from step_delayed s where s.shard = p_shard and s.run_id = q.run_id for update skip locked))
            returning r.run_id, r.frame, r.node, r.kind, r.attempt)
        select array_agg(d.run_id), array_agg(d.frame), array_agg(d.node), array_agg(d.kind), array_agg(d.attempt)
        into m_run, m_frame, m_node, m_kind, m_attempt from d;
        insert into execution_step_attempts (shard, run_id, frame, node, attempt, outcome, lane_id, finished_at)
        select p_shard, t.run_id, t.frame, t.node, t.attempt, 4, 0, now()
        from unnest(m_run, m_frame, m_node, m_kind, m_attempt) t (run_id, frame, node, kind, attempt) where t.kind in (0, 3)
        on conflict (shard, run_id, frame, node, attempt) do nothing;
        if q.run_id <> all (coalesce(v_held, '{}')) then
            delete from closed c where c.shard = p_shard and c.run_id = q.run_id and c.close_id = q.close_id;
            v_settled := v_settled + 1;
        end if;
    end loop;
    return v_settled;
end
$settle$;
