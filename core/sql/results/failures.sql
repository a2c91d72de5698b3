-- What the last failures of steps were, counted by name and kind. $1 shard, $2 run ids, $3 frames, $4 nodes, $5 how many of the last of each.
-- Asked only for retries of nodes with several policies; reads by key.
select t.run_id, t.frame, t.node, coalesce(f.name, ''), coalesce(f.kind, ''), count(*)
from unnest($2::uuid[], $3::int[], $4::int[], $5::int[]) t (run_id, frame, node, most),
    lateral (select a.error ->> 'name' as name, a.error ->> 'kind' as kind
             from longshore.execution_step_attempts a
             where a.shard = $1 and a.run_id = t.run_id and a.frame = t.frame and a.node = t.node and a.attempt > 0 and a.outcome = 2
             order by a.attempt desc limit t.most) f
group by 1, 2, 3, 4, 5
