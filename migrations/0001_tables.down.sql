drop table longshore.workers, longshore.execution_step_attempts, longshore.closed, longshore.worker_lanes, longshore.lanes,
    longshore.step_joins, longshore.step_delayed, longshore.step_ready, longshore.workflow_runs, longshore.workflow_edges,
    longshore.workflow_nodes, longshore.workflow_versions, longshore.workflows, longshore.queues;
drop sequence longshore.ready_seq, longshore.delayed_seq, longshore.close_seq;
drop function longshore.refuse_change();
drop function longshore.run_is_sound(smallint, smallint, timestamptz, jsonb, jsonb);
drop function longshore.baton_is_sound(uuid[], int[], int[], smallint[], int[], timestamptz[]);
