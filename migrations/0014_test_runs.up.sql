-- Runs in test mode: what stands for the handlers, child runs and people of the run; null in all other runs.
alter table longshore.workflow_runs add column mocks jsonb;
