-- Move up to p_limit step jobs that are due from step_delayed to step_ready, the longest due first. Rows another worker moves are skipped.
-- Returns one row: how many were moved, when the next one is due (null: none), and the queues that got work.
create or replace function longshore.promote(p_shard smallint, p_limit int)
returns table (promoted int, next_due_us bigint, queue_ids int[])
language plpgsql volatile
set search_path = longshore, pg_temp
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $promote$
#variable_conflict use_column
declare
    m_queue int[]; m_priority smallint[]; m_run uuid[]; m_version int[]; m_frame int[]; m_node int[];
    m_kind smallint[]; m_attempt int[]; m_failed smallint[]; m_lost smallint[];
begin
    with c as (
        delete from step_delayed d
        where (d.shard = p_shard and d.attempt >= 0 or p_shard = d.shard and d.attempt < 0)
          and d.ctid = any (array(select s.ctid from step_delayed s where s.shard = p_shard and s.due_at <= now()
                                  order by s.due_at, s.seq limit p_limit for update skip locked))
        returning d.queue_id, d.priority, d.run_id, d.version_id, d.frame, d.node, d.kind, d.attempt, d.failed, d.lost, d.due_at, d.seq)
    select array_agg(c.queue_id order by c.due_at, c.seq), array_agg(c.priority order by c.due_at, c.seq), array_agg(c.run_id order by c.due_at, c.seq),
        array_agg(c.version_id order by c.due_at, c.seq), array_agg(c.frame order by c.due_at, c.seq), array_agg(c.node order by c.due_at, c.seq),
        array_agg(c.kind order by c.due_at, c.seq), array_agg(c.attempt order by c.due_at, c.seq), array_agg(c.failed order by c.due_at, c.seq),
        array_agg(c.lost order by c.due_at, c.seq)
    into m_queue, m_priority, m_run, m_version, m_frame, m_node, m_kind, m_attempt, m_failed, m_lost
    from c;
    if m_run is not null then
        insert into step_ready (shard, queue_id, priority, run_id, version_id, frame, node, kind, attempt, failed, lost)
        select p_shard, t.queue, t.priority, t.run_id, t.version, t.frame, t.node, t.kind, t.attempt, t.failed, t.lost
        from unnest(m_queue, m_priority, m_run, m_version, m_frame, m_node, m_kind, m_attempt, m_failed, m_lost)
            t (queue, priority, run_id, version, frame, node, kind, attempt, failed, lost);
    end if;
    promoted := coalesce(cardinality(m_run), 0);
    select array_agg(distinct t.queue) into queue_ids from unnest(m_queue) t (queue);
    select greatest(extract(epoch from (s.due_at - clock_timestamp())) * 1000000, 0)::bigint into next_due_us
    from step_delayed s where s.shard = p_shard order by s.due_at limit 1;
    return next;
end
$promote$;
