-- $1 shard, $2 run ids, $3 frames, $4 nodes, $5 numbers of signals, $6 how many for each.
select of_step, signal_id, name, payload, sent_at from longshore.read_candidates($1, $2, $3, $4, $5, $6)
