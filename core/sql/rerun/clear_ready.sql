-- What is left of step jobs of an ended run goes: a lane that claims one of them at this moment is waited for, and seen afterwards. $1 shard, $2 run.
delete from longshore.step_ready where shard = $1 and run_id = $2
