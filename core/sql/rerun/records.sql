-- How each node of these frames ended, by its last attempt: $1 shard, $2 run, $3 frames; 0 is the run's own graph. A node that is to be tried yet has not
-- ended, whatever its last attempt came to.
with homes as materialized (
    select s.frame, s.node from longshore.step_ready s where s.shard = $1 and s.run_id = $2 and s.kind in (0, 3)
    union all
    select s.frame, s.node from longshore.step_delayed s where s.shard = $1 and s.run_id = $2 and s.kind in (0, 3)
    union all
    select w.frame, w.node from longshore.step_waiting w where w.shard = $1 and w.run_id = $2 and w.woken_at is null
    union all
    select h.frame, h.node
    from longshore.lanes l cross join lateral unnest(l.run_ids, l.frames, l.nodes, l.kinds) h(run_id, frame, node, kind)
    where l.shard = $1 and h.run_id = $2 and h.kind in (0, 3)
)
select distinct on (a.frame, a.node) a.frame, a.node, a.attempt, a.outcome, a.output::text as output, a.error::text as error
from longshore.execution_step_attempts a
where a.shard = $1 and a.run_id = $2 and a.frame = any ($3)
  and not exists (select from homes h where h.frame = a.frame and h.node = a.node)
order by a.frame, a.node, a.attempt desc
