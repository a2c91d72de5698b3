-- A run id, which carries the clock.
select longshore.new_run_id()
