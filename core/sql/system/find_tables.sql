-- What is there of the system lane: its bookkeeping of applied migrations, the schema apalis, and that schema as we need it.
select
  to_regclass('longshore_system._sqlx_migrations') is not null as ours,
  exists (select from pg_namespace where nspname = 'apalis') as found,
  to_regprocedure('apalis.get_jobs(text, text, integer)') is not null
    and exists (select from pg_attribute where attrelid = to_regclass('apalis.jobs') and attname = 'priority') as usable
