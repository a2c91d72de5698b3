-- Where it goes on: $1 shard, $2 run, $3 version, $4 priority, $5 frames, $6 nodes, $7 kinds, $8 attempts, $9 queues.
insert into longshore.step_ready (shard, queue_id, priority, run_id, version_id, frame, node, kind, attempt)
select $1, t.queue, $4, $2, $3, t.frame, t.node, t.kind, t.attempt
from unnest($5::int[], $6::int[], $7::smallint[], $8::int[], $9::int[]) t (frame, node, kind, attempt, queue)
