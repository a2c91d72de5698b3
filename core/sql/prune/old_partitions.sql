-- Months of attempts that nothing needs: over before $2, and no run that remains on shard $1 began in them. A run id carries the time of its
-- start, and a transaction that is still open may hold a start that no one sees yet: so the month must be over since before the oldest one.
-- detach is null for a month that an interrupted prune has already detached.
select p.name, p.detach, p.remove
from (
    select c.relname::text as name, format('drop table longshore.%I', c.relname) as remove,
        case when i.inhrelid is not null then format('alter table longshore.execution_step_attempts detach partition longshore.%I %s',
            c.relname, case when i.inhdetachpending then 'finalize' else 'concurrently' end) end as detach,
        i.inhdetachpending is true as pending, m.month, date_trunc('month', m.month + interval '40 days', 'UTC') as month_end
    from pg_catalog.pg_class c
    left join pg_catalog.pg_inherits i on i.inhrelid = c.oid
    cross join lateral (
        select make_timestamptz(substr(right(c.relname, 7), 1, 4)::int, right(c.relname, 2)::int, 1, 0, 0, 0, 'UTC') as month offset 0) m
    where c.relnamespace = 'longshore'::regnamespace and c.relkind = 'r' and c.relname ~ '^execution_step_attempts_[0-9]{4}_(0[1-9]|1[0-2])$'
) p
where p.month_end < $2
    and p.month_end < (select min(a.xact_start) from pg_catalog.pg_stat_activity a where a.xact_start is not null)
    and not exists (
        select from longshore.workflow_runs r
        where r.shard = $1 and r.run_id >= longshore.run_id_at(p.month) and r.run_id < longshore.run_id_at(p.month_end))
order by p.pending desc, p.month
