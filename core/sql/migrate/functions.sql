-- The installed functions whose names are in $1, with the text of their bodies.
select p.proname::text, p.prosrc
from pg_catalog.pg_proc p
where p.pronamespace = to_regnamespace('longshore') and p.proname = any($1)
order by 1
