-- Ask a child run to end, once: the signal cancel_requested, which says whose child it is. Its key is the same whoever asks, so two who ask at once ask once.
-- Nothing if it has ended. It only inserts.
create or replace function longshore.ask_child(p_shard smallint, p_child uuid, p_parent uuid)
returns void
language plpgsql volatile
set search_path = longshore, pg_temp
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $ask_child$
#variable_conflict use_column
begin
    -- nothing is inserted, and no number drawn, where it was asked before
    perform from signals s
    where s.shard = p_shard and s.run_id = p_child and s.name = 'cancel_requested' and s.payload ->> 'run_id' = p_parent::text limit 1;
    if not found then
        begin
            perform signal(p_child, 'cancel_requested', jsonb_build_object('run_id', p_parent, 'reason', 'the run that started it ended or needs it no more'),
                'longshore.cancel_requested');
        exception when sqlstate 'LS010' or sqlstate 'LS011' then     -- it ended at this moment
        end;
    end if;
end
$ask_child$;
