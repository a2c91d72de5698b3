-- The changes of the context that a new run takes over, and what they make of it: $1 shard, $2 the new run, $3 the other; $4 their snapshots in that, $5 the number
-- of the new snapshot that each is part of, $6 true where nothing before it was left out, so that the context is what it was; $7, $8 and $9 by new snapshot: the
-- frame and the node whose change it is in the new version, null of what the context began with, and their attempt, 0 if there is none on record.
with recursive taken as materialized (
    select t.i, t.place, t.whole, s.reason, s.context, s.changes
    from unnest($4::int[], $5::int[], $6::boolean[]) with ordinality t (n, place, whole, i)
    join longshore.execution_context_snapshots s on s.shard = $1 and s.run_id = $3 and s.n = t.n
), made (i, place, context) as (
    select t.i, t.place, t.context from taken t where t.i = 1
    union all
    select t.i, t.place, case when t.whole then t.context else longshore.change_context(m.context, t.changes) end
    from made m join taken t on t.i = m.i + 1
), head as (
    insert into longshore.context_heads (shard, run_id, n) values ($1, $2, cardinality($7::int[]) - 1)
)
insert into longshore.execution_context_snapshots (shard, run_id, n, reason, frame, node, attempt, context, changes)
select distinct on (m.place) $1, $2, m.place, case when o.node is null then 1 else 2 end, o.frame, o.node, o.attempt, m.context,
    (select case when bool_and(t.changes is not null) then jsonb_agg(c order by t.i, c_i) end
     from taken t left join lateral jsonb_array_elements(t.changes) with ordinality c (c, c_i) on true
     where t.place = m.place and t.reason = 2)
from made m
join unnest($7::int[], $8::int[], $9::int[]) with ordinality o (frame, node, attempt, place) on o.place = m.place + 1
order by m.place, m.i desc
