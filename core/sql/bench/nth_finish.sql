-- When the $1-th attempt ended.
select finished_at from longshore.execution_step_attempts order by finished_at offset $1 - 1 limit 1
