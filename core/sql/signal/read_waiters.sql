-- The steps of these runs that wait for a signal of a name that is there untaken, or (names is one empty text) for the context: each looks for itself.
create or replace function longshore.read_waiters(p_shard smallint, p_runs uuid[])
returns table (run_id uuid, frame int, node int)
language plpgsql stable
set search_path = longshore, pg_temp
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $read_waiters$
#variable_conflict use_column
begin
    return query
        select t.run_id, w.frame, w.node
        from unnest(p_runs) t (run_id),
            lateral (select x.frame, x.node, x.names from step_waiting x
                     where x.shard = p_shard and x.run_id = t.run_id and x.woken_at is null order by x.frame, x.node offset 0) w
        where w.names = array[''] or (select true from unnest(w.names) m (name),
                   lateral (select from signals s where s.shard = p_shard and s.run_id = t.run_id and s.name = m.name and s.taken_at is null limit 1) s
               limit 1);
end
$read_waiters$;
