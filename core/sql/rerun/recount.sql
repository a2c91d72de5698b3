-- Blocks that count their iterations anew: how they were counted before is not on record any more. $1 shard, $2 run, $3 frames.
with chunks as (
    delete from longshore.frame_chunks c where c.shard = $1 and c.run_id = $2 and c.frame = any ($3)
)
delete from longshore.execution_step_attempts a where a.shard = $1 and a.run_id = $2 and a.frame = any ($3) and a.node in (-2, -3)
