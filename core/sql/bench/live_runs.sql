select count(*) from longshore.workflow_runs where state in (1, 2)
