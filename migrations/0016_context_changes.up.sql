-- What each change did, so that a run made anew may leave some of them out: [{"op", "path", "value"}, …] as `change_context` takes them. Null: the snapshot is none of
-- a change, or older than this.
alter table longshore.execution_context_snapshots add column changes jsonb;
