-- Statements that drop each function named in $1. With $2, only those that this transaction did not write: an older one of the same name
-- with other parameters, which would make calls ambiguous.
select format('drop function %s', p.oid::regprocedure)
from pg_catalog.pg_proc p
where p.pronamespace = to_regnamespace('longshore') and p.proname = any($1)
    and not ($2 and age(p.xmin) <= 0)                                -- ours, or of a savepoint of ours
order by 1
