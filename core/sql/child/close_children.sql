-- What becomes of child runs whose parents are closed: of each run of p_runs whose frame in p_frames is 0 all of them, else those that steps of that
-- frame wait for. As their close policy says they are canceled, and theirs with them, live on, or are asked to end.
-- Those that a live `finally` started stay. Who descends from whom is found first and locked by nobody; then the runs are closed in the order of their ids, as in a cycle. A child's id is always
-- larger than its parent's. What is started meanwhile is found by settling. Safe to repeat.
create or replace function longshore.close_children(p_shard smallint, p_runs uuid[], p_frames int[])
returns void
language plpgsql volatile
set search_path = longshore, pg_temp
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $close_children$
#variable_conflict use_column
declare
    q record;
    v_runs uuid[] := p_runs;
    v_frames int[] := p_frames;
    c_run uuid[]; c_parent uuid[]; c_policy smallint[];
    a_run uuid[]; a_parent uuid[]; a_policy smallint[];
begin
    for v_generation in 1 .. 40 loop                             -- deeper than runs nest
        select array_agg(c.run_id), array_agg(t.run_id), array_agg(c.close_policy) into c_run, c_parent, c_policy
        from unnest(v_runs, v_frames) t (run_id, frame),
            lateral (select r.run_id, r.close_policy from workflow_runs r
                     where t.frame = 0 and r.shard = p_shard and r.parent_run_id = t.run_id and r.state in (1, 2)
                       and (select f.shield from frames f where f.shard = p_shard and f.run_id = t.run_id and f.frame = r.parent_frame
                            and f.state = 1) is null
                     union all
                     select r.run_id, r.close_policy from workflow_runs r
                     where t.frame <> 0 and r.shard = p_shard and r.parent_run_id = t.run_id and r.parent_frame = t.frame and r.awaited and r.state in (1, 2)
                     offset 0) c
        where c.close_policy <> 2;
        exit when c_run is null;
        a_run := a_run || c_run; a_parent := a_parent || c_parent; a_policy := a_policy || c_policy;
        select array_agg(c.run_id), array_agg(0) into v_runs, v_frames
        from unnest(c_run, c_policy) c (run_id, policy) where c.policy = 1;
        exit when v_runs is null;
    end loop;
    for q in select distinct t.run_id, t.parent, t.policy from unnest(a_run, a_parent, a_policy) t (run_id, parent, policy) order by t.run_id loop
        if q.policy = 3 then
            perform ask_child(p_shard, q.run_id, q.parent);
            continue;
        end if;
        update workflow_runs r
        set state = 5, finished_at = now(), error = jsonb_build_object('name', 'canceled', 'kind', 'canceled',
            'message', format('run %s, which started it, ended or needs it no more', q.parent))
        where r.shard = p_shard and r.run_id = q.run_id and r.state in (1, 2);
        if found then
            insert into closed (shard, run_id) values (p_shard, q.run_id);
        end if;
    end loop;
end
$close_children$;
