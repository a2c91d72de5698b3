-- Delete the ended runs among the next p_limit runs after p_after, with everything that bears their id. Their keys are free again. A run that
-- is live, or whose close is not settled, stays. The primary key is walked in the order the runs began, so no batch reads another's runs.
-- Returns where to go on, how many runs were looked at (fewer than p_limit: the end), and what was deleted.
create or replace function longshore.prune_runs(p_shard smallint, p_after uuid, p_before timestamptz, p_limit int)
returns table(last_run uuid, looked_at int, runs int, attempts bigint)
language plpgsql volatile
set search_path = longshore, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
    v_run uuid;
    v_last uuid := p_after;
    v_looked_at int := 0;
    v_runs int := 0;
    v_attempts bigint := 0;
    v_count bigint;
begin
    for v_run in
        select r.run_id
        from workflow_runs r
        where r.shard = p_shard and r.run_id > p_after and r.run_id < longshore.run_id_at(p_before)
        order by r.run_id
        limit p_limit
    loop
        v_last := v_run;
        v_looked_at := v_looked_at + 1;
        delete from workflow_runs r
        where r.shard = p_shard and r.run_id = v_run and r.state in (3, 4, 5) and r.finished_at < p_before
            and not exists (select from closed c where c.shard = p_shard and c.run_id = v_run)
            -- a step that waited for it has not read yet how it ended
            and (select w.child_run_id from step_waiting w where w.shard = p_shard and w.run_id = r.parent_run_id and w.frame = r.parent_frame
                 and w.node = r.parent_node) is distinct from r.run_id;
        continue when not found;
        v_runs := v_runs + 1;
        delete from execution_step_attempts a where a.shard = p_shard and a.run_id = v_run;
        get diagnostics v_count = row_count;
        v_attempts := v_attempts + v_count;
        -- What a crash or a cancel left: nobody else comes back for it.
        delete from step_joins j where j.shard = p_shard and j.run_id = v_run;
        delete from step_ready s where s.shard = p_shard and s.run_id = v_run;
        delete from step_delayed d where d.shard = p_shard and d.run_id = v_run;
        delete from frame_chunks i where i.shard = p_shard and i.run_id = v_run;
        delete from step_waiting w where w.shard = p_shard and w.run_id = v_run;
        delete from execution_context_snapshots x where x.shard = p_shard and x.run_id = v_run;
        delete from context_heads h where h.shard = p_shard and h.run_id = v_run;
        delete from pauses x where x.shard = p_shard and x.run_id = v_run;
        delete from signals s where s.shard = p_shard and s.run_id = v_run;
        delete from frames f where f.shard = p_shard and f.run_id = v_run;
    end loop;
    return query select v_last, v_looked_at, v_runs, v_attempts;
end $$;
