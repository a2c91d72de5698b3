-- Between the ends of consecutive steps of one run, in ms: the median and the 99th percentile. $1: so many first hops do not count.
select percentile_cont(array[0.5, 0.99]) within group (order by h.ms)
from (
    select extract(epoch from a.finished_at - lag(a.finished_at) over (partition by a.run_id order by a.finished_at))::float8 * 1000 as ms,
        row_number() over (order by a.finished_at) as hop
    from longshore.execution_step_attempts a
    where a.outcome = 1) h
where h.ms is not null and h.hop > $1
