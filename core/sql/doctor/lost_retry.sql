-- Promise 1: a step that tried and did not end is tried again. Found, in live and completed runs: steps whose last attempt failed, was lost or
-- released, that have no step job, and that did not give up into an edge that takes failures.
-- A run ends in the very transaction in which such a step gives up; so in a live run it must have a step job.
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
), takes_failure as (
    select e.version_id, e.from_node as node from longshore.workflow_edges e where e.on_outcome in ('failure', 'always', 'timeout')
    union
    select n.version_id, n.node from longshore.workflow_nodes n where n.on_error = 'skip'
), terminating as (
    select distinct n.version_id from longshore.workflow_nodes n where n.type = 'terminate'
), broken as materialized (
    select format('run %s frame %s node %s: attempt %s was %s, and no step job is there to try again', a.run_id, a.frame, a.node, a.attempt,
        (array[null, 'failed', 'lost', null, null, 'released'])[a.outcome]) as example
    from longshore.execution_step_attempts a
    join longshore.body_instances r on r.shard = a.shard and r.run_id = a.run_id and r.frame = a.frame
    where a.outcome in (2, 3, 6) and a.node >= 0
      and (r.state in (1, 2) or r.state = 3 and r.version_id not in (select t.version_id from terminating t))
      and (a.outcome = 6 or not exists (select from takes_failure f where f.version_id = r.version_id and f.node = a.node))
      and not exists (select from homes h where h.shard = a.shard and h.run_id = a.run_id and h.frame = a.frame and h.node = a.node)
      and not exists (select from longshore.execution_step_attempts x
                      where x.shard = a.shard and x.run_id = a.run_id and x.frame = a.frame and x.node = a.node
                        and (x.attempt > a.attempt or x.outcome = 1))
)
select (select count(*) from broken) as found, array(select b.example from broken b order by b.example limit 5) as examples
