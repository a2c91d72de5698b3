-- The time that blocks have from now on: $1 shard, $2 run, $3 version, $4 priority, $5 queue, $6 frames, $7 how long, in microseconds.
insert into longshore.step_delayed (shard, due_at, queue_id, priority, run_id, version_id, frame, node, kind, attempt)
select $1, now() + t.after_us * interval '1 microsecond', $5, $4, $2, $3, t.frame, -6, 4, 0
from unnest($6::int[], $7::bigint[]) t (frame, after_us)
