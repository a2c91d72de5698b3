-- The inputs of runs that were too large to come with the claim.
create or replace function longshore.read_inputs(p_shard smallint, p_runs uuid[])
returns table (run_id uuid, input text)
language plpgsql stable
set search_path = longshore, pg_temp
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $read_inputs$
#variable_conflict use_column
begin
    return query
        select t.run_id, (select w.input::text from workflow_runs w where w.shard = p_shard and w.run_id = t.run_id)
        from unnest(p_runs) t (run_id);
end
$read_inputs$;
