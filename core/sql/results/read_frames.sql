-- Frames and those around them: for each (run, frame) its row, with the frames around it (`path`, the outermost first); then the rows of all those around,
-- each once and without a path. An instance of a block comes without its input, which only its bodies are given; `live` says of the one frame alone
-- that it has not ended, `finally` that it is the body of one.
create or replace function longshore.read_frames(p_shard smallint, p_runs uuid[], p_frames int[])
returns table (run_id uuid, frame int, path int[], before int[], parent int, node int, attempt int, iteration int, live boolean, failed smallint, whole boolean,
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
        with own as materialized (
            select t.run_id, f.frame, f.path, f.before, f.parent, f.node, f.attempt, f.iteration, f.state, f.failed, f.whole, f.bounds, f.input, f.created_at, f.shield
            from unnest(p_runs, p_frames) t (run_id, frame),
                lateral (select x.frame, x.path, x.before, x.parent, x.node, x.attempt, x.iteration, x.state, x.failed, x.whole, x.bounds, x.input, x.created_at, x.shield
                         from frames x where x.shard = p_shard and x.run_id = t.run_id and x.frame = t.frame offset 0) f)
        select o.run_id, o.frame, o.path, o.before, o.parent, o.node, o.attempt, o.iteration, o.state = 1, o.failed, o.whole, o.bounds::text,
            case when o.iteration >= 0 then o.input::text end, o.created_at, o.shield is not distinct from o.frame
        from own o
        union all
        select a.run_id, f.frame, null, f.before, f.parent, f.node, f.attempt, f.iteration, f.state = 1, f.failed, f.whole, f.bounds::text,
            case when f.iteration >= 0 then f.input::text end, f.created_at, f.shield is not distinct from f.frame
        from (select distinct o.run_id, p.frame from own o, unnest(o.path) p (frame)) a,
            lateral (select x.frame, x.before, x.parent, x.node, x.attempt, x.iteration, x.state, x.failed, x.whole, x.bounds, x.input, x.created_at, x.shield
                     from frames x where x.shard = p_shard and x.run_id = a.run_id and x.frame = a.frame offset 0) f;
end
$read_frames$;
