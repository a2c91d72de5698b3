-- Where it goes on: $1 shard, $2 run, $3 version, $4 priority, $5 nodes, $6 attempts, $7 queues.
insert into longshore.step_ready (shard, queue_id, priority, run_id, version_id, frame, node, kind, attempt)
select $1, t.queue, $4, $2, $3, 0, t.node, 0, t.attempt from unnest($5::int[], $6::int[], $7::int[]) t (node, attempt, queue)
