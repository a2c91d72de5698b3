-- After an ambiguous commit: where the lane's baton stands, and all that it holds. Safe to call at any time; changes nothing.
-- p_cycle is the cycle that was sent. No row: neither p_cycle nor its successor stands (fenced, or passed and nothing is held).
-- `cycle` = p_cycle: it did not happen; = p_cycle + 1: it did. One row for each step held then, with what a claim returns.
create or replace function longshore.recover(p_shard smallint, p_lane bigint, p_cycle bigint)
returns table (cycle bigint, run_id uuid, version_id int, frame int, node int, kind smallint, attempt int, failed smallint, lost smallint,
    queue_id int, priority smallint, at timestamptz, state smallint, input text, key text, parent uuid, mocks text)
language plpgsql stable
set search_path = longshore, pg_temp
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $recover$
#variable_conflict use_column
begin
    return query
        select b.cycle, t.run_id, r.version_id, t.frame, t.node, t.kind, t.attempt,
            (select count(*) filter (where a.outcome = 2) from execution_step_attempts a
             where a.shard = p_shard and a.run_id = t.run_id and a.frame = t.frame and a.node = t.node
               and (r.retried_at is null or a.finished_at > r.retried_at))::smallint,
            (select count(*) filter (where a.outcome = 3 and (a.error -> 'details' ->> 'alone')::boolean) from execution_step_attempts a
             where a.shard = p_shard and a.run_id = t.run_id and a.frame = t.frame and a.node = t.node
               and (r.retried_at is null or a.finished_at > r.retried_at))::smallint,
            coalesce((select n.queue_id from workflow_nodes n where n.version_id = r.version_id and n.node = t.node),
                     (select v.first_queue_id from workflow_versions v where v.version_id = r.version_id)),
            -- a step that was lost before stays one that must be alone in its lane
            (coalesce(r.priority, 1) + case when t.node >= 0 and (select true from execution_step_attempts a where a.shard = p_shard and a.run_id = t.run_id
                and a.frame = t.frame and a.node = t.node and a.outcome = 3 limit 1) then 16 else 0 end)::smallint, t.claimed, r.state, r.input, r.key, r.parent_run_id, r.mocks::text     -- a run that is gone has no row
        from (select l.cycle, l.run_ids, l.frames, l.nodes, l.kinds, l.attempts, l.claimed_at from lanes l
              where l.shard = p_shard and l.lane_id = p_lane and l.cycle in (p_cycle, p_cycle + 1) order by l.cycle desc limit 1) b,
            unnest(b.run_ids, b.frames, b.nodes, b.kinds, b.attempts, b.claimed_at) t (run_id, frame, node, kind, attempt, claimed)
        left join lateral (
            select w.version_id, w.priority, w.state, case when pg_column_size(w.input) <= 8192 then w.input::text end as input, w.key, w.parent_run_id, w.mocks,
                w.retried_at
            from workflow_runs w where w.shard = p_shard and w.run_id = t.run_id offset 0) r on true;
end
$recover$;
