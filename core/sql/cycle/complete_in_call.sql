-- $1 shard, $2 lane, $3 cycle, $4 queue, $5 priority, $6 run, $7 version, $8 frame, $9 node, $10 attempt, $11 enqueued, $12 claimed,
-- $13 duration in ms, $14 output.
select longshore.complete_in($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
