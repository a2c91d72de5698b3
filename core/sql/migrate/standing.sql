-- The functions named in $1, and which transaction wrote each.
select format('%s %s', p.oid, p.xmin) from pg_catalog.pg_proc p where p.pronamespace = to_regnamespace('longshore') and p.proname = any($1)
