-- what was parked is due now, and a worker of the schema before puts it back as long as its run is paused
update longshore.step_delayed set due_at = now() where parked;
alter table longshore.step_delayed drop column parked;
drop table longshore.pauses;
