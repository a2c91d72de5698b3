-- Small functions that views, partitions and the hot functions share.

-- The lowest run id (UUIDv7) that can be made at this instant: the first 48 bits are milliseconds since 1970.
create function longshore.run_id_at(p_at timestamptz) returns uuid language sql immutable parallel safe as $$
    select (lpad(to_hex(floor(extract(epoch from p_at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- When a run id was made.
create function longshore.run_id_time(p_run uuid) returns timestamptz language sql immutable parallel safe as $$
    select to_timestamp(('x' || substr(replace(p_run::text, '-', ''), 1, 12))::bit(48)::bigint / 1000.0)
$$;

-- A new run id by the database's clock (RFC 9562, version 7; Postgres has its own only from 18 on).
create function longshore.new_run_id() returns uuid language sql volatile parallel safe as $$
    select encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
        placing substring(int8send(floor(extract(epoch from clock_timestamp()) * 1000)::bigint) from 3) from 1 for 6), 52, 1), 53, 1), 'hex')::uuid
$$;

-- When a row of step_ready was enqueued: its seq carries the clock (see step_ready).
create function longshore.seq_time(p_seq bigint) returns timestamptz language sql immutable parallel safe as $$
    select timestamptz '2024-01-01 00:00:00+00' + (p_seq >> 13) * interval '1 microsecond'
$$;

-- Make the monthly partitions of execution_step_attempts from the current month (and, near its start, the one before) through p_until.
-- Returns how many were made; safe to call again and at once from many sessions.
create function longshore.make_partitions(p_until timestamptz) returns int language plpgsql set search_path = longshore, pg_temp as $$
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

select longshore.make_partitions(now() + interval '3 months');
