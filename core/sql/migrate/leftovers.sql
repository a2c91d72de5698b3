-- Statements that drop each function named in $1; with $2 only those that stand as they did when `standing` was asked: one of the same name with other
-- parameters, which would make calls ambiguous.
select format('drop function %s', p.oid::regprocedure)
from pg_catalog.pg_proc p
where p.pronamespace = to_regnamespace('longshore') and p.proname = any($1) and ($2::text[] is null or format('%s %s', p.oid, p.xmin) = any ($2))
order by 1
