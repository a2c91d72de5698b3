-- The context as it was before the first of what is done anew changed it: $1 shard, $2 the new run, $3 the other, $4 nodes that are taken over.
-- Changes made within blocks are those of the block's node.
with mine as materialized (
    select s.n, s.context,
        coalesce((select f.node from longshore.frames x
                  join longshore.frames f on f.shard = x.shard and f.run_id = x.run_id and f.frame = coalesce(x.path[1], x.frame)
                  where x.shard = s.shard and x.run_id = s.run_id and x.frame = s.frame), s.node) as node
    from longshore.execution_context_snapshots s
    where s.shard = $1 and s.run_id = $3 and s.reason in (1, 2)
), kept as (
    select m.context from mine m
    where m.n < coalesce((select min(x.n) from mine x where x.node is not null and x.node <> all ($4::int[])), m.n + 1)
    order by m.n desc limit 1
), head as (
    insert into longshore.context_heads (shard, run_id, n) select $1, $2, 0 from kept
)
insert into longshore.execution_context_snapshots (shard, run_id, n, reason, context) select $1, $2, 0, 1, k.context from kept k
