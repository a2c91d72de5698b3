-- The iterations of blocks that run their bodies at once, in order: for each (run, frame of the block) those that have begun.
create or replace function longshore.read_iterations(p_shard smallint, p_runs uuid[], p_frames int[])
returns table (of_block bigint, frame int, iteration int, state smallint, output text, error text, finished_at timestamptz)
language plpgsql stable
set search_path = longshore, pg_temp
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $read_iterations$
#variable_conflict use_column
begin
    return query
        select t.o, f.frame, f.iteration, f.state, f.output::text, f.error::text, f.finished_at
        from unnest(p_runs, p_frames) with ordinality t (run_id, frame, o),
            lateral (select x.chunk, x.first, x.count from frame_chunks x
                     where x.shard = p_shard and x.run_id = t.run_id and x.frame = t.frame and x.first is not null offset 0) c,
            lateral (select x.frame, x.iteration, x.state, x.output, x.error, x.finished_at
                     from frames x where x.shard = p_shard and x.run_id = t.run_id and x.frame between c.first and c.first + c.count - 1 offset 0) f
        order by t.o, c.chunk, f.frame;
end
$read_iterations$;
