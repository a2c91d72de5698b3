-- $1 shard, $2 worker, $3 queues it serves, $4 their marks, four for each, $5 how many timers to promote at most.
select known, live, promoted, next_due_us, promoted_queues, ready, solo, next_expiry_us, closings, took_us from longshore.upkeep_2($1, $2, $3, $4, $5)
