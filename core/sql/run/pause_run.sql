-- Pause a live run: steps of it that are out end, and what follows from them is parked. Safe to repeat: the second call changes nothing.
--   p_why  JSON: {"reason": …} of an operator
-- Returns one row: found is false if there is no such run, changed is true if this call paused it, state is its state now.
create or replace function longshore.pause_run(p_shard smallint, p_run uuid, p_why jsonb)
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
begin
    -- the pause before the run, as in a cycle
    insert into pauses (shard, run_id, why) values (p_shard, p_run, p_why) on conflict (shard, run_id) do nothing;
    update workflow_runs r set state = 2 where r.shard = p_shard and r.run_id = p_run and r.state = 1 returning r.state into v_state;
    if v_state is not null then
        return query select true, true, v_state;
        return;
    end if;
    select r.state into v_state from workflow_runs r where r.shard = p_shard and r.run_id = p_run;
    if v_state is distinct from 2 then
        delete from pauses p where p.shard = p_shard and p.run_id = p_run;
    end if;
    return query select v_state is not null, false, v_state;
end $$;
