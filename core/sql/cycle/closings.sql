-- Which of these runs, or frames of theirs, are closed: asked when the fence refused a cycle. $1 shard, $2 run ids.
select run_id, close_id, frame
from longshore.closed
where shard = $1 and run_id = any ($2)
