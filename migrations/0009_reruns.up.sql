-- rerun_of: the run from which it took over what it did not do anew. retries: how often it went on after it had ended.
alter table longshore.workflow_runs add column rerun_of uuid, add column retries smallint not null default 0;
