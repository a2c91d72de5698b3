-- Promise 2: successors are decided in the transaction that accepts an attempt. Found, in live and completed runs: nodes with one in-edge whose
-- predecessor has ended and that have neither a step job nor an attempt. A completed or skipped predecessor has ended; one that failed or was
-- lost has ended when it has no step job and an edge takes failures (without such an edge, see lost_retry).
-- Not looked at: a predecessor whose own step job is still out (its consequences come with that), and completed runs of versions with a
-- terminate node (they may end with nodes undecided).
with homes as (
    select s.shard, s.run_id, s.frame, s.node from longshore.step_ready s where s.kind <> 2
    union all
    select s.shard, s.run_id, s.frame, s.node from longshore.step_delayed s where s.kind <> 2
    union all
    select l.shard, h.run_id, h.frame, h.node
    from longshore.lanes l cross join lateral unnest(l.run_ids, l.frames, l.nodes, l.kinds) h(run_id, frame, node, kind)
    where h.kind <> 2
    union all
    select w.shard, w.run_id, w.frame, w.node from longshore.step_waiting w where w.woken_at is null
    union all
    select f.shard, f.run_id, f.parent, f.node from longshore.frames f where f.whole and f.state = 1
), single as (
    select e.version_id, e.to_node as node, min(e.from_node) as source
    from longshore.workflow_edges e
    group by e.version_id, e.to_node
    having count(*) = 1
), takes_failure as (
    select e.version_id, e.from_node as node from longshore.workflow_edges e where e.on_outcome in ('failure', 'always', 'timeout')
    union
    select n.version_id, n.node from longshore.workflow_nodes n where n.on_error = 'skip'
), terminating as (
    select distinct n.version_id from longshore.workflow_nodes n where n.type = 'terminate'
), broken as materialized (
    select distinct format('run %s frame %s: node %s has ended, its successor %s has no step job and no attempt', a.run_id, a.frame, p.id, n.id) as example
    from longshore.execution_step_attempts a
    join longshore.body_instances r on r.shard = a.shard and r.run_id = a.run_id and r.frame = a.frame
    join single s on s.version_id = r.version_id and s.source = a.node
    join longshore.workflow_nodes n on n.version_id = s.version_id and n.node = s.node
    join longshore.workflow_nodes p on p.version_id = s.version_id and p.node = s.source
    where (r.state in (1, 2) or r.state = 3 and r.version_id not in (select t.version_id from terminating t))
      and (a.outcome in (1, 5)
           or a.outcome in (2, 3) and exists (select from takes_failure f where f.version_id = r.version_id and f.node = a.node))
      and not exists (select from homes h where h.shard = a.shard and h.run_id = a.run_id and h.frame = a.frame and h.node = a.node)
      and not exists (select from homes h where h.shard = a.shard and h.run_id = a.run_id and h.frame = a.frame and h.node = s.node)
      and not exists (select from longshore.execution_step_attempts x
                      where x.shard = a.shard and x.run_id = a.run_id and x.frame = a.frame and x.node = s.node)
)
select (select count(*) from broken) as found, array(select b.example from broken b order by b.example limit 5) as examples
