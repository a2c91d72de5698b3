drop function longshore.make_partitions(timestamptz), longshore.seq_time(bigint), longshore.new_run_id(), longshore.run_id_time(uuid), longshore.run_id_at(timestamptz);
