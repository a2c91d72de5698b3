-- Second half of settling: if every baton seen by settle_begin is gone, remove what the closed runs and frames left: joins, and step jobs nobody
-- had claimed (each try gets its record, `canceled`); frames that are live no more are marked `canceled`; child runs are closed as their policy says.
-- A `finally` that has begun is spared, with what is below it, by what is closed around it: a step job (node -11) bounds its time from then on. When no baton
-- holds a step of the run, or of the frame and those below it, any more, such a step job begins the `finally` of each `try` that was cut off before its
-- own, the innermost first. When none is left the row in closed goes.
-- A cycle that opens a lane may have read what it claims as live before that was closed, and no baton of settle_begin tells of it. But it locks the step
-- job until it commits, and then it is in lanes. So what is removed here is looked for once more, what is still there is locked, and then lanes are read.
-- Returns how many closings were removed, or null while a baton of settle_begin still stands. Safe to call again.
create or replace function longshore.settle(p_shard smallint, p_runs uuid[], p_closes bigint[], p_lanes bigint[], p_cycles bigint[])
returns int
language plpgsql volatile
set search_path = longshore, pg_temp
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $settle$
#variable_conflict use_column
declare
    q record;
    f record;
    l_run uuid[]; l_close bigint[]; l_frame int[];              -- the closings that are looked at
    v_closes bigint[];
    v_closed int[];
    v_settled int := 0;
    v_count int;
    v_lanes bigint[];
    v_held_run uuid[];
    v_held_frame int[];
    v_begun_run uuid[]; v_begun int[];                           -- step jobs -11
    v_busy int[];                                                -- frames of steps that are held, or being claimed, and those around them
    v_idle bigint[];                                             -- closings of which none is
    v_idle_at int[];
    v_frames int[];                                              -- null: the whole run
    v_spared int[];
    v_come int[];
    v_ended int[];                                               -- instances of a `finally` that have ended
    v_tries boolean;
    v_begin int[];
    v_left int[];
    m_run uuid[]; m_frame int[]; m_node int[]; m_kind smallint[]; m_attempt int[];
    c_run uuid[]; c_frame int[];                                 -- whose child runs are closed
begin
    for q in select t.lane_id, t.cycle from unnest(p_lanes, p_cycles) t (lane_id, cycle) loop
        perform from lanes l where l.shard = p_shard and l.lane_id = q.lane_id and l.cycle = q.cycle;
        if found then
            return null;
        end if;
    end loop;
    -- One settler per closing: the others skip it. All are locked before anything is looked at: what another settler began for one of them (node -11) is seen,
    -- or the closing is still that one's.
    for q in select distinct t.run_id from unnest(p_runs) t (run_id) order by t.run_id loop
        select l_run || array_agg(q.run_id), l_close || array_agg(k.close_id), l_frame || array_agg(k.frame) into l_run, l_close, l_frame
        from (select c.close_id, c.frame from closed c
              where c.shard = p_shard and c.run_id = q.run_id and c.close_id = any (p_closes) for update skip locked) k;
    end loop;
    -- the step job -11 of a `finally` may be about to set its timer though that ends meanwhile: looked for where it is first, then where it goes
    select array_agg(s.run_id), array_agg(s.frame) into v_begun_run, v_begun
    from (select distinct t.run_id from unnest(p_runs) t (run_id)) t,
        lateral (select s.run_id, s.frame from step_ready s where s.shard = p_shard and s.run_id = t.run_id and s.node = -11 offset 0) s;
    with l as materialized (select l.lane_id, l.run_ids, l.frames from lanes l where l.shard = p_shard)
    select coalesce((select array_agg(l.lane_id) from l), '{}'), array_agg(h.run_id), array_agg(h.frame) into v_lanes, v_held_run, v_held_frame
    from (select unnest(l.run_ids) as run_id, unnest(l.frames) as frame from l) h where h.run_id = any (p_runs);
    for q in select t.run_id, array_agg(t.close_id) as closes, array_agg(t.frame) as frames
             from unnest(l_run, l_close, l_frame) t (run_id, close_id, frame) group by t.run_id order by t.run_id loop
        v_closes := q.closes; v_closed := q.frames;
        -- The frames that are closed; those within a live `finally` that were closed around that alone; each `try` that has come to its own. All of one
        -- moment, and nothing else is touched: a `finally` that begins meanwhile, and what begins in one, is not what was closed.
        select array_agg(x.frame) filter (where x.closed and not x.spared), array_agg(x.frame) filter (where x.spared),
            coalesce(array_agg(x.parent) filter (where x.shield = x.frame), '{}'), bool_or(x.cleanup is not null or x.shield is not null),
            array_agg(x.frame) filter (where x.closed and not x.spared and x.shield = x.frame)
        into v_frames, v_spared, v_come, v_tries, v_ended
        from (select f.frame, f.parent, f.shield, f.cleanup, 0 = any (v_closed) or f.frame = any (v_closed) or f.path && v_closed as closed,
                  f.shield is not null and (select y.state from frames y where y.shard = p_shard and y.run_id = q.run_id and y.frame = f.shield) = 1
                  and not exists (select from unnest(v_closed) c (frame)
                                  where array_position(f.path || f.frame, c.frame) >= array_position(f.path || f.frame, f.shield)) as spared
              from frames f where f.shard = p_shard and f.run_id = q.run_id) x;
        if 0 = any (v_closed) then
            v_frames := case when v_tries then 0 || v_frames end;
            delete from pauses x where x.shard = p_shard and x.run_id = q.run_id;
            if v_spared is not null then
                update step_delayed s set parked = false, due_at = now()
                where s.shard = p_shard and s.run_id = q.run_id and s.parked and s.frame = any (v_spared);
            end if;
        else
            v_frames := coalesce(v_frames, v_closed);
        end if;
        perform from workflow_runs r where r.shard = p_shard and r.parent_run_id = q.run_id limit 1;
        if found and 0 = any (v_closed) then
            c_run := c_run || q.run_id; c_frame := c_frame || 0;
        elsif found then
            c_run := c_run || array_fill(q.run_id, array[cardinality(v_frames)]); c_frame := c_frame || v_frames;
        end if;
        -- frames before joins, as in a cycle
        for f in
            select x.frame, x.whole, x.parent, x.node, x.attempt, x.created_at from frames x
            where x.shard = p_shard and x.run_id = q.run_id and x.state = 1 and (v_frames is null or x.frame in (select unnest(v_frames)))
            order by x.frame
        loop
            update frames x set state = 5, finished_at = now() where x.shard = p_shard and x.run_id = q.run_id and x.frame = f.frame and x.state = 1;
            -- it stood for an attempt of its block
            if found and f.whole then
                insert into execution_step_attempts (shard, run_id, frame, node, attempt, outcome, lane_id, enqueued_at, claimed_at, finished_at)
                values (p_shard, q.run_id, f.parent, f.node, f.attempt, 4, 0, f.created_at, f.created_at, now())
                on conflict (shard, run_id, frame, node, attempt) do nothing;
            end if;
        end loop;
        -- blocks that had ended, of which the step job that says so was dropped with what is around them
        insert into execution_step_attempts (shard, run_id, frame, node, attempt, outcome, lane_id, enqueued_at, claimed_at, finished_at)
        select p_shard, x.run_id, x.parent, x.node, x.attempt, 4, 0, x.created_at, x.created_at, now()
        from frames x
        where x.shard = p_shard and x.run_id = q.run_id and x.whole and x.state in (3, 4) and (v_frames is null or x.parent in (select unnest(v_frames)))
        on conflict (shard, run_id, frame, node, attempt) do nothing;
        delete from frame_chunks x where x.shard = p_shard and x.run_id = q.run_id and (v_frames is null or x.frame in (select unnest(v_frames)));
        -- a wait that was woken has a step job, which is its home
        m_run := null; m_frame := null; m_node := null; m_attempt := null;
        for f in
            select x.frame, x.node, x.attempt, x.woken_at from step_waiting x
            where x.shard = p_shard and x.run_id = q.run_id and (v_frames is null or x.frame in (select unnest(v_frames)))
            order by x.frame, x.node for update
        loop
            delete from step_waiting x where x.shard = p_shard and x.run_id = q.run_id and x.frame = f.frame and x.node = f.node;
            continue when f.woken_at is not null;
            m_run := m_run || q.run_id; m_frame := m_frame || f.frame; m_node := m_node || f.node; m_attempt := m_attempt || f.attempt;
        end loop;
        insert into execution_step_attempts (shard, run_id, frame, node, attempt, outcome, lane_id, finished_at)
        select p_shard, t.run_id, t.frame, t.node, t.attempt, 4, 0, now()
        from unnest(m_run, m_frame, m_node, m_attempt) t (run_id, frame, node, attempt)
        on conflict (shard, run_id, frame, node, attempt) do nothing;
        delete from step_joins j where j.shard = p_shard and j.run_id = q.run_id and (v_frames is null or j.frame in (select unnest(v_frames)));
        with d as (
            delete from step_ready r
            where (r.shard = p_shard and r.attempt >= 0 or p_shard = r.shard and r.attempt < 0)
              and r.ctid = any (array(select s.ctid from step_ready s where s.shard = p_shard and s.run_id = q.run_id
                                      and (v_frames is null or s.frame in (select unnest(v_frames)))
                                      and s.node <> -11 for update skip locked))
            returning r.run_id, r.frame, r.node, r.kind, r.attempt)
        select array_agg(d.run_id), array_agg(d.frame), array_agg(d.node), array_agg(d.kind), array_agg(d.attempt)
        into m_run, m_frame, m_node, m_kind, m_attempt from d;
        insert into execution_step_attempts (shard, run_id, frame, node, attempt, outcome, lane_id, finished_at)
        select p_shard, t.run_id, t.frame, t.node, t.attempt, 4, 0, now()
        from unnest(m_run, m_frame, m_node, m_kind, m_attempt) t (run_id, frame, node, kind, attempt) where t.kind in (0, 3)
        on conflict (shard, run_id, frame, node, attempt) do nothing;
        with d as (
            delete from step_delayed r
            where (r.shard = p_shard and r.attempt >= 0 or p_shard = r.shard and r.attempt < 0)
              and r.ctid = any (array(select s.ctid from step_delayed s where s.shard = p_shard and s.run_id = q.run_id
                                      and (v_frames is null or s.frame in (select unnest(v_frames)))
                                      and s.node <> -11 for update skip locked))
            returning r.run_id, r.frame, r.node, r.kind, r.attempt)
        select array_agg(d.run_id), array_agg(d.frame), array_agg(d.node), array_agg(d.kind), array_agg(d.attempt)
        into m_run, m_frame, m_node, m_kind, m_attempt from d;
        insert into execution_step_attempts (shard, run_id, frame, node, attempt, outcome, lane_id, finished_at)
        select p_shard, t.run_id, t.frame, t.node, t.attempt, 4, 0, now()
        from unnest(m_run, m_frame, m_node, m_kind, m_attempt) t (run_id, frame, node, kind, attempt) where t.kind in (0, 3)
        on conflict (shard, run_id, frame, node, attempt) do nothing;
        if v_spared is not null then
            for f in
                select x.frame from frames x
                where x.shard = p_shard and x.run_id = q.run_id and x.frame = any (v_spared) and x.shield = x.frame
                  and exists (select from closed c where c.shard = p_shard and c.run_id = q.run_id and c.close_id = any (v_closes) and not c.bounded
                              and (c.frame = 0 or c.frame = any (x.path)))
                order by x.frame
            loop
                perform clean_up(p_shard, q.run_id, f.frame);
            end loop;
            update closed c set bounded = true where c.shard = p_shard and c.run_id = q.run_id and c.close_id = any (v_closes) and not c.bounded;
        end if;
        select array_agg(s.frame) into v_busy from step_ready s
        where s.shard = p_shard and s.run_id = q.run_id and (v_frames is null or s.frame in (select unnest(v_frames))) and s.node <> -11;
        select v_busy || array_agg(h.frame) into v_busy
        from (select b.frame from unnest(v_begun_run, v_begun) b (run_id, frame) where b.run_id = q.run_id and b.frame = any (v_ended)
              union all
              select h.frame from unnest(v_held_run, v_held_frame) h (run_id, frame) where h.run_id = q.run_id
              union all
              select h.frame from (select unnest(l.run_ids) as run_id, unnest(l.frames) as frame
                                   from lanes l where l.shard = p_shard and l.lane_id <> all (v_lanes)) h where h.run_id = q.run_id) h
        where v_spared is null or h.frame <> all (v_spared);
        -- a closing waits while such a step is in its frame, or in one below
        select array_agg(distinct a.frame) into v_busy
        from unnest(v_busy) b (frame),
            lateral unnest(array[0, b.frame] || case when b.frame > 0 then coalesce(
                (select f.path from frames f where f.shard = p_shard and f.run_id = q.run_id and f.frame = b.frame), v_closed) end) a (frame);
        select array_agg(k.close_id), array_agg(k.frame) into v_idle, v_idle_at
        from unnest(v_closes, v_closed) k (close_id, frame) where v_busy is null or k.frame <> all (v_busy);
        continue when v_idle is null;
        -- Below what was closed: a `finally` at work (or that was when this call began: what it leaves goes the next time), and each `try` that has not
        -- come to its own, which begins that unless there is one of these below it.
        with open as materialized (
            select x.frame, x.path, x.shield is not distinct from x.frame or x.cleanup = 2 as waits from frames x
            where x.shard = p_shard and x.run_id = q.run_id
              and (x.cleanup > 0 and x.state <> 1 and x.frame in (select unnest(v_frames)) and x.frame not in (select unnest(v_come))
                   or x.shield = x.frame and (x.state = 1 or x.frame in (select unnest(v_spared)))))
        select (select array_agg(o.frame order by o.frame) from open o
                where not o.waits and o.frame not in (select unnest(p.path) from open p) and (array[0, o.frame] || o.path) && v_idle_at),
            (select array_agg(distinct a.frame) from open o, unnest(array[0, o.frame] || o.path) a (frame))
        into v_begin, v_left;
        update frames x set cleanup = 2 where x.shard = p_shard and x.run_id = q.run_id and x.frame = any (v_begin);
        perform clean_up(p_shard, q.run_id, t.frame) from unnest(v_begin) t (frame);
        select array_agg(k.close_id) into v_idle
        from unnest(v_idle, v_idle_at) k (close_id, frame) where v_left is null or k.frame not in (select unnest(v_left));
        delete from closed c where c.shard = p_shard and c.run_id = q.run_id and c.close_id = any (v_idle);
        get diagnostics v_count = row_count;
        v_settled := v_settled + v_count;
    end loop;
    -- runs come last in the order of locks, those of all closings by id
    if c_run is not null then
        perform close_children(p_shard, c_run, c_frame);
    end if;
    return v_settled;
end
$settle$;
