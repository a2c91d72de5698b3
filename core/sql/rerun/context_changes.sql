-- Who changed the context, in order; the first snapshot is what it was before: $1 shard, $2 run.
select s.n, s.frame, s.node
from longshore.execution_context_snapshots s
where s.shard = $1 and s.run_id = $2 and s.reason in (1, 2)
order by s.n
