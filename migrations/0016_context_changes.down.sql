drop function if exists longshore.cycle_2;
alter table longshore.execution_context_snapshots drop column changes;
