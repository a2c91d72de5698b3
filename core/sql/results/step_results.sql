-- What steps gave: for each (run, frame, node) its completed output (outcome 1), or the error it gave up with (outcome 2); no row when it has
-- neither. Reads by the primary key's prefix; a step has a handful of attempts.
create or replace function longshore.step_results(p_shard smallint, p_runs uuid[], p_frames int[], p_nodes int[])
returns table (run_id uuid, frame int, node int, outcome smallint, value text)
language plpgsql stable
set search_path = longshore, pg_temp
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $step_results$
#variable_conflict use_column
begin
    return query
        select t.run_id, t.frame, t.node, a.outcome, a.value
        from unnest(p_runs, p_frames, p_nodes) t (run_id, frame, node),
            lateral (select e.outcome, coalesce(e.output, e.error)::text as value
                     from execution_step_attempts e
                     where e.shard = p_shard and e.run_id = t.run_id and e.frame = t.frame and e.node = t.node and e.outcome in (1, 2)
                     order by e.attempt desc limit 1) a;
end
$step_results$;
