-- Promise 3: every try is a row, numbered from 1 without gaps; a skipped node has one row, number 0, and nothing else.
with broken as materialized (
    select format('run %s frame %s node %s: %s', a.run_id, a.frame, a.node, string_agg(a.attempt::text, ', ' order by a.attempt)) as example
    from longshore.execution_step_attempts a
    group by a.shard, a.run_id, a.frame, a.node
    having min(a.attempt) = 0 and count(*) > 1
        or min(a.attempt) > 1
        or min(a.attempt) = 1 and max(a.attempt) <> count(*)
)
select (select count(*) from broken) as found, array(select b.example from broken b order by b.example limit 5) as examples
