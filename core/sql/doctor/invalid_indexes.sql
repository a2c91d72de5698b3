-- Indexes of ours that Postgres does not use: a concurrent build that failed. Drop and build them again.
with invalid as materialized (
    select format('%s on %s', c.relname, i.indrelid::regclass) as example
    from pg_index i
    join pg_class c on c.oid = i.indexrelid
    join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'longshore' and not (i.indisvalid and i.indisready)
      and c.relkind = 'i'                                         -- a partitioned index is invalid until each partition has its part
)
select (select count(*) from invalid) as found, array(select v.example from invalid v order by v.example limit 5) as examples
