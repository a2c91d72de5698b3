-- $1 shard, $2 run ids, $3 frames, $4 nodes.
select of_step, since, names, signal_id, name, payload, sent_at from longshore.read_woken($1, $2, $3, $4)
