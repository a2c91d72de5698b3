-- Who changed the context, in order; the first snapshot is what it was before: $1 shard, $2 run. Then: it is a change taken over from
-- another run in which nobody's record stands for it; it is on record what the change did.
select s.n, s.frame, s.node, coalesce(s.attempt = 0, false), s.changes is not null
from longshore.execution_context_snapshots s
where s.shard = $1 and s.run_id = $2 and s.reason in (1, 2)
order by s.n
