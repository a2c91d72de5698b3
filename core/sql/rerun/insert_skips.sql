-- Nodes that do not run, as far as nobody said so yet: $1 shard, $2 run, $3 frames, $4 nodes, $5 reasons.
insert into longshore.execution_step_attempts (shard, run_id, frame, node, attempt, outcome, lane_id, finished_at, error)
select $1, $2, t.frame, t.node, 0, 5, 0, now(), jsonb_build_object('reason', t.reason) from unnest($3::int[], $4::int[], $5::text[]) t (frame, node, reason)
on conflict (shard, run_id, frame, node, attempt) do nothing
