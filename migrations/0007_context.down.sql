drop table longshore.execution_context_snapshots, longshore.context_heads;
