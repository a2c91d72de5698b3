-- Joins that have begun to count: $1 shard, $2 run, $3 frames, $4 nodes, $5 resolved, $6 taken.
insert into longshore.step_joins (shard, run_id, frame, node, resolved, taken)
select $1, $2, t.frame, t.node, t.resolved, t.taken from unnest($3::int[], $4::int[], $5::int[], $6::int[]) t (frame, node, resolved, taken)
