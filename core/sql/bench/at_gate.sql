-- How many sessions wait at the gate.
select count(*) from pg_locks where not granted and relation = 'longshore.step_ready'::regclass
