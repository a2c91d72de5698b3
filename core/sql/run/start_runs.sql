-- Start runs, one for each element of the arrays: its row in workflow_runs and one step job, ready now or delayed until run_at. What
-- start_run and the library call. It only inserts, so it belongs in any caller's transaction; it waits for nothing but another transaction
-- that is starting a run with the same key.
--   p_workflows   names of workflows
--   p_inputs      JSON text; null is {}
--   p_keys        idempotency keys; null is none. The same key with an equal input is the run that is there: created = false
--   p_run_ats     not before; null or in the past is now; up to the year 9999
--   p_priorities  0 to 3, 0 first; null is 1
--   p_versions    version numbers; null is the latest
-- Returns a row for each element, in order; ordinal counts from 1.
-- Errors: LS001 unknown workflow, LS002 unknown version, LS003 payload too large, LS004 invalid priority, LS005 key_conflict, LS006 bad key;
-- the detail is a JSON object for programs. Postgres' own: class 22 for input that is no jsonb and a run_at out of range, 54001 for JSON that is
-- nested deeper than its stack, 40001 when the run with the key was pruned meanwhile.
create or replace function longshore.start_runs(p_workflows text[], p_inputs text[], p_keys text[], p_run_ats timestamptz[],
    p_priorities smallint[], p_versions int[])
returns table(ordinal int, run_id uuid, created boolean)
language plpgsql volatile
set search_path = longshore, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
    p_shard constant smallint := 0;                              -- every run lives on shard 0 today
    v_limit constant bigint := coalesce(nullif(current_setting('longshore.max_payload_bytes', true), '')::bigint, 1048576);
    v_now constant timestamptz := clock_timestamp();
    v_end constant timestamptz := '10000-01-01 00:00:00+00';     -- clients cannot read all times beyond it, and it leaves out infinity
    v_bad record;
    v_workflow_ids int[];
    v_version_ids int[];
    v_nodes int[];
    v_queue_ids int[];
    v_priorities smallint[];
    v_run_ats timestamptz[];
    v_run_ids uuid[];
    v_created boolean[];
begin
    if cardinality(p_workflows) = 0 then
        return;
    end if;

    -- What each run will be: one walk over the arrays. An id is made for every element; one whose key is taken is never used.
    select array_agg(w.workflow_id order by t.n), array_agg(v.version_id order by t.n), array_agg(v.first_node order by t.n),
        array_agg(v.first_queue_id order by t.n), array_agg(coalesce(t.priority, 1::smallint) order by t.n),
        array_agg(case when t.run_at > v_now then t.run_at end order by t.n), array_agg(longshore.new_run_id() order by t.n),
        array_agg(true order by t.n)
    into v_workflow_ids, v_version_ids, v_nodes, v_queue_ids, v_priorities, v_run_ats, v_run_ids, v_created
    from unnest(p_workflows, p_run_ats, p_priorities, p_versions) with ordinality t(workflow, run_at, priority, version, n)
    left join lateral (select k.workflow_id from workflows k where k.name = t.workflow offset 0) w on true
    left join lateral (
        select k.version_id, k.first_node, k.first_queue_id
        from workflow_versions k
        where k.workflow_id = w.workflow_id and k.version = coalesce(t.version, (
            select l.version from workflow_versions l where l.workflow_id = w.workflow_id order by l.version desc limit 1))
        offset 0) v on true;

    -- The first element that cannot start, before anything is written.
    for v_bad in
        select t.n, t.workflow, t.version, t.priority, t.run_at, t.key, octet_length(t.input) as bytes, t.workflow_id, t.version_id
        from unnest(p_workflows, p_versions, v_priorities, p_run_ats, p_keys, p_inputs, v_workflow_ids, v_version_ids)
            with ordinality t(workflow, version, priority, run_at, key, input, workflow_id, version_id, n)
        where t.workflow_id is null or t.version_id is null or octet_length(t.input) > v_limit or t.priority not between 0 and 3
            or t.key = '' or length(t.key) > 512 or t.run_at >= v_end
        order by t.n limit 1
    loop
        if v_bad.workflow_id is null or (v_bad.version_id is null and v_bad.version is null) then
            raise exception 'unknown workflow "%"', v_bad.workflow
                using errcode = 'LS001', detail = jsonb_build_object('workflow', v_bad.workflow), hint = 'publish it first: longshore workflow apply';
        elsif v_bad.version_id is null then
            raise exception 'workflow "%" has no version %', v_bad.workflow, v_bad.version
                using errcode = 'LS002', detail = jsonb_build_object('workflow', v_bad.workflow, 'version', v_bad.version),
                    hint = 'leave the version out to start the latest';
        elsif v_bad.bytes > v_limit then
            raise exception 'the input of run % of the call has % bytes, the limit is %', v_bad.n, v_bad.bytes, v_limit
                using errcode = 'LS003', detail = jsonb_build_object('bytes', v_bad.bytes, 'limit', v_limit),
                    hint = 'pass a reference to the data, or raise longshore.max_payload_bytes';
        elsif v_bad.priority not between 0 and 3 then
            raise exception 'priority % is not between 0 and 3', v_bad.priority
                using errcode = 'LS004', detail = jsonb_build_object('priority', v_bad.priority), hint = '0 is first, 1 is the default';
        elsif v_bad.key = '' or length(v_bad.key) > 512 then
            raise exception 'a key has 1 to 512 characters, this one has %', length(v_bad.key)
                using errcode = 'LS006', detail = jsonb_build_object('length', length(v_bad.key));
        else
            raise exception 'run_at is beyond the year 9999' using errcode = '22008';
        end if;
    end loop;

    insert into workflow_runs (run_id, run_at, workflow_id, version_id, shard, priority, key, input)
    select t.run_id, t.run_at, t.workflow_id, t.version_id, p_shard, t.priority, t.key, coalesce(t.input, '{}')::jsonb
    from unnest(v_run_ids, v_run_ats, v_workflow_ids, v_version_ids, v_priorities, p_keys, p_inputs)
        t(run_id, run_at, workflow_id, version_id, priority, key, input)
    order by t.workflow_id, t.key collate "C"                    -- two callers with the same keys: one waits, neither deadlocks
    on conflict (shard, workflow_id, key) where key is not null do nothing;

    -- Whose key was taken? A statement of its own, so that it sees what the insert waited for.
    if exists (select from unnest(p_keys) t(key) where t.key is not null) then
        for v_bad in
            select t.n, t.key, t.run_id as own_id, r.run_id, r.same
            from unnest(v_run_ids, v_workflow_ids, p_keys, p_inputs) with ordinality t(run_id, workflow_id, key, input, n)
            left join lateral (
                select k.run_id, k.run_id = t.run_id or k.input = coalesce(t.input, '{}')::jsonb as same
                from workflow_runs k
                where k.shard = p_shard and k.workflow_id = t.workflow_id and k.key = t.key
                offset 0) r on true
            where t.key is not null and r.run_id is distinct from t.run_id
        loop
            if v_bad.run_id is null then
                raise exception 'the run with key "%" was pruned at this moment', v_bad.key
                    using errcode = '40001', hint = 'start again';
            elsif not v_bad.same then
                raise exception 'key_conflict: run % has key "%" and another input', v_bad.run_id, v_bad.key
                    using errcode = 'LS005', detail = jsonb_build_object('run_id', v_bad.run_id, 'key', v_bad.key),
                        hint = 'use another key, or the same input';
            end if;
            v_run_ids[v_bad.n] := v_bad.run_id;
            v_created[v_bad.n] := false;
        end loop;
    end if;

    insert into step_ready (run_id, version_id, queue_id, node, attempt, shard, priority, kind)
    select t.run_id, t.version_id, t.queue_id, t.node, 1, p_shard, t.priority, 0
    from unnest(v_run_ids, v_version_ids, v_queue_ids, v_nodes, v_priorities, v_run_ats, v_created)
        with ordinality t(run_id, version_id, queue_id, node, priority, run_at, created, n)
    where t.created and t.run_at is null
    order by t.n;

    insert into step_delayed (due_at, run_id, version_id, queue_id, node, attempt, shard, priority, kind)
    select t.run_at, t.run_id, t.version_id, t.queue_id, t.node, 1, p_shard, t.priority, 0
    from unnest(v_run_ids, v_version_ids, v_queue_ids, v_nodes, v_priorities, v_run_ats, v_created)
        with ordinality t(run_id, version_id, queue_id, node, priority, run_at, created, n)
    where t.created and t.run_at is not null
    order by t.n;

    return query
    select t.n::int, t.run_id, t.created from unnest(v_run_ids, v_created) with ordinality t(run_id, created, n);
end $$;
