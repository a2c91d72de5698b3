-- Only for the variant that writes successors in a second transaction: one step job.
-- $1 shard, $2 queue, $3 priority, $4 run, $5 version, $6 frame, $7 node, $8 kind, $9 attempt, $10 failed, $11 lost.
insert into longshore.step_ready (shard, queue_id, priority, run_id, version_id, frame, node, kind, attempt, failed, lost)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
