-- One round trip for up to a thousand runs; see start_runs for the arrays.
select run_id, created
from longshore.start_runs($1, $2, $3, $4, $5, $6)
order by ordinal
