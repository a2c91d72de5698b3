-- Take back what one dead lane held: delete its newest, expired baton for good, record each try as `lost`, put the steps back.
-- One baton per call and transaction; returns no row when nothing is expired. An ambiguous commit is simply called again.
-- Normally probes the newest baton of each registered lane, so that dead batons under a pinned snapshot cost nothing; p_scan reads the
-- whole table instead (a backstop, once a minute).
-- A loss counts toward the cap only when the step was alone in its lane; after any loss a step waits at priority + 16, for a lane of its own.
create or replace function longshore.reap(p_shard smallint, p_scan boolean)
returns table (lane_id bigint, worker_id uuid, steps int)
language plpgsql volatile
set search_path = longshore, pg_temp
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $reap$
#variable_conflict use_column
declare
    q record;
    h record;
    v_baton lanes;
    v_found boolean := false;
    v_alone boolean;
begin
    for q in
        select k.lane_id, k.cycle from worker_lanes w,
            lateral (select b.lane_id, b.cycle, b.expires_at from lanes b where b.shard = p_shard and b.lane_id = w.lane_id order by b.cycle desc limit 1) k
        where w.shard = p_shard and not p_scan and k.expires_at < now()
        union all
        select b.lane_id, b.cycle from lanes b where b.shard = p_shard and p_scan and b.expires_at < now()
        limit 100
    loop
        -- another reaper, or the lane itself in its last moment, may hold the row: then it is theirs
        delete from lanes l
        where (l.shard = p_shard and l.cycle > 0 or p_shard = l.shard and l.cycle <= 0)
          and l.ctid = any (array(select s.ctid from lanes s
                                  where s.shard = p_shard and s.lane_id = q.lane_id and s.cycle = q.cycle and s.expires_at < now() for update skip locked))
        returning l.* into v_baton;
        v_found := found;
        exit when v_found;
    end loop;
    if not v_found then
        return;
    end if;
    v_alone := cardinality(v_baton.run_ids) = 1;
    -- what failed or was lost before the run was tried again counts toward no policy any more
    -- kinds 0 and 3 are tries of a node and get a record; the others only carry a token and are put back as they were
    for h in
        select t.run_id, t.frame, t.node, t.kind, t.attempt, t.claimed, t.kind in (0, 3) as counted, r.version_id, r.priority, r.state,
            coalesce((select n.queue_id from workflow_nodes n where n.version_id = r.version_id and n.node = t.node),
                     (select v.first_queue_id from workflow_versions v where v.version_id = r.version_id)) as queue_id,
            (select count(*) filter (where a.outcome = 2) from execution_step_attempts a
             where a.shard = p_shard and a.run_id = t.run_id and a.frame = t.frame and a.node = t.node
               and (r.retried_at is null or a.finished_at > r.retried_at))::smallint as failed,
            (select count(*) filter (where a.outcome = 3 and (a.error -> 'details' ->> 'alone')::boolean) from execution_step_attempts a
             where a.shard = p_shard and a.run_id = t.run_id and a.frame = t.frame and a.node = t.node
               and (r.retried_at is null or a.finished_at > r.retried_at))::smallint as lost
        from unnest(v_baton.run_ids, v_baton.frames, v_baton.nodes, v_baton.kinds, v_baton.attempts, v_baton.claimed_at)
                t (run_id, frame, node, kind, attempt, claimed),
            lateral (select w.version_id, w.priority, w.state, w.retried_at from workflow_runs w where w.shard = p_shard and w.run_id = t.run_id offset 0) r
    loop
        if h.counted then
            -- on conflict: one bad row must not block reclaim for ever
            insert into execution_step_attempts (shard, run_id, frame, node, attempt, outcome, lane_id, claimed_at, finished_at, error)
            values (p_shard, h.run_id, h.frame, h.node, h.attempt, 3, v_baton.lane_id, h.claimed, now(),
                jsonb_build_object('name', 'lost', 'kind', 'lost', 'message', format('the lease of lane %s expired', v_baton.lane_id),
                    'attempt', h.attempt, 'details', jsonb_build_object('alone', v_alone)))
            on conflict (shard, run_id, frame, node, attempt) do nothing;
        end if;
        -- of an ended run only a `finally` goes on
        if h.state in (1, 2) or h.node = -11 or exists (select from frames f where f.shard = p_shard and f.run_id = h.run_id and f.frame = h.frame
                                                        and f.shield is not null) then
            insert into step_ready (shard, queue_id, priority, run_id, version_id, frame, node, kind, attempt, failed, lost)
            values (p_shard, h.queue_id, h.priority + case when h.counted and h.node >= 0 then 16 else 0 end, h.run_id, h.version_id, h.frame, h.node, h.kind,
                h.attempt + h.counted::int, h.failed, h.lost + (h.counted and v_alone)::int);
        end if;
    end loop;
    lane_id := v_baton.lane_id;
    steps := cardinality(v_baton.run_ids);
    select w.worker_id into worker_id from worker_lanes w where w.shard = p_shard and w.lane_id = v_baton.lane_id;
    delete from worker_lanes w where w.shard = p_shard and w.lane_id = v_baton.lane_id;
    return next;
end
$reap$;
