-- as it was before there were blocks and waits
create or replace view longshore.execution_steps as
select distinct on (s.shard, s.run_id, s.frame, s.node) s.shard, s.run_id, s.frame, s.node, s.state, s.attempt, s.since, s.until
from (
    select shard, run_id, frame, node, 'ready'::text as state, attempt, longshore.seq_time(seq) as since, null::timestamptz as until, true as home
    from longshore.step_ready where kind in (0, 3)
    union all
    select shard, run_id, frame, node, 'delayed', attempt, null, due_at, true
    from longshore.step_delayed where kind in (0, 3)
    union all
    select shard, run_id, frame, node, 'running', attempt, claimed_at, expires_at, true
    from longshore.step_leases where kind in (0, 3)
    union all
    select shard, run_id, frame, node, (array['completed', 'failed', 'failed', 'canceled', 'skipped', 'canceled'])[outcome], attempt, finished_at, null, false
    from longshore.execution_step_attempts
) s
where s.node >= 0
order by s.shard, s.run_id, s.frame, s.node, s.home desc, s.attempt desc;
drop table longshore.step_waiting, longshore.signals;
drop sequence longshore.signal_seq;
drop index longshore.workflow_nodes_wait;
-- edges that the schema before cannot say
delete from longshore.workflow_edges where on_outcome = 'timeout';
alter table longshore.workflow_edges drop constraint workflow_edges_on_outcome_check,
    add constraint workflow_edges_on_outcome_check check (on_outcome in ('success', 'failure', 'always'));
