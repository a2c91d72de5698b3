-- Let a paused run go on: what was parked is ready. Safe to repeat: the second call changes nothing.
-- Returns one row as pause_run, and the names of the queues that got work.
create or replace function longshore.resume_run(p_shard smallint, p_run uuid)
returns table(found boolean, changed boolean, state smallint, queues text[])
language plpgsql volatile
set search_path = longshore, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
    v_state smallint;
    m_queue int[]; m_priority smallint[]; m_version int[]; m_frame int[]; m_node int[]; m_kind smallint[]; m_attempt int[]; m_failed smallint[]; m_lost smallint[];
begin
    -- waits for the cycles that are parking steps; the statements below see what they parked
    delete from pauses p where p.shard = p_shard and p.run_id = p_run;
    update workflow_runs r set state = 1 where r.shard = p_shard and r.run_id = p_run and r.state = 2 returning r.state into v_state;
    if v_state is null then
        select r.state into v_state from workflow_runs r where r.shard = p_shard and r.run_id = p_run;
        return query select v_state is not null, false, v_state, '{}'::text[];
        return;
    end if;
    with d as (
        delete from step_delayed r
        where (r.shard = p_shard and r.attempt >= 0 or p_shard = r.shard and r.attempt < 0)
          and r.ctid = any (array(select s.ctid from step_delayed s where s.shard = p_shard and s.run_id = p_run and s.parked for update))
        returning r.queue_id, r.priority, r.version_id, r.frame, r.node, r.kind, r.attempt, r.failed, r.lost)
    select array_agg(d.queue_id), array_agg(d.priority), array_agg(d.version_id), array_agg(d.frame), array_agg(d.node), array_agg(d.kind),
        array_agg(d.attempt), array_agg(d.failed), array_agg(d.lost)
    into m_queue, m_priority, m_version, m_frame, m_node, m_kind, m_attempt, m_failed, m_lost
    from d;
    insert into step_ready (shard, queue_id, priority, run_id, version_id, frame, node, kind, attempt, failed, lost)
    select p_shard, t.queue, t.priority, p_run, t.version, t.frame, t.node, t.kind, t.attempt, t.failed, t.lost
    from unnest(m_queue, m_priority, m_version, m_frame, m_node, m_kind, m_attempt, m_failed, m_lost)
        t (queue, priority, version, frame, node, kind, attempt, failed, lost);
    return query select true, true, v_state,
        array(select distinct (select q.name from queues q where q.queue_id = t.queue) from unnest(m_queue) t (queue));
end $$;
