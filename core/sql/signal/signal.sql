-- Send a signal to a run, from any language, in any transaction: select longshore.signal(run, 'paid', '{"by": "card"}', key => 'payment-7').
-- It only inserts: the signal, and a step job that has it looked for. A signal that nobody waits for yet is kept until somebody does. The same
-- key again is the same signal: nothing is sent, and its number is returned, whatever else was given. Sent without a key twice it counts twice.
-- Returns the signal's number: of two signals the one sent first has the smaller.
-- Errors: LS010 unknown run, LS011 the run has ended, LS012 bad name, LS003 payload too large, LS006 bad key; the detail is a JSON object.
create or replace function longshore.signal(run uuid, name text, payload jsonb default null, key text default null)
returns bigint
language plpgsql volatile
set search_path = longshore, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
    p_shard constant smallint := 0;                              -- every run lives on shard 0 today
    p_run constant uuid := signal.run;
    p_name constant text := signal.name;
    p_key constant text := signal.key;
    p_payload constant jsonb := coalesce(signal.payload, 'null');
    v_limit constant bigint := coalesce(nullif(current_setting('longshore.max_payload_bytes', true), '')::bigint, 1048576);
    v_bytes constant bigint := octet_length(p_payload::text);
    v_state smallint;
    v_priority smallint;
    v_version int;
    v_signal bigint;
begin
    if p_name is null or length(p_name) not between 1 and 256 then
        raise exception 'the name of a signal has 1 to 256 characters, this one has %', coalesce(length(p_name), 0)
            using errcode = 'LS012', detail = jsonb_build_object('length', coalesce(length(p_name), 0));
    elsif length(p_key) not between 1 and 512 then
        raise exception 'a key has 1 to 512 characters, this one has %', length(p_key)
            using errcode = 'LS006', detail = jsonb_build_object('length', length(p_key));
    elsif v_bytes > v_limit then
        raise exception 'the payload of the signal has % bytes, the limit is %', v_bytes, v_limit
            using errcode = 'LS003', detail = jsonb_build_object('bytes', v_bytes, 'limit', v_limit),
                hint = 'pass a reference to the data, or raise longshore.max_payload_bytes';
    end if;
    select r.state, r.priority, r.version_id into v_state, v_priority, v_version
    from workflow_runs r where r.shard = p_shard and r.run_id = p_run;
    if v_state is null then
        raise exception 'there is no run %', p_run
            using errcode = 'LS010', detail = jsonb_build_object('run_id', p_run), hint = 'it is not committed, or it was pruned';
    end if;
    if v_state > 2 then
        -- what was sent before it ended is there
        select s.signal_id into v_signal from signals s where s.shard = p_shard and s.run_id = p_run and s.key = p_key;
        if v_signal is null then
            raise exception 'run % has ended', p_run using errcode = 'LS011', detail = jsonb_build_object('run_id', p_run, 'state', v_state);
        end if;
        return v_signal;
    end if;
    insert into signals (shard, run_id, name, key, payload)
    values (p_shard, p_run, p_name, p_key, p_payload)
    on conflict (shard, run_id, key) where key is not null do nothing
    returning signal_id into v_signal;
    if v_signal is null then
        -- a statement of its own, so that it sees what the insert waited for
        select s.signal_id into v_signal from signals s where s.shard = p_shard and s.run_id = p_run and s.key = p_key;
        return v_signal;
    end if;
    -- a run of a version without waits would not know what to do with the step job
    perform from workflow_nodes n where n.version_id = v_version and n.type in ('wait', 'approval') limit 1;
    if found then
        insert into step_ready (shard, queue_id, priority, run_id, version_id, node, kind, attempt)
        values (p_shard, (select v.first_queue_id from workflow_versions v where v.version_id = v_version), v_priority, p_run, v_version, -7, 4, 0);
    end if;
    return v_signal;
end $$;
