-- rerun_of: the run from which it took over what it did not do anew. retries: how often it went on after it had ended; retried_at: when last. What failed or was
-- lost before counts toward no policy any more.
alter table longshore.workflow_runs add column rerun_of uuid, add column retries smallint not null default 0, add column retried_at timestamptz;
