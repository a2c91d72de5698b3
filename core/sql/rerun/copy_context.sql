-- The context as it was before the first of what is done anew changed it: $1 shard, $2 the new run, $3 the other, $4 the snapshot.
with head as (
    insert into longshore.context_heads (shard, run_id, n) values ($1, $2, 0)
)
insert into longshore.execution_context_snapshots (shard, run_id, n, reason, context)
select $1, $2, 0, 1, s.context from longshore.execution_context_snapshots s where s.shard = $1 and s.run_id = $3 and s.n = $4
