-- Where a stuck run broke off: in each graph pending nodes all of whose predecessors have ended (entry nodes too), and the ends of live graphs that hold
-- no live frame and of which no node is pending.
--   $1 shard   $2 run id   $3 version   $4, $5 frames and numbers of the nodes that have ended   $6, $7 the same of those that are pending
with ended as materialized (
    select t.frame, t.node from unnest($4::int[], $5::int[]) t(frame, node)
), pending as materialized (
    select t.frame, t.node from unnest($6::int[], $7::int[]) t(frame, node)
)
select l.frame, l.node
from (
    select p.frame, n.node as number, n.id as node
    from pending p
    join longshore.workflow_nodes n on n.version_id = $3 and n.node = p.node
    where not exists (
        select from longshore.workflow_edges e
        where e.version_id = $3 and e.to_node = p.node
          and not exists (select from ended d where d.frame = p.frame and d.node = e.from_node))
    union all
    select f.frame, 2147483647, '(end)'
    from longshore.frames f
    where f.shard = $1 and f.run_id = $2 and f.state = 1
      and not exists (select from longshore.frames b where b.shard = $1 and b.run_id = $2 and b.parent = f.frame and b.state = 1)
      and not exists (select from pending p where p.frame = f.frame)
) l
order by l.frame, l.number
limit 20
