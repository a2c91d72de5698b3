-- The worker claims nothing more. $1 worker.
update longshore.workers set draining = true, heartbeat_at = now() where worker_id = $1
