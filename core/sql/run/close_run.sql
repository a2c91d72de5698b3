-- End a live run from outside its graph (cancel, give up, terminate). Steps of it that are out are found by their lanes through `closed`;
-- steps that are queued are dropped when claimed. The step that waits for its end is told, and the child runs that it takes along are canceled
-- with it. Locks the run, then these by id, and nothing after them. Safe to repeat: the second call changes nothing.
--   p_state  3 completed, 4 failed, 5 canceled
--   p_error  what the run says about it; null for 3
-- Returns one row: found is false if there is no such run, changed is true if this call ended it, state is its state now.
create or replace function longshore.close_run(p_shard smallint, p_run uuid, p_state smallint, p_error jsonb)
returns table(found boolean, changed boolean, state smallint)
language plpgsql volatile
set search_path = longshore, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
    v_state smallint;
    v_run record;
begin
    update workflow_runs r
    set state = p_state, error = p_error, finished_at = now()
    where r.shard = p_shard and r.run_id = p_run and r.state in (1, 2)
    returning r.state, r.awaited, r.parent_run_id, r.parent_frame, r.parent_node into v_run;
    v_state := v_run.state;
    if v_state is not null then
        insert into closed (run_id, shard) values (p_run, p_shard);
        insert into step_ready (shard, queue_id, priority, run_id, version_id, frame, node, kind, attempt)
        select p_shard, v.first_queue_id, p.priority, p.run_id, p.version_id, v_run.parent_frame, -10, 4, v_run.parent_node
        from workflow_runs p, lateral (select x.first_queue_id from workflow_versions x where x.version_id = p.version_id offset 0) v
        where v_run.awaited and p.shard = p_shard and p.run_id = v_run.parent_run_id
          and (p.state in (1, 2) or exists (select from frames f where f.shard = p_shard and f.run_id = p.run_id and f.frame = v_run.parent_frame
                                            and f.shield is not null));
        perform close_children(p_shard, array[p_run], array[0]);
        return query select true, true, v_state;
        return;
    end if;
    select r.state into v_state from workflow_runs r where r.shard = p_shard and r.run_id = p_run;
    return query select v_state is not null, false, v_state;
end $$;
