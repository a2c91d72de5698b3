-- For each waiting step (run, frame, node): since when it has waited, for which run, whether it was woken, and how that run stands (no state: it is gone); with p_results what it
-- gave. Nothing for a step that waits for no run.
create or replace function longshore.read_children(p_shard smallint, p_runs uuid[], p_frames int[], p_nodes int[], p_results boolean)
returns table (of_step bigint, since timestamptz, child_run_id uuid, woken boolean, state smallint, output text, error text)
language plpgsql stable
set search_path = longshore, pg_temp
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $read_children$
#variable_conflict use_column
begin
    return query
        select t.o, w.since, w.child_run_id, w.woken_at is not null, r.state, r.output, r.error
        from unnest(p_runs, p_frames, p_nodes) with ordinality t (run_id, frame, node, o)
        cross join lateral (select x.since, x.child_run_id, x.woken_at from step_waiting x
                 where x.shard = p_shard and x.run_id = t.run_id and x.frame = t.frame and x.node = t.node and x.child_run_id is not null offset 0) w
        left join lateral (select x.state, case when p_results then x.output::text end as output, case when p_results then x.error::text end as error
                           from workflow_runs x where x.shard = p_shard and x.run_id = w.child_run_id offset 0) r on true
        order by t.o;
end
$read_children$;
