-- Tables of ours with more dead rows than autovacuum should leave: over 100,000, and more than live ones. An old snapshot is the usual cause.
with behind as materialized (
    select format('%s: %s dead rows, %s live, last autovacuum %s', s.relname, s.n_dead_tup, s.n_live_tup,
        coalesce(s.last_autovacuum::text, 'never')) as example
    from pg_stat_all_tables s
    where s.schemaname = 'longshore' and s.n_dead_tup > 100000 and s.n_dead_tup > s.n_live_tup
)
select (select count(*) from behind) as found, array(select b.example from behind b order by b.example limit 5) as examples
