-- Whatever keeps vacuum from removing rows that died over 5 minutes ago: open transactions, prepared ones, replication slots.
with old as materialized (
    select format('session %s (%s, %s): transaction open since %s', s.pid, coalesce(s.usename, '?'), coalesce(nullif(s.application_name, ''), 'no name'),
        s.xact_start) as example
    from pg_stat_activity s
    where s.datname = current_database() and s.xact_start < now() - interval '5 min' and (s.backend_xmin is not null or s.backend_xid is not null)
    union all
    select format('prepared transaction %s of %s since %s', x.gid, x.owner, x.prepared)
    from pg_prepared_xacts x
    where x.database = current_database() and x.prepared < now() - interval '5 min'
    union all
    select format('replication slot %s holds %s transactions back', s.slot_name, greatest(age(s.xmin), age(s.catalog_xmin)))
    from pg_replication_slots s
    where greatest(age(s.xmin), age(s.catalog_xmin)) > 1000000
)
select (select count(*) from old) as found, array(select o.example from old o order by o.example limit 5) as examples
