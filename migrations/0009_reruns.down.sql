alter table longshore.workflow_runs drop column rerun_of, drop column retries;
