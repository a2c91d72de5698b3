alter table longshore.workflow_runs drop column rerun_of, drop column retries, drop column retried_at;
