-- How many attempts had ended at $1.
select count(*) from longshore.execution_step_attempts where finished_at <= $1
