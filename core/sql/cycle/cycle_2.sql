-- One pass of a lane's baton: end attempts, count joins, enqueue what the lane does not keep, claim what it has slots for.
-- One call is one transaction. Everything hangs on deleting baton p_cycle: no row, no effect, and no row is returned.
-- The order of statements is the order of locks: lane, frames (by key), waits (by key), signals (by key), contexts (by run), pauses (by run), joins (by key),
-- runs (by id), then rows nobody else can hold.
--
-- p_shard    the shard of everything below
-- p_lane, p_cycle, p_lease   the baton that is passed; the next one is p_cycle + 1 and expires p_lease after now()
-- p_worker   the lane's worker when the lane is not registered yet, else null
-- p_open     the lane holds no baton: nothing to delete, p_cycle + 1 is inserted if something is claimed
-- p_look     also return what is closed at the moment of the runs that the lane holds
-- p_ended, p_known   fence: the runs whose steps are ended here, and the closings of theirs the lane has already heeded
-- j_*        arrivals at joins, one row per join, sorted by run, frame, node. j_indegree: all in-edges. j_need: 0 all in-edges and one taken;
--            n > 0 fires at the n-th taken; -1 fires when all are resolved, whatever was taken. j_queue, j_priority, j_version: where the join
--            goes when it fires. j_keep: this lane may hold it; at most p_keep are held, the rest goes to step_ready.
--            j_chunk, j_ahead: where j_chunk > 0 the in-edges are iterations of a frame, j_chunk of which begin together; j_ahead chunks begin
--            at once, and another for each chunk that is resolved: its step job is made here (node -4, attempt = which chunk)
-- g_*        joins whose in-edges were all resolved in an earlier cycle: their rows go
-- z_*        runs that end, or (state 2) are paused: new state, output, error; z_close: steps of it may be out, so announce the end in closed
-- a_*        attempts that ended
-- d_*        step jobs that are due later: after d_after_us, or at d_at where given
-- s_*        step jobs that are ready for anyone
-- b_*        steps that get a private baton of their own
-- q_*, p_limit   what to claim: queue, priority, low-water mark, limit, in order; p_limit in all
-- h_*        what the lane goes on holding; where h_claimed is shorter, the rest are successors it keeps from now() on
-- p_frames   null where no block is concerned, else an object; what it does not have is not looked for:
--            end     frames that end, sorted by run and frame: run, frame, state, output, error (JSON texts), announce (as z_close); then_frame,
--                    then_node, then_attempt: the step job of kind 4 that says what follows, if then_node is not null, with queue, priority,
--                    version, keep. A frame that another ended before stays as it is, and nothing follows
--            new     frames that begin, those of one block whose numbers and iterations follow each other together: run, the first frame, parent, node,
--                    attempt, the first iteration, body, path, before, failed, whole, bounds, shield, cleanup; inputs: one for each (JSON
--                    texts)
--            chunks  iterations that begin together, now or later: run, frame, chunk, first, count, items (a JSON text)
--            opened  such that begin now: run, frame, chunk, first
--            forget  passes of a while that need not be kept: run, frame, deep (there may be frames below it)
--            wait    steps that begin to wait: run, frame, node, attempt, version, queue, priority, failed, names, picky; after_us: how long at most,
--                    if that is bounded, timer: the queue of the step job (node -9) that ends it then; child: the run it waits for instead of signals
--            wake    waits that end, or a signal that one of them refuses: run, frame, node, signal (null: its time is over; 0: what it waited for
--                    is no signal), refused, keep. Both or
--                    nothing: a wait that another woke, or a signal that another took, is passed by. The step job that is made has kind 3
--            waited  waits whose attempt ends here: run, frame, node
--            context steps that change the context of their run, sorted by run: run, version, frame, node, attempt, changes (as change_context takes
--                    them, a JSON text; null: the run ends here, and its context is kept once more)
--            pause   runs that are paused here, sorted: run, why; each is among z_* with the state 2
--            park    step jobs of paused runs, sorted by run: run, version, frame, node, kind, attempt, failed, lost, queue, priority. One whose run was
--                    resumed meanwhile is ready
--            children  runs that begin, each with the step that starts it: run, workflow, version (null: the newest), depth, policy, awaited, input (a JSON
--                    text), priority; parent, frame, node, attempt
--            asks    child runs that are to be asked to end: run, parent
--
-- An array without entries is best given as null (p_known must not be): plpgsql takes each array it is given apart, empty or not.
--
-- Returns one row 'f' (passed: at = now(), node = joins put to step_ready, seq = microseconds the claim took); 'c' for each step the lane holds anew (claimed or a join that fired:
-- at = when it was claimed, seq null for a join; parent = the run that started its run, if one did; mocks: of a run in test mode); 'm' for each z_run that had ended before; 'x' for each closing announced here, seen,
-- or met by a successor that the lane keeps, or by what follows the end of a frame, and must drop (seq = its id); 'p' for each run of such a successor that is paused.
create or replace function longshore.cycle_2(
    p_shard smallint, p_lane bigint, p_cycle bigint, p_lease interval, p_worker uuid, p_open boolean, p_look boolean,
    p_ended uuid[], p_known bigint[],
    j_run uuid[], j_frame int[], j_node int[], j_resolved int[], j_taken int[], j_indegree int[], j_need int[],
    j_queue int[], j_priority smallint[], j_version int[], j_keep boolean[], p_keep int, j_chunk int[], j_ahead int[],
    g_run uuid[], g_frame int[], g_node int[],
    z_run uuid[], z_state smallint[], z_output text[], z_error text[], z_close boolean[],
    a_run uuid[], a_frame int[], a_node int[], a_attempt int[], a_outcome smallint[], a_enqueued timestamptz[], a_claimed timestamptz[],
    a_duration real[], a_output text[], a_error text[],
    d_after_us bigint[], d_at timestamptz[], d_queue int[], d_priority smallint[], d_run uuid[], d_version int[], d_frame int[], d_node int[],
    d_kind smallint[], d_attempt int[], d_failed smallint[], d_lost smallint[],
    s_queue int[], s_priority smallint[], s_run uuid[], s_version int[], s_frame int[], s_node int[],
    s_kind smallint[], s_attempt int[], s_failed smallint[], s_lost smallint[],
    b_lane bigint[], b_run uuid[], b_frame int[], b_node int[], b_kind smallint[], b_attempt int[], b_claimed timestamptz[],
    q_queue int[], q_priority smallint[], q_low bigint[], q_limit int[], p_limit int,
    h_run uuid[], h_frame int[], h_node int[], h_kind smallint[], h_attempt int[], h_claimed timestamptz[], p_frames jsonb
) returns table (
    tag text, run_id uuid, version_id int, frame int, node int, kind smallint, attempt int, failed smallint, lost smallint,
    queue_id int, priority smallint, seq bigint, at timestamptz, state smallint, input text, key text, parent uuid, mocks text
)
language plpgsql volatile
set search_path = longshore, pg_temp
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $cycle_2$
#variable_conflict use_column
declare
    q record;
    r record;
    k record;
    v_due timestamptz;
    v_timer bigint;
    v_fires boolean;
    v_whole boolean;
    v_kind smallint;
    v_spilled int := 0;
    v_began timestamptz;
    v_claimed timestamptz;
    v_close bigint;
    v_missed uuid[];                                             -- runs that had ended before
    v_stay int;
    v_kept int;
    v_followed int;
    v_met boolean;
    v_paused boolean;
    v_before int;
    v_chunk int;
    v_n int;
    i int := 0;
    -- what the lane holds anew: joins that fired, then what was claimed; null as long as there is nothing
    n_run uuid[]; n_version int[]; n_frame int[]; n_node int[]; n_kind smallint[]; n_attempt int[];
    n_failed smallint[]; n_lost smallint[]; n_queue int[]; n_priority smallint[]; n_seq bigint[];
    c_run uuid[]; c_version int[]; c_frame int[]; c_node int[]; c_kind smallint[]; c_attempt int[];
    c_failed smallint[]; c_lost smallint[]; c_queue int[]; c_priority smallint[]; c_seq bigint[];
begin
    if not p_open then
        delete from lanes l
        where l.shard = p_shard and l.lane_id = p_lane and l.cycle = p_cycle
          and not exists (select from closed x where x.shard = p_shard and x.run_id = any (p_ended) and x.close_id <> all (p_known));
        if not found then
            return;
        end if;
    end if;

    if p_frames is not null then
        if p_frames ? 'end' then
            -- All in one statement: one for each would prepare the table's constraint anew each time, which costs more than the update. A frame is updated
            -- while it is live, which ends it, and never again; so one that another changed meanwhile is lost to this statement as it should be.
            for q in update frames f set state = t.state, output = t.output::jsonb, error = t.error::jsonb, finished_at = now()
                     from (select e.run, e.frame, e.state, e.output, e.error, e.announce, e.then_frame, e.then_node, e.then_attempt, e.queue, e.priority, e.version,
                               e.keep, (select x.ctid from frames x where x.shard = p_shard and x.run_id = e.run and x.frame = e.frame) as place
                           from jsonb_to_recordset(p_frames -> 'end') e (run uuid, frame int, state smallint, output text, error text, announce boolean,
                               then_frame int, then_node int, then_attempt int, queue int, priority smallint, version int, keep boolean) offset 0) t
                     where (f.shard = p_shard and f.state = 1 or p_shard = f.shard and f.state < 0) and f.ctid = t.place
                     returning t.run, t.frame, t.announce, t.then_frame, t.then_node, t.then_attempt, t.queue, t.priority, t.version, t.keep loop
                if q.announce then
                    insert into closed (shard, run_id, frame) values (p_shard, q.run, q.frame) returning close_id into v_close;
                    tag := 'x'; run_id := q.run; frame := q.frame; seq := v_close;
                    return next;
                    seq := null; frame := null;
                end if;
                continue when q.then_node is null;
                if q.keep and coalesce(cardinality(n_run), 0) < p_keep then
                    n_run := n_run || q.run; n_frame := n_frame || q.then_frame; n_node := n_node || q.then_node; n_kind := n_kind || 4::smallint;
                    n_attempt := n_attempt || q.then_attempt; n_failed := n_failed || 0::smallint; n_lost := n_lost || 0::smallint;
                    n_version := n_version || q.version; n_queue := n_queue || q.queue; n_priority := n_priority || q.priority;
                    n_seq := n_seq || null::bigint;
                else
                    v_spilled := v_spilled + 1;
                    s_queue := s_queue || q.queue; s_priority := s_priority || q.priority; s_run := s_run || q.run; s_version := s_version || q.version;
                    s_frame := s_frame || q.then_frame; s_node := s_node || q.then_node; s_kind := s_kind || 4::smallint;
                    s_attempt := s_attempt || q.then_attempt; s_failed := s_failed || 0::smallint; s_lost := s_lost || 0::smallint;
                end if;
            end loop;
        end if;
        if p_frames ?| '{forget,opened,chunks}' then
            for q in select e.run, e.frame, e.deep from jsonb_to_recordset(p_frames -> 'forget') e (run uuid, frame int, deep boolean) loop
                -- what is below stays where something of the run is not settled: settling reads what is below what
                if q.deep and not exists (select from closed x where x.shard = p_shard and x.run_id = q.run) then
                    for r in select f.frame from frames f where f.shard = p_shard and f.run_id = q.run and q.frame = any (f.path) order by f.frame loop
                        delete from frame_chunks c where c.shard = p_shard and c.run_id = q.run and c.frame = r.frame;
                        delete from frames f where f.shard = p_shard and f.run_id = q.run and f.frame = r.frame;
                    end loop;
                end if;
                delete from frames f where f.shard = p_shard and f.run_id = q.run and f.frame = q.frame;
            end loop;
            for q in select e.run, e.frame, e.chunk, e.first from jsonb_to_recordset(p_frames -> 'opened') e (run uuid, frame int, chunk int, first int) loop
                update frame_chunks c set first = q.first, items = null
                where c.shard = p_shard and c.run_id = q.run and c.frame = q.frame and c.chunk = q.chunk;
            end loop;
            insert into frame_chunks (shard, run_id, frame, chunk, first, count, items)
            select p_shard, e.run, e.frame, e.chunk, e.first, e.count, e.items::jsonb
            from jsonb_to_recordset(p_frames -> 'chunks') e (run uuid, frame int, chunk int, first int, count int, items text);
        end if;
        if p_frames ? 'new' then
            insert into frames (shard, run_id, frame, parent, node, attempt, iteration, body, path, before, failed, whole, bounds, input, shield, cleanup)
            select p_shard, e.run, e.frame + i.nth::int - 1, e.parent, e.node, e.attempt, e.iteration + i.nth::int - 1, e.body, e.path, e.before, e.failed,
                e.whole, e.bounds, i.input::jsonb, e.shield, e.cleanup
            from jsonb_to_recordset(p_frames -> 'new') e (run uuid, frame int, parent int, node int, attempt int, iteration int, body int, path int[],
                    before int[], failed smallint, whole boolean, bounds jsonb, shield int, cleanup smallint, inputs text[]),
                unnest(e.inputs) with ordinality i (input, nth);
        end if;
        if p_frames ?| '{waited,wake,wait}' then
            for q in select e.run, e.frame, e.node from jsonb_to_recordset(p_frames -> 'waited') e (run uuid, frame int, node int) loop
                delete from step_waiting w where w.shard = p_shard and w.run_id = q.run and w.frame = q.frame and w.node = q.node;
            end loop;
            -- all the waits before all the signals: who locks one of each at a time meets another who has the second of them
            for q in select e.run, e.frame, e.node from jsonb_to_recordset(p_frames -> 'wake') e (run uuid, frame int, node int)
                     order by e.run, e.frame, e.node loop
                perform from step_waiting w
                where w.shard = p_shard and w.run_id = q.run and w.frame = q.frame and w.node = q.node and w.woken_at is null for update;
            end loop;
            for q in select e.run, e.frame, e.node, e.signal, e.refused, e.keep
                     from jsonb_to_recordset(p_frames -> 'wake') e (run uuid, frame int, node int, signal bigint, refused text, keep boolean)
                     order by e.run, e.signal, e.frame, e.node loop
                if q.signal > 0 then
                    perform from step_waiting w
                    where w.shard = p_shard and w.run_id = q.run and w.frame = q.frame and w.node = q.node and w.woken_at is null;
                    continue when not found;
                    update signals s set taken_at = now(), taken_frame = q.frame, taken_node = q.node, refused = q.refused
                    where s.shard = p_shard and s.run_id = q.run and s.signal_id = q.signal and s.taken_at is null;
                    continue when not found or q.refused is not null;
                end if;
                update step_waiting w set woken_at = now(), signal_id = q.signal
                where w.shard = p_shard and w.run_id = q.run and w.frame = q.frame and w.node = q.node and w.woken_at is null
                returning w.version_id, w.queue_id, w.priority, w.attempt, w.failed, w.due_at, w.timer_seq into r;
                continue when not found;
                if r.timer_seq is not null then
                    -- a range of one time, in order: with two equal keys a plan made on an empty table takes the index of runs, and reads the whole
                    -- shard. One that is made ready at this moment is skipped: it will find the wait woken
                    delete from step_delayed d
                    where (d.shard = p_shard and d.attempt >= 0 or p_shard = d.shard and d.attempt < 0)
                      and d.ctid = any (array(select s.ctid from step_delayed s where s.shard = p_shard and s.due_at between r.due_at and r.due_at
                                              and s.seq = r.timer_seq order by s.due_at, s.seq limit 1 for update skip locked));
                end if;
                if q.keep and coalesce(cardinality(n_run), 0) < p_keep then
                    n_run := n_run || q.run; n_frame := n_frame || q.frame; n_node := n_node || q.node; n_kind := n_kind || 3::smallint;
                    n_attempt := n_attempt || r.attempt; n_failed := n_failed || r.failed; n_lost := n_lost || 0::smallint;
                    n_version := n_version || r.version_id; n_queue := n_queue || r.queue_id; n_priority := n_priority || r.priority;
                    n_seq := n_seq || null::bigint;
                else
                    v_spilled := v_spilled + 1;
                    s_queue := s_queue || r.queue_id; s_priority := s_priority || r.priority; s_run := s_run || q.run; s_version := s_version || r.version_id;
                    s_frame := s_frame || q.frame; s_node := s_node || q.node; s_kind := s_kind || 3::smallint;
                    s_attempt := s_attempt || r.attempt; s_failed := s_failed || r.failed; s_lost := s_lost || 0::smallint;
                end if;
            end loop;
            for q in select e.run, e.frame, e.node, e.attempt, e.version, e.queue, e.priority, e.failed, e.names, e.picky, e.after_us, e.timer, e.child
                     from jsonb_to_recordset(p_frames -> 'wait') e (run uuid, frame int, node int, attempt int, version int, queue int, priority smallint,
                         failed smallint, names text[], picky boolean, after_us bigint, timer int, child uuid) loop
                v_due := null; v_timer := null;
                if q.after_us is not null then
                    insert into step_delayed (shard, due_at, queue_id, priority, run_id, version_id, frame, node, kind, attempt)
                    values (p_shard, now() + q.after_us * interval '1 microsecond', q.timer, q.priority, q.run, q.version, q.frame, -9, 4, q.node)
                    returning due_at, seq into v_due, v_timer;
                end if;
                insert into step_waiting (shard, run_id, frame, node, attempt, version_id, queue_id, priority, failed, names, picky, due_at, timer_seq, child_run_id)
                values (p_shard, q.run, q.frame, q.node, q.attempt, q.version, q.queue, q.priority, q.failed, q.names, q.picky, v_due, v_timer, q.child);
            end loop;
        end if;
        if p_frames ?| '{context,pause,park,children,asks}' then
            for q in select e.run, e.version, e.frame, e.node, e.attempt, e.changes
                     from jsonb_to_recordset(p_frames -> 'context') e (run uuid, version int, frame int, node int, attempt int, changes text) loop
                if q.changes is null then
                    perform from context_heads h where h.shard = p_shard and h.run_id = q.run for update;
                    continue;
                end if;
                insert into context_heads as h (shard, run_id, n) values (p_shard, q.run, 1)
                on conflict (shard, run_id) do update set n = h.n + 1 returning h.n into v_n;
                if v_n = 1 then
                    -- a run that took over from another has one
                    insert into execution_context_snapshots (shard, run_id, n, reason, context)
                    values (p_shard, q.run, 0, 1, coalesce((select v.definition -> 'context' from workflow_versions v where v.version_id = q.version), '{}'))
                    on conflict (shard, run_id, n) do nothing;
                end if;
                -- a statement of its own: it sees what the one above waited for
                insert into execution_context_snapshots (shard, run_id, n, reason, frame, node, attempt, context, changes)
                select p_shard, q.run, v_n, 2, q.frame, q.node, q.attempt, longshore.change_context(s.context, q.changes::jsonb), q.changes::jsonb
                from execution_context_snapshots s where s.shard = p_shard and s.run_id = q.run and s.n = v_n - 1;
            end loop;

            for q in select e.run, e.why from jsonb_to_recordset(p_frames -> 'pause') e (run uuid, why text) loop
                insert into pauses (shard, run_id, why) values (p_shard, q.run, q.why::jsonb) on conflict (shard, run_id) do nothing;
            end loop;
            for q in select e.run, e.version, e.frame, e.node, e.kind, e.attempt, e.failed, e.lost, e.queue, e.priority
                     from jsonb_to_recordset(p_frames -> 'park') e (run uuid, version int, frame int, node int, kind smallint, attempt int, failed smallint,
                         lost smallint, queue int, priority smallint) loop
                -- whoever resumes the run waits for this cycle, and then finds the step; or has deleted the row, and the step is ready
                perform from pauses x where x.shard = p_shard and x.run_id = q.run for key share;
                if found then
                    insert into step_delayed (shard, due_at, queue_id, priority, run_id, version_id, frame, node, kind, attempt, failed, lost, parked)
                    values (p_shard, '9999-12-31', q.queue, q.priority, q.run, q.version, q.frame, q.node, q.kind, q.attempt, q.failed, q.lost, true);
                else
                    v_spilled := v_spilled + 1;
                    s_queue := s_queue || q.queue; s_priority := s_priority || q.priority; s_run := s_run || q.run; s_version := s_version || q.version;
                    s_frame := s_frame || q.frame; s_node := s_node || q.node; s_kind := s_kind || q.kind;
                    s_attempt := s_attempt || q.attempt; s_failed := s_failed || q.failed; s_lost := s_lost || q.lost;
                end if;
            end loop;

            for q in select e.run, e.workflow, e.version, e.depth, e.policy, e.awaited, e.input, e.priority, e.parent, e.frame, e.node, e.attempt
                     from jsonb_to_recordset(p_frames -> 'children') e (run uuid, workflow int, version int, depth smallint, policy smallint, awaited boolean,
                         input text, priority smallint, parent uuid, frame int, node int, attempt int) loop
                select v.version_id, v.first_node, v.first_queue_id into r from workflow_versions v
                where v.version_id = coalesce(q.version, (select l.version_id from workflow_versions l where l.workflow_id = q.workflow
                                                          order by l.version desc limit 1));
                insert into workflow_runs (run_id, workflow_id, version_id, shard, priority, input, parent_run_id, parent_frame, parent_node, parent_attempt,
                    depth, close_policy, awaited, mocks)
                values (q.run, q.workflow, r.version_id, p_shard, q.priority, q.input::jsonb, q.parent, q.frame, q.node, q.attempt, q.depth, q.policy, q.awaited,
                    (select w.mocks from workflow_runs w where w.shard = p_shard and w.run_id = q.parent));
                v_spilled := v_spilled + 1;
                s_queue := s_queue || r.first_queue_id; s_priority := s_priority || q.priority; s_run := s_run || q.run; s_version := s_version || r.version_id;
                s_frame := s_frame || 0; s_node := s_node || r.first_node; s_kind := s_kind || 0::smallint;
                s_attempt := s_attempt || 1; s_failed := s_failed || 0::smallint; s_lost := s_lost || 0::smallint;
            end loop;
            for q in select e.run, e.parent from jsonb_to_recordset(p_frames -> 'asks') e (run uuid, parent uuid) loop
                perform ask_child(p_shard, q.run, q.parent);
            end loop;
        end if;
    end if;

    if cardinality(j_run) > 0 then
        for q in
            insert into step_joins as j (shard, run_id, frame, node, resolved, taken)
            select p_shard, t.run_id, t.frame, t.node, t.resolved, t.taken
            from unnest(j_run, j_frame, j_node, j_resolved, j_taken) t (run_id, frame, node, resolved, taken)
            order by t.run_id, t.frame, t.node
            on conflict (shard, run_id, frame, node) do update set resolved = j.resolved + excluded.resolved, taken = j.taken + excluded.taken
            returning j.run_id, j.frame, j.node, j.resolved, j.taken
        loop
            i := i + 1;
            if (q.run_id, q.frame, q.node) is distinct from (j_run[i], j_frame[i], j_node[i]) then
                raise exception 'join arrivals must be sorted by run, frame and node' using errcode = 'LS100';
            end if;
            if q.resolved > j_indegree[i] then
                raise exception 'join % of run % counts % arrivals of %', q.node, q.run_id, q.resolved, j_indegree[i] using errcode = 'LS101';
            end if;
            v_whole := q.resolved = j_indegree[i];
            v_fires := case when j_need[i] = 0 then v_whole and q.taken > 0
                            when j_need[i] < 0 then v_whole
                            else q.taken - j_taken[i] < j_need[i] and q.taken >= j_need[i] end;
            -- a join decides at most two things at once: it fires (0), it will never fire (1), it fired early and is whole now (2)
            foreach v_kind in array (case when v_fires and v_whole and j_need[i] > 0 then '{0,2}' when v_fires then '{0}'
                    when v_whole and q.taken < greatest(j_need[i], 1) then '{1}' when v_whole then '{2}' else '{}' end)::smallint[] loop
                if j_keep[i] and coalesce(cardinality(n_run), 0) < p_keep then
                    n_run := n_run || q.run_id; n_frame := n_frame || q.frame; n_node := n_node || q.node; n_kind := n_kind || v_kind;
                    n_attempt := n_attempt || (v_kind = 0)::int; n_failed := n_failed || 0::smallint; n_lost := n_lost || 0::smallint;
                    n_version := n_version || j_version[i]; n_queue := n_queue || j_queue[i]; n_priority := n_priority || j_priority[i];
                    n_seq := n_seq || null::bigint;
                else
                    v_spilled := v_spilled + 1;
                    s_queue := s_queue || j_queue[i]; s_priority := s_priority || j_priority[i]; s_run := s_run || q.run_id;
                    s_version := s_version || j_version[i]; s_frame := s_frame || q.frame; s_node := s_node || q.node; s_kind := s_kind || v_kind;
                    s_attempt := s_attempt || (v_kind = 0)::int; s_failed := s_failed || 0::smallint; s_lost := s_lost || 0::smallint;
                end if;
            end loop;
            if j_chunk[i] > 0 then
                v_before := q.resolved - j_resolved[i];
                for v_chunk in v_before / j_chunk[i] + j_ahead[i] .. q.resolved / j_chunk[i] + j_ahead[i] - 1 loop
                    exit when v_chunk::bigint * j_chunk[i] >= j_indegree[i];
                    if j_keep[i] and coalesce(cardinality(n_run), 0) < p_keep then
                        n_run := n_run || q.run_id; n_frame := n_frame || q.frame; n_node := n_node || -4; n_kind := n_kind || 4::smallint;
                        n_attempt := n_attempt || v_chunk; n_failed := n_failed || 0::smallint; n_lost := n_lost || 0::smallint;
                        n_version := n_version || j_version[i]; n_queue := n_queue || j_queue[i]; n_priority := n_priority || j_priority[i];
                        n_seq := n_seq || null::bigint;
                    else
                        v_spilled := v_spilled + 1;
                        s_queue := s_queue || j_queue[i]; s_priority := s_priority || j_priority[i]; s_run := s_run || q.run_id;
                        s_version := s_version || j_version[i]; s_frame := s_frame || q.frame; s_node := s_node || -4; s_kind := s_kind || 4::smallint;
                        s_attempt := s_attempt || v_chunk; s_failed := s_failed || 0::smallint; s_lost := s_lost || 0::smallint;
                    end if;
                end loop;
            end if;
        end loop;
    end if;
    if cardinality(g_run) > 0 then
        for q in select t.run_id, t.frame, t.node from unnest(g_run, g_frame, g_node) t (run_id, frame, node) loop
            delete from step_joins j where j.shard = p_shard and j.run_id = q.run_id and j.frame = q.frame and j.node = q.node;
        end loop;
    end if;

    if cardinality(z_run) > 0 then
        for q in select t.run_id, t.state, t.output, t.error, t.announce
                 from unnest(z_run, z_state, z_output, z_error, z_close) t (run_id, state, output, error, announce) loop
            update workflow_runs w set state = q.state, output = q.output::jsonb, error = q.error::jsonb, finished_at = case when q.state > 2 then now() end
            where w.shard = p_shard and w.run_id = q.run_id and w.state in (1, 2)
            returning w.awaited, w.parent_run_id, w.parent_frame, w.parent_node into r;
            if not found then
                if q.state = 2 then
                    delete from pauses x where x.shard = p_shard and x.run_id = q.run_id;
                end if;
                tag := 'm'; run_id := q.run_id;
                return next;
                v_missed := v_missed || q.run_id;
            elsif q.announce then
                insert into closed (shard, run_id) values (p_shard, q.run_id) returning close_id into v_close;
                tag := 'x'; run_id := q.run_id; seq := v_close;
                return next;
                seq := null;
            end if;
            if r.awaited and q.state > 2 then
                -- who has this step job looks what became of the run, and wakes the step that waits for it. No lock on the parent
                select p.version_id, p.priority, v.first_queue_id into k
                from workflow_runs p, lateral (select x.first_queue_id from workflow_versions x where x.version_id = p.version_id offset 0) v
                where p.shard = p_shard and p.run_id = r.parent_run_id
                  and (p.state in (1, 2) or exists (select from frames f where f.shard = p_shard and f.run_id = p.run_id and f.frame = r.parent_frame
                                                    and f.shield is not null));
                continue when not found;
                v_spilled := v_spilled + 1;
                s_queue := s_queue || k.first_queue_id; s_priority := s_priority || k.priority; s_run := s_run || r.parent_run_id;
                s_version := s_version || k.version_id; s_frame := s_frame || r.parent_frame; s_node := s_node || -10; s_kind := s_kind || 4::smallint;
                s_attempt := s_attempt || r.parent_node; s_failed := s_failed || 0::smallint; s_lost := s_lost || 0::smallint;
            end if;
        end loop;
        -- one that was paused may have parked steps, which settling removes with the pause
        for q in select p.run_id from unnest(z_run, z_state, z_close) t (run_id, state, announce),
                     lateral (select x.run_id from pauses x where x.shard = p_shard and x.run_id = t.run_id offset 0) p
                 where t.state > 2 and not t.announce and (v_missed is null or t.run_id <> all (v_missed)) loop
            insert into closed (shard, run_id) values (p_shard, q.run_id) returning close_id into v_close;
            tag := 'x'; run_id := q.run_id; seq := v_close;
            return next;
            seq := null;
        end loop;
        if p_frames ? 'context' then
            for q in select e.run from jsonb_to_recordset(p_frames -> 'context') e (run uuid, changes text) where e.changes is null loop
                select w.state into v_kind from workflow_runs w
                where w.shard = p_shard and w.run_id = q.run and w.state in (3, 4) and w.finished_at = now();
                continue when not found;
                update context_heads h set n = h.n + 1 where h.shard = p_shard and h.run_id = q.run returning h.n into v_n;
                continue when not found;
                insert into execution_context_snapshots (shard, run_id, n, reason, context)
                select p_shard, q.run, v_n, v_kind, s.context
                from execution_context_snapshots s where s.shard = p_shard and s.run_id = q.run and s.n = v_n - 1;
            end loop;
        end if;
    end if;

    if cardinality(a_run) > 0 then
        insert into execution_step_attempts (shard, run_id, frame, node, attempt, outcome, lane_id, enqueued_at, claimed_at, finished_at, duration_ms, output, error)
        select p_shard, t.run_id, t.frame, t.node, t.attempt, t.outcome, p_lane, t.enqueued, t.claimed, now(), t.duration, t.output::jsonb, t.error::jsonb
        from unnest(a_run, a_frame, a_node, a_attempt, a_outcome, a_enqueued, a_claimed, a_duration, a_output, a_error)
            t (run_id, frame, node, attempt, outcome, enqueued, claimed, duration, output, error);
    end if;
    if cardinality(d_run) > 0 then
        insert into step_delayed (shard, due_at, queue_id, priority, run_id, version_id, frame, node, kind, attempt, failed, lost)
        select p_shard, coalesce(t.due, now() + t.after_us * interval '1 microsecond'), t.queue, t.priority, t.run_id, t.version, t.frame, t.node,
            t.kind, t.attempt, t.failed, t.lost
        from unnest(d_after_us, d_at, d_queue, d_priority, d_run, d_version, d_frame, d_node, d_kind, d_attempt, d_failed, d_lost)
            t (after_us, due, queue, priority, run_id, version, frame, node, kind, attempt, failed, lost);
    end if;
    if cardinality(s_run) > 0 then
        insert into step_ready (shard, queue_id, priority, run_id, version_id, frame, node, kind, attempt, failed, lost)
        select p_shard, t.queue, t.priority, t.run_id, t.version, t.frame, t.node, t.kind, t.attempt, t.failed, t.lost
        from unnest(s_queue, s_priority, s_run, s_version, s_frame, s_node, s_kind, s_attempt, s_failed, s_lost)
            t (queue, priority, run_id, version, frame, node, kind, attempt, failed, lost);
    end if;
    if cardinality(b_lane) > 0 then
        insert into lanes (shard, lane_id, cycle, expires_at, run_ids, frames, nodes, kinds, attempts, claimed_at)
        select p_shard, t.lane, 1, now() + p_lease, array[t.run_id], array[t.frame], array[t.node], array[t.kind], array[t.attempt], array[t.claimed]
        from unnest(b_lane, b_run, b_frame, b_node, b_kind, b_attempt, b_claimed) t (lane, run_id, frame, node, kind, attempt, claimed);
        insert into worker_lanes (shard, lane_id, worker_id)
        select p_shard, t.lane, w.worker_id
        from unnest(b_lane) t (lane), lateral (select r.worker_id from worker_lanes r where r.shard = p_shard and r.lane_id = p_lane offset 0) w;
    end if;

    v_followed := coalesce(cardinality(n_run), 0);
    v_began := clock_timestamp();
    if p_limit > 0 then
        -- rows another lane is taking are skipped, never waited for. The two-armed condition hides the shard from the index (else a generic plan
        -- scans the whole shard with a ctid filter) but not from a distributed planner.
        with c as (
            delete from step_ready r
            where (r.shard = p_shard and r.attempt >= 0 or p_shard = r.shard and r.attempt < 0)
              and r.ctid = any (array(
                select k.ctid
                from unnest(q_queue, q_priority, q_low, q_limit) with ordinality w (queue, priority, low, most, o),
                    lateral (select s.ctid from step_ready s
                             where s.shard = p_shard and s.queue_id = w.queue and s.priority = w.priority and s.seq > w.low
                             order by s.seq limit w.most for update skip locked) k
                limit p_limit))
            returning r.run_id, r.version_id, r.frame, r.node, r.kind, r.attempt, r.failed, r.lost, r.queue_id, r.priority, r.seq)
        select array_agg(c.run_id), array_agg(c.version_id), array_agg(c.frame), array_agg(c.node), array_agg(c.kind), array_agg(c.attempt),
            array_agg(c.failed), array_agg(c.lost), array_agg(c.queue_id), array_agg(c.priority), array_agg(c.seq)
        into c_run, c_version, c_frame, c_node, c_kind, c_attempt, c_failed, c_lost, c_queue, c_priority, c_seq
        from c;
        if c_run is not null then
            n_run := n_run || c_run; n_version := n_version || c_version; n_frame := n_frame || c_frame; n_node := n_node || c_node;
            n_kind := n_kind || c_kind; n_attempt := n_attempt || c_attempt; n_failed := n_failed || c_failed; n_lost := n_lost || c_lost;
            n_queue := n_queue || c_queue; n_priority := n_priority || c_priority; n_seq := n_seq || c_seq;
        end if;
    end if;

    -- after the claim and the joins, before the runs' states are read: no predecessor finished later, and a run read as live closes later
    v_claimed := clock_timestamp();
    v_stay := coalesce(cardinality(h_claimed), 0);
    v_kept := coalesce(cardinality(h_run), 0) - v_stay;
    if v_stay + v_kept > 0 or n_run is not null then
        insert into lanes (shard, lane_id, cycle, expires_at, run_ids, frames, nodes, kinds, attempts, claimed_at)
        values (p_shard, p_lane, p_cycle + 1, now() + p_lease, h_run || n_run, h_frame || n_frame, h_node || n_node, h_kind || n_kind,
            h_attempt || n_attempt,
            h_claimed || array_fill(now(), array[v_kept]) || array_fill(v_claimed, array[coalesce(cardinality(n_run), 0)]))
        returning v_kept + v_followed > 0 and exists (select from closed x where x.shard = p_shard and x.run_id = any (h_run || n_run)),
            v_kept > 0 and exists (select from pauses x where x.shard = p_shard and x.run_id = any (h_run)) into v_met, v_paused;
        if p_worker is not null then
            insert into worker_lanes (shard, lane_id, worker_id) values (p_shard, p_lane, p_worker) on conflict (shard, lane_id) do nothing;
        end if;
    end if;

    tag := 'f'; at := now(); node := v_spilled; seq := extract(microseconds from v_claimed - v_began)::bigint; run_id := null;
    return next;
    if n_run is not null then
        return query
            select 'c', t.run_id, t.version, t.frame, t.node, t.kind, t.attempt, t.failed, t.lost, t.queue, t.priority, t.seq, v_claimed, w.state, w.input, w.key, w.parent_run_id,
                w.mocks::text
            from unnest(n_run, n_version, n_frame, n_node, n_kind, n_attempt, n_failed, n_lost, n_queue, n_priority, n_seq)
                t (run_id, version, frame, node, kind, attempt, failed, lost, queue, priority, seq)
            left join lateral (
                select r.state, case when pg_column_size(r.input) <= 8192 then r.input::text end as input, r.key, r.parent_run_id, r.mocks
                from workflow_runs r where r.shard = p_shard and r.run_id = t.run_id offset 0) w on true;
    end if;
    -- a successor that the lane keeps is not read from the run, nor are the frames around what follows the end of one: a run or frame closed since the
    -- fence looked must not start it
    if v_met then
        return query
            select 'x', x.run_id, null::int, x.frame, null::int, null::smallint, null::int, null::smallint, null::smallint, null::int, null::smallint,
                x.close_id, null::timestamptz, null::smallint, null::text, null::text, null::uuid, null::text
            from closed x where x.shard = p_shard and x.run_id = any (h_run[v_stay + 1:] || n_run[:v_followed]);
    end if;
    if v_paused then
        return query
            select 'p', x.run_id, null::int, null::int, null::int, null::smallint, null::int, null::smallint, null::smallint, null::int, null::smallint,
                null::bigint, null::timestamptz, null::smallint, null::text, null::text, null::uuid, null::text
            from pauses x where x.shard = p_shard and x.run_id = any (h_run[v_stay + 1:]);
    end if;
    if p_look then
        return query
            select 'x', x.run_id, null::int, x.frame, null::int, null::smallint, null::int, null::smallint, null::smallint, null::int, null::smallint,
                x.close_id, null::timestamptz, null::smallint, null::text, null::text, null::uuid, null::text
            from closed x where x.shard = p_shard and x.run_id = any (h_run || n_run);
    end if;
end
$cycle_2$;
