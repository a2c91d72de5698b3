-- Frames by their numbers: for each (run, frame) its row, as far as there is one, then, where p_before says so, those that led to it.
create or replace function longshore.read_instances(p_shard smallint, p_runs uuid[], p_frames int[], p_before boolean[])
returns table (of_instance bigint, frame int, iteration int, state smallint, attempt int, failed smallint, before int[], input text, output text, error text,
    created_at timestamptz, finished_at timestamptz)
language plpgsql stable
set search_path = longshore, pg_temp
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $read_instances$
#variable_conflict use_column
begin
    return query
        select t.o, f.frame, f.iteration, f.state, f.attempt, f.failed, f.before, f.input::text, f.output::text, f.error::text, f.created_at, f.finished_at
        from unnest(p_runs, p_frames, p_before) with ordinality t (run_id, frame, before, o),
            lateral (select t.frame as number, 0::bigint as o
                     union all
                     select b.frame, b.o
                     from (select x.before from frames x where x.shard = p_shard and x.run_id = t.run_id and x.frame = t.frame and t.before offset 0) k,
                         unnest(k.before) with ordinality b (frame, o)) n,
            lateral (select x.frame, x.iteration, x.state, x.attempt, x.failed, x.before, x.input, x.output, x.error, x.created_at, x.finished_at
                     from frames x where x.shard = p_shard and x.run_id = t.run_id and x.frame = n.number offset 0) f
        order by t.o, n.o;
end
$read_instances$;
