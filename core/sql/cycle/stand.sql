-- Where a lane's baton stands after an unclear answer, and what it holds. $1 shard, $2 lane, $3 the cycle that was sent.
select cycle, run_id, version_id, frame, node, kind, attempt, failed, lost, queue_id, priority, at, state, input, key, parent, mocks
from longshore.recover($1, $2, $3)
