-- For each woken step (run, frame, node): since when it had waited, for what, and the signal that woke it; without one its time was over.
create or replace function longshore.read_woken(p_shard smallint, p_runs uuid[], p_frames int[], p_nodes int[])
returns table (of_step bigint, since timestamptz, names text[], signal_id bigint, name text, payload text, sent_at timestamptz)
language plpgsql stable
set search_path = longshore, pg_temp
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $read_woken$
#variable_conflict use_column
begin
    return query
        select t.o, w.since, w.names, w.signal_id, s.name, s.payload::text, s.sent_at
        from unnest(p_runs, p_frames, p_nodes) with ordinality t (run_id, frame, node, o)
        cross join lateral (select x.since, x.names, x.signal_id from step_waiting x
                 where x.shard = p_shard and x.run_id = t.run_id and x.frame = t.frame and x.node = t.node and x.woken_at is not null offset 0) w
        left join lateral (select x.name, x.payload, x.sent_at from signals x
                           where x.shard = p_shard and x.run_id = t.run_id and x.signal_id = w.signal_id offset 0) s on true
        order by t.o;
end
$read_woken$;
