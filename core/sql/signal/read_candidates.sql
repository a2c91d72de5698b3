-- For each waiting step (run, frame, node): the first p_limit untaken signals it waits for after number p_after, in the order they were sent.
-- Nothing for a step that waits no more.
create or replace function longshore.read_candidates(p_shard smallint, p_runs uuid[], p_frames int[], p_nodes int[], p_after bigint[], p_limit int)
returns table (of_step bigint, signal_id bigint, name text, payload text, sent_at timestamptz)
language plpgsql stable
set search_path = longshore, pg_temp
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $read_candidates$
#variable_conflict use_column
begin
    return query
        select t.o, c.signal_id, c.name, c.payload::text, c.sent_at
        from unnest(p_runs, p_frames, p_nodes, p_after) with ordinality t (run_id, frame, node, after, o),
            lateral (select x.names from step_waiting x
                     where x.shard = p_shard and x.run_id = t.run_id and x.frame = t.frame and x.node = t.node and x.woken_at is null offset 0) w,
            lateral (select s.signal_id, s.name, s.payload, s.sent_at
                     from unnest(w.names) m (name),
                         lateral (select x.signal_id, x.name, x.payload, x.sent_at from signals x
                                  where x.shard = p_shard and x.run_id = t.run_id and x.name = m.name and x.taken_at is null and x.signal_id > t.after
                                  order by x.signal_id limit p_limit) s
                     order by s.signal_id limit p_limit) c
        order by t.o, c.signal_id;
end
$read_candidates$;
