-- $1 shard, $2 run, $3 which snapshot, the newest if null; $4 how many in all, it and those before it. Newest first.
select s.n, (array['init', 'step', 'final', 'error'])[s.reason] as reason, s.at, s.frame, n.id as node, s.attempt, s.context
from longshore.execution_context_snapshots s
join longshore.workflow_runs r on r.shard = s.shard and r.run_id = s.run_id
left join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = s.node
where s.shard = $1 and s.run_id = $2 and ($3::int is null or s.n <= $3)
order by s.n desc
limit $4
