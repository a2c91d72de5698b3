-- The context's snapshots that a new run takes over, numbered anew: $1 shard, $2 the new run, $3 the other, $4 their numbers in that, $5 and $6 the frame and the
-- node whose change each is in the new version, null of what the context began with.
with head as (
    insert into longshore.context_heads (shard, run_id, n) values ($1, $2, cardinality($4::int[]) - 1)
)
insert into longshore.execution_context_snapshots (shard, run_id, n, reason, frame, node, attempt, context)
select $1, $2, t.place::int - 1, s.reason, t.frame, t.node, case when t.node is not null then 1 end, s.context
from unnest($4::int[], $5::int[], $6::int[]) with ordinality t (n, frame, node, place)
join longshore.execution_context_snapshots s on s.shard = $1 and s.run_id = $3 and s.n = t.n
