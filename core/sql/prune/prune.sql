-- $1 shard, $2 after this run id, $3 ended before, $4 runs to look at; see prune_runs.
select last_run, looked_at, runs, attempts
from longshore.prune_runs($1, $2, $3, $4)
