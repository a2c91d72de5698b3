-- Step jobs of a run that are due later, the first due first, each with the step's last recorded attempt.
--   $1 shard   $2 run id   $3 how many to show
with mine as materialized (
    select s.due_at, s.seq, s.queue_id, s.version_id, s.frame, s.node, s.kind, s.attempt, s.parked
    from longshore.step_delayed s
    where s.shard = $1 and s.run_id = $2 and s.node <> -9        -- the time of a wait is told with the wait
), shown as materialized (
    select m.due_at, m.seq, m.queue_id, m.version_id, m.frame, m.node, m.kind, m.attempt, m.parked
    from mine m
    order by m.due_at, m.seq
    limit $3
)
select (select count(*) from mine) as total,
    m.frame, m.kind, m.attempt, m.due_at, m.parked,
    longshore.node_name(n.id, m.node) as node,
    case when m.kind = 0 then n.handler end as handler,
    coalesce(q.name, '(queue ' || m.queue_id || ')') as queue,
    e.attempt as last_attempt, e.outcome as last_outcome, e.finished_at as last_finished_at, e.error as last_error
from shown m
left join longshore.queues q on q.queue_id = m.queue_id
left join longshore.workflow_nodes n on n.version_id = m.version_id and n.node = m.node
left join lateral (
    select a.attempt, a.outcome, a.finished_at, a.error
    from longshore.execution_step_attempts a
    where a.shard = $1 and a.run_id = $2 and a.frame = m.frame and a.node = m.node
    order by a.attempt desc
    limit 1
) e on true
order by m.due_at, m.seq
