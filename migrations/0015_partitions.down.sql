-- Make the monthly partitions of execution_step_attempts from the current month (and, near its start, the one before) through p_until.
-- Returns how many were made; safe to call again and at once from many sessions.
create or replace function longshore.make_partitions(p_until timestamptz) returns int language plpgsql set search_path = longshore, pg_temp as $$
declare
    v_month timestamptz := date_trunc('month', now() - interval '2 days', 'UTC');
    v_next timestamptz;
    v_made int := 0;
    v_name text;
begin
    if p_until > now() + interval '10 years' then
        raise exception 'partitions are made at most ten years ahead' using errcode = '22023';
    end if;
    while v_month <= p_until loop
        v_next := date_trunc('month', v_month + interval '40 days', 'UTC');
        v_name := 'execution_step_attempts_' || to_char(v_month at time zone 'UTC', 'YYYY_MM');
        if to_regclass('longshore.' || v_name) is null then
            perform pg_advisory_xact_lock(hashtextextended('longshore.make_partitions', 0));   -- two makers at once: the second finds it made
            if to_regclass('longshore.' || v_name) is null then
                execute format('create table longshore.%I partition of longshore.execution_step_attempts for values from (%L) to (%L)
                    with (autovacuum_vacuum_insert_scale_factor = 0.2, autovacuum_analyze_scale_factor = 0.2)',
                    v_name, longshore.run_id_at(v_month), longshore.run_id_at(v_next));
                v_made := v_made + 1;
            end if;
        end if;
        v_month := v_next;
    end loop;
    return v_made;
end $$;
