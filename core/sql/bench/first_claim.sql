-- When the first step was claimed.
select min(claimed_at) from longshore.execution_step_attempts
