-- The books after a measurement, in a database that holds nothing else.
select
    (select count(*) from longshore.workflow_runs) as runs,
    (select count(*) from longshore.workflow_runs where state = 3) as completed_runs,
    (select count(*) from longshore.workflow_runs where state in (1, 2)) as live_runs,
    (select count(*) from longshore.execution_step_attempts) as attempts,
    (select count(*) from longshore.execution_step_attempts where outcome = 1 and attempt = 1) as completed_attempts,
    (select count(*) from (
        select from longshore.execution_step_attempts where outcome = 1 group by run_id, frame, node having count(*) > 1) d) as doubles,
    (select count(*) from longshore.step_ready) as ready,
    (select count(*) from longshore.step_delayed) as delayed,
    (select count(*) from longshore.step_leases) as held,
    (select count(*) from longshore.step_joins) as joins
