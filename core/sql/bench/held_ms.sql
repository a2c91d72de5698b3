-- From claim to recorded end, in ms: the median and the 99th percentile.
select percentile_cont(array[0.5, 0.99]) within group (order by extract(epoch from finished_at - claimed_at)::float8 * 1000)
from longshore.execution_step_attempts
where outcome = 1
