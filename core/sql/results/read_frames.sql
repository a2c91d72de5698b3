-- Frames and those around them: for each (run, frame) its row and the rows of its path, the outermost first. An instance of a block comes without its
-- input, which only its bodies are given. `finally`: it is the body of a `finally`.
create or replace function longshore.read_frames(p_shard smallint, p_runs uuid[], p_frames int[])
returns table (run_id uuid, of_frame int, frame int, parent int, node int, attempt int, iteration int, live boolean, failed smallint, whole boolean,
    bounds text, input text, created_at timestamptz, finally boolean)
language plpgsql stable
set search_path = longshore, pg_temp
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $read_frames$
#variable_conflict use_column
begin
    return query
        select t.run_id, t.frame, f.frame, f.parent, f.node, f.attempt, f.iteration, f.state = 1, f.failed, f.whole, f.bounds::text,
            case when f.iteration >= 0 then f.input::text end, f.created_at, f.shield is not distinct from f.frame
        from unnest(p_runs, p_frames) with ordinality t (run_id, frame, o),
            lateral (select x.path from frames x where x.shard = p_shard and x.run_id = t.run_id and x.frame = t.frame offset 0) own,
            unnest(own.path || t.frame) with ordinality p (frame, depth),
            lateral (select x.frame, x.parent, x.node, x.attempt, x.iteration, x.state, x.failed, x.whole, x.bounds, x.input, x.created_at, x.shield
                     from frames x where x.shard = p_shard and x.run_id = t.run_id and x.frame = p.frame offset 0) f
        order by t.o, p.depth;
end
$read_frames$;
