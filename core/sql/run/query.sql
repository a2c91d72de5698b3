-- Ask a run one of the queries that its definition names, from any language: select longshore.query(run, 'progress'). All of one moment. Postgres does not
-- evaluate expressions: a query is answered here where it is a path (run.state, run.input…, run.context…, nodes.<id>.output…, .error…, .state).
-- Null (of JSON) where there is nothing at the end of the path.
-- Errors: LS010 unknown run, LS013 no such query, LS014 the query is no path; the detail is a JSON object.
create or replace function longshore.query(run uuid, name text)
returns jsonb
language plpgsql stable
set search_path = longshore, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
    p_shard constant smallint := 0;                              -- every run lives on shard 0 today
    p_run constant uuid := query.run;
    p_name constant text := query.name;
    v_run record;
    v_query text;
    v_parts text[];
    v_part text[];
    v_path text[] := '{}';
    v_node int;
    v_value jsonb;
begin
    select r.state, r.version_id, r.input, v.definition into v_run
    from workflow_runs r, lateral (select x.definition from workflow_versions x where x.version_id = r.version_id offset 0) v
    where r.shard = p_shard and r.run_id = p_run;
    if v_run is null then
        raise exception 'there is no run %', p_run
            using errcode = 'LS010', detail = jsonb_build_object('run_id', p_run), hint = 'it is not committed, or it was pruned';
    end if;
    v_query := btrim(v_run.definition -> 'queries' ->> p_name);
    if v_query is null then
        raise exception 'the workflow of run % has no query %', p_run, p_name
            using errcode = 'LS013', detail = jsonb_build_object('run_id', p_run, 'name', p_name),
                hint = 'it has: ' || coalesce((select string_agg(k, ', ' order by k) from jsonb_object_keys(v_run.definition -> 'queries') k), 'none');
    end if;
    -- the root, the node if it is one's, what of it, and the path within
    v_parts := regexp_match(v_query,
        '^(?:run\.(state|input|context)|nodes(?:\.([A-Za-z_]\w*)|\["([^"\\]+)"\]|\[''([^''\\]+)''\])\.(output|error|state))((?:\.[A-Za-z_]\w*|\[\d+\]|\["[^"\\]+"\]|\[''[^''\\]+''\])*)$');
    if v_parts is null or v_parts[1] = 'state' and v_parts[6] <> '' or v_parts[5] = 'state' and v_parts[6] <> '' then
        raise exception 'the query % is an expression, and Postgres answers paths alone', p_name
            using errcode = 'LS014', detail = jsonb_build_object('run_id', p_run, 'name', p_name, 'query', v_query),
                hint = 'ask with the enqueuer library or `longshore run query`';
    end if;
    for v_part in
        select p from regexp_matches(v_parts[6], '\.(\w+)|\[(\d+)\]|\["([^"]+)"\]|\[''([^'']+)''\]', 'g') p
    loop
        v_path := v_path || coalesce(v_part[1], v_part[2], v_part[3], v_part[4]);
    end loop;
    if v_parts[1] = 'input' then
        v_value := v_run.input;
    elsif v_parts[1] = 'context' then
        v_value := coalesce((select c.context::jsonb from read_contexts(p_shard, array[p_run]) c), v_run.definition -> 'context');
    elsif v_parts[1] = 'state' then
        v_value := to_jsonb(case
            when v_run.state <> 1 then (array[null, 'paused', 'completed', 'failed', 'canceled'])[v_run.state]
            when exists (select from execution_step_attempts a where a.shard = p_shard and a.run_id = p_run)
                or exists (select from lanes l where l.shard = p_shard and p_run = any (l.run_ids)) then 'running'
            else 'queued' end);
    else
        select n.node into v_node from workflow_nodes n
        where n.version_id = v_run.version_id and n.id = coalesce(v_parts[2], v_parts[3], v_parts[4]) and n.body = 0;
        if v_parts[5] = 'state' then
            v_value := to_jsonb((select s.state from execution_steps s where s.shard = p_shard and s.run_id = p_run and s.frame = 0 and s.node = v_node));
        else
            v_value := (select s.value::jsonb from step_results(p_shard, array[p_run], array[0], array[v_node]) s
                        where s.outcome = case v_parts[5] when 'output' then 1 else 2 end);
        end if;
    end if;
    return coalesce(v_value #> v_path, 'null');
end $$;
