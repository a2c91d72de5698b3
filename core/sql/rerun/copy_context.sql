-- The snapshots of the context that a new run takes over, numbered anew: $1 shard, $2 the new run, $3 the other, $4 their numbers, $5 who wrote each, as the new
-- version numbers it (null: nobody), in its one attempt.
with head as (
    insert into longshore.context_heads (shard, run_id, n) values ($1, $2, cardinality($4::int[]) - 1)
)
insert into longshore.execution_context_snapshots (shard, run_id, n, reason, frame, node, attempt, context)
select $1, $2, (t.place - 1)::int, s.reason, s.frame, t.node, case when s.node is not null then 1 end, s.context
from unnest($4::int[], $5::int[]) with ordinality t (n, node, place)
join longshore.execution_context_snapshots s on s.shard = $1 and s.run_id = $3 and s.n = t.n
