-- Start one run of a workflow, from any language, in any transaction: select longshore.start_run('order', '{"order": 7}', key => 'order-7').
-- The same key with an equal input returns the run that is there. notify tells idle workers at commit; without it they see the run at their
-- next poll. (A notification makes commits queue behind each other, so it is off by default.) Errors as start_runs.
create or replace function longshore.start_run(workflow text, input jsonb default '{}', key text default null, run_at timestamptz default null,
    priority smallint default null, version int default null, notify boolean default false)
returns uuid
language plpgsql volatile
set search_path = longshore, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
    p_shard constant smallint := 0;
    v_run_id uuid;
    v_created boolean;
begin
    select s.run_id, s.created into v_run_id, v_created
    from start_runs(array[start_run.workflow], array[start_run.input::text], array[start_run.key], array[start_run.run_at],
        array[start_run.priority], array[start_run.version]) s;
    if start_run.notify and v_created then
        perform pg_notify('longshore', (
            select q.name
            from queues q
            where q.queue_id = (
                select v.first_queue_id
                from workflow_versions v
                where v.version_id = (select r.version_id from workflow_runs r where r.shard = p_shard and r.run_id = v_run_id))));
    end if;
    return v_run_id;
end $$;
