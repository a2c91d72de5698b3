-- $1 shard, $2 run, $3 why: 5 is canceled.
select found, changed, state
from longshore.close_run($1, $2, 5::smallint, $3::jsonb)
