-- Runs that wait for the answer of a person, and the signal that answers. $1 shard.
select w.run_id, w.names[1] as signal
from longshore.step_waiting w
where w.shard = $1 and w.woken_at is null and w.names[1] like 'approval:%'
