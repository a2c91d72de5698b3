-- Harmless: runs that ended while steps of them may be out, and that upkeep has not settled yet.
with waiting as materialized (
    select format('run %s, closed at %s', c.run_id, c.closed_at) as example from longshore.closed c
)
select (select count(*) from waiting) as found, array(select w.example from waiting w order by w.example limit 5) as examples
