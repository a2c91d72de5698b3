-- The contexts of these runs; one that was never changed is missing.
create or replace function longshore.read_contexts(p_shard smallint, p_runs uuid[])
returns table (run_id uuid, context text)
language plpgsql stable
set search_path = longshore, pg_temp
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $read_contexts$
#variable_conflict use_column
begin
    return query
        select t.run_id, c.context::text
        from unnest(p_runs) t (run_id),
            lateral (select x.context from execution_context_snapshots x
                     where x.shard = p_shard and x.run_id = t.run_id order by x.n desc limit 1) c;
end
$read_contexts$;
