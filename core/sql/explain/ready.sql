-- Step jobs of a run that may be claimed now, the next first, and how many of the queue would be claimed before each (counted to $4).
--   $1 shard   $2 run id   $3 how many to show   $4 where to stop counting
-- priority 16 to 19 is 0 to 3 for step jobs that must be alone in their lane: a line of their own.
with mine as materialized (
    select s.queue_id, s.priority, s.seq, s.version_id, s.frame, s.node, s.kind, s.attempt
    from longshore.step_ready s
    where s.shard = $1 and s.run_id = $2
), shown as materialized (
    select m.queue_id, m.priority, m.seq, m.version_id, m.frame, m.node, m.kind, m.attempt
    from mine m
    order by m.priority & 15, m.seq
    limit $3
)
select (select count(*) from mine) as total,
    m.frame, m.kind, m.attempt, (m.priority & 15)::smallint as priority, m.priority >= 16 as alone,
    longshore.node_name(n.id, m.node) as node,
    case when m.kind = 0 then n.handler end as handler,
    coalesce(q.name, '(queue ' || m.queue_id || ')') as queue,
    longshore.seq_time(m.seq) as since,
    (select count(*) from (
        select
        from longshore.step_ready o
        where o.shard = $1 and o.queue_id = m.queue_id
          and (o.priority, o.seq) >= (m.priority & 16, 0::bigint) and (o.priority, o.seq) < (m.priority, m.seq)
        limit $4
    ) c) as ahead
from shown m
left join longshore.queues q on q.queue_id = m.queue_id
left join longshore.workflow_nodes n on n.version_id = m.version_id and n.node = m.node
order by m.priority & 15, m.seq
