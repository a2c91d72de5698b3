-- The age of the oldest snapshot in seconds, and dead rows of the hot tables.
select
    coalesce((select max(extract(epoch from clock_timestamp() - a.xact_start)) from pg_stat_activity a
              where a.backend_xmin is not null and a.datname = current_database()), 0)::float8 as oldest_snapshot_seconds,
    (select array_agg(s.relname::text order by s.relname) from pg_stat_user_tables s
     where s.schemaname = 'longshore' and s.relname in ('step_ready', 'step_delayed', 'step_waiting', 'step_joins', 'lanes', 'closed', 'workflow_runs', 'workers')) as tables,
    (select array_agg(s.n_dead_tup order by s.relname) from pg_stat_user_tables s
     where s.schemaname = 'longshore' and s.relname in ('step_ready', 'step_delayed', 'step_waiting', 'step_joins', 'lanes', 'closed', 'workflow_runs', 'workers')) as dead
