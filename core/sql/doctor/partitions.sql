-- Promise 1: an attempt can be recorded, whenever its run started. Found: days, from yesterday to 7 days ahead, whose run ids have no partition
-- of execution_step_attempts. The first 48 bits of a run id are milliseconds since 1970.
with bounds as materialized (
    select b.bound[1]::uuid as from_run, b.bound[2]::uuid as to_run
    from pg_inherits i
    join pg_class c on c.oid = i.inhrelid
    cross join lateral regexp_match(pg_get_expr(c.relpartbound, c.oid), $$FROM \('([0-9a-f-]{36})'\) TO \('([0-9a-f-]{36})'\)$$) b(bound)
    where i.inhparent = 'longshore.execution_step_attempts'::regclass
), days as (
    select d.day, (lpad(to_hex((extract(epoch from d.day) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid as run_id
    from generate_series(now() - interval '1 day', now() + interval '7 days', interval '1 day') d(day)
), broken as materialized (
    select format('no partition for runs started on %s', to_char(d.day at time zone 'UTC', 'YYYY-MM-DD')) as example
    from days d
    where not exists (select from bounds b where d.run_id >= b.from_run and d.run_id < b.to_run)
)
select (select count(*) from broken) as found, array(select b.example from broken b order by b.example limit 5) as examples
