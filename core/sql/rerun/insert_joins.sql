-- Joins that have begun to count: $1 shard, $2 run, $3 nodes, $4 resolved, $5 taken.
insert into longshore.step_joins (shard, run_id, frame, node, resolved, taken)
select $1, $2, 0, t.node, t.resolved, t.taken from unnest($3::int[], $4::int[], $5::int[]) t (node, resolved, taken)
