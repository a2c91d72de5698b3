//! The doctor is silent about whatever a fleet does, and each kind of damage done by hand is found by the check that is there for it.
//! The damage is done and examined in a transaction that is rolled back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Instant;

use longshore_core::doctor::{self, Report, Severity};
use longshore_tests::fleet::{PATIENCE, chain, fan};
use longshore_tests::lane::dag;
use longshore_tests::{TestDatabase, TestFleet};
use longshore_worker::Slots;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

/// Every shape in one graph. Node numbers: 0 charge, 1 ship, 2 refund, 3 pack, 4 wait, 5 done, 6 first, 7 bill, 8 nap, 9 quick. The end counts
/// four tokens: the sinks refund, first and bill, and first once more because it may fire early.
fn life(name: &str, backoff: &str) -> Value {
    let echo = |id: &str| json!({"id": id, "type": "task", "handler": "echo"});
    json!({
        "name": name,
        "nodes": [
            echo("charge"),
            {"id": "ship", "type": "task", "handler": "echo", "queue": "warehouse"},
            echo("refund"),
            {"id": "pack", "type": "task", "handler": "flaky", "input": {"fail": "{{ run.input.fail }}"},
             "retry": {"max_attempts": 3, "initial": backoff, "jitter": 0}},
            {"id": "wait", "type": "delay", "duration": "{{ run.input.wait }}"},
            echo("done"),
            {"id": "first", "type": "task", "handler": "echo", "join": "any"},
            echo("bill"),
            {"id": "nap", "type": "task", "handler": "sleep", "input": {"seconds": "{{ run.input.nap }}"}},
            echo("quick")],
        "edges": [
            ["charge", "ship"], {"from": "charge", "to": "refund", "on": "failure"}, ["charge", "pack"], ["charge", "wait"],
            ["charge", "nap"], ["charge", "quick"], ["ship", "done"], ["pack", "done"], ["wait", "done"], ["quick", "done"],
            ["quick", "first"], ["nap", "first"], ["done", "bill"]]
    })
}

fn choice() -> Value {
    let echo = |id: &str| json!({"id": id, "type": "task", "handler": "echo"});
    json!({
        "name": "choice",
        "nodes": [echo("a"), echo("gift"), echo("plain"), {"id": "note", "type": "set", "output": {"of": "{{ run.input.gift }}"}}, echo("z")],
        "edges": [{"from": "a", "to": "gift", "when": "run.input.gift"}, {"from": "a", "to": "plain", "when": "not run.input.gift"},
                  ["gift", "note"], ["note", "z"], ["plain", "z"]]
    })
}

fn stop() -> Value {
    json!({
        "name": "stop",
        "nodes": [{"id": "a", "type": "task", "handler": "echo"}, {"id": "t", "type": "terminate", "state": "completed", "output": 1},
                  {"id": "long", "type": "task", "handler": "sleep", "input": {"seconds": 3600}}],
        "edges": [["a", "t"]]
    })
}

/// A block whose time is bounded, with two iterations of another block, each of which waits for an hour.
fn naps() -> Value {
    let pass = json!({"nodes": [{"id": "pause", "type": "delay", "duration": "1h"}]});
    let again =
        json!({"id": "again", "type": "while", "when": "true", "max_iterations": 3, "on_limit": "stop", "body": pass});
    json!({"name": "naps", "nodes": [{"id": "each", "type": "foreach", "items": [1, 2], "timeout": "2h", "body": {"nodes": [again]}}]})
}

fn tried() -> Value {
    let body = |id: &str| json!({"nodes": [{"id": id, "type": "task", "handler": "echo"}]});
    json!({"name": "tried", "nodes": [{"id": "t", "type": "try", "body": body("a"), "finally": body("last")}]})
}

/// A database after a fleet crashed in the middle of its work: runs that ended in every way, and live ones in every place. No promise is broken
/// and there is nothing to note.
struct Lived {
    fleet: TestFleet,
    runs: BTreeMap<&'static str, Uuid>,
}

impl Lived {
    async fn new() -> Self {
        let warehouse =
            json!({"name": "stock", "queue": "warehouse", "nodes": [{"id": "a", "type": "task", "handler": "echo"}]});
        let slow = json!({"name": "slow", "nodes": [{"id": "a", "type": "task", "handler": "sleep"}]});
        let mut fleet = TestFleet::publish([
            chain("chain", 4),
            fan("fan", 5),
            life("life", "10ms"),
            life("long", "1h"),
            choice(),
            stop(),
            naps(),
            tried(),
            slow,
            warehouse,
            json!({"name": "waits", "nodes": [{"id": "a", "type": "wait", "signal": "go", "timeout": "1h"}]}),
            json!({"name": "kid", "nodes": [{"id": "a", "type": "delay", "duration": "1h"}]}),
            json!({"name": "family", "nodes": [{"id": "call", "type": "subflow", "workflow": "kid"}]}),
            dag("early", "a b c d j:2 k", "a>j b>j c>j d>j j>k"),
        ])
        .await;
        fleet.add(fleet.worker().queue("warehouse", Slots(10))).await;
        fleet.add(fleet.worker().queue("default", Slots(50)).name("clerk")).await;
        let mut runs = BTreeMap::new();
        let ended = [
            ("chained", "chain", json!({"n": 1}), "completed"),
            ("fanned", "fan", json!({}), "completed"),
            ("done", "life", json!({"fail": 1, "wait": "20ms", "nap": 0.02}), "completed"),
            ("failed", "life", json!({"fail": 9, "wait": "20ms", "nap": 3600}), "failed"),
            ("gift", "choice", json!({"gift": true}), "completed"),
            ("plain", "choice", json!({"gift": false}), "completed"),
            ("stopped", "stop", json!({}), "completed"),
            ("tried", "tried", json!({}), "completed"),
            ("early", "early", json!({}), "completed"),
        ];
        for (name, workflow, input, _) in &ended {
            runs.insert(*name, fleet.start(workflow, input.clone()).await);
        }
        let canceled = fleet.start("slow", json!({"seconds": 3600})).await;
        runs.insert("canceled", canceled);
        let held = format!("select exists (select from longshore.step_leases where run_id = '{canceled}')");
        fleet.until(&held).await;
        fleet.enqueuer.cancel(canceled).await.unwrap();
        for (name, _, _, state) in ended {
            assert_eq!(fleet.ended(runs[name]).await.0, state, "run {name}");
        }
        fleet.until("select not exists (select from longshore.closed)").await;

        fleet.leave_first().await; // nobody serves the warehouse any more
        runs.insert("live", fleet.start("long", json!({"fail": 1, "wait": "1h", "nap": 3600})).await);
        runs.insert("ready", fleet.start("stock", json!({})).await);
        runs.insert("napping", fleet.start("naps", json!({})).await);
        let waiting = fleet.start("waits", json!({})).await;
        runs.insert("waiting", waiting);
        fleet.enqueuer.signal(waiting, "stop", &1).await.unwrap();
        let waits = format!(
            "select exists (select from longshore.step_waiting where run_id = '{waiting}')
                and not exists (select from longshore.step_leases where run_id = '{waiting}')
                and not exists (select from longshore.step_ready where run_id = '{waiting}')"
        );
        fleet.until(&waits).await;
        let family = fleet.start("family", json!({})).await;
        let begun = "select exists (select from longshore.step_delayed d join longshore.workflow_runs r using (run_id) where r.depth = 1)";
        fleet.until(begun).await;
        runs.insert("family", family);
        let kid = "select run_id from longshore.workflow_runs where parent_run_id = $1";
        runs.insert("kid", fleet.ask(kid, family).await);
        let tomorrow = chrono::Utc::now() + chrono::TimeDelta::days(1);
        runs.insert("later", fleet.enqueuer.start("chain", &json!({})).run_at(tomorrow).await.unwrap().id);
        let live = runs["live"];
        fleet
            .until(&format!(
                "select (select count(*) from longshore.step_delayed where run_id = '{live}') = 2
                    and (select count(*) from longshore.step_leases where run_id = '{live}' and node = 8) = 1
                    and (select count(*) from longshore.execution_step_attempts where run_id = '{live}') = 5
                    and (select count(*) from longshore.step_joins where run_id = '{live}') = 3"
            ))
            .await;
        let napping = runs["napping"];
        let naps = format!("select count(*) = 3 from longshore.step_delayed where run_id = '{napping}'");
        fleet.until(&naps).await;
        let mut connection = fleet.database.pool.acquire().await.unwrap();
        let report = doctor::examine(&mut connection).await.unwrap();
        assert_silent(&report);
        drop(connection);
        fleet.crash().await;
        fleet.database.execute("update longshore.lanes set expires_at = now() + interval '1 h'").await;
        Self { fleet, runs }
    }

    /// What the doctor finds once this was done. `{name}` stands for the id of a run.
    async fn after(&self, damage: &str) -> Report {
        let mut sql = damage.to_owned();
        for (name, id) in &self.runs {
            sql = sql.replace(&format!("{{{name}}}"), &format!("'{id}'::uuid"));
        }
        let mut connection = self.fleet.database.pool.acquire().await.unwrap();
        begin(&mut connection).await;
        sqlx::raw_sql(&sql).execute(&mut *connection).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        let report = doctor::examine_within(&mut connection).await.unwrap_or_else(|e| panic!("after {sql}: {e}"));
        sqlx::raw_sql("rollback").execute(&mut *connection).await.unwrap();
        report
    }
}

async fn begin(connection: &mut PgConnection) {
    sqlx::raw_sql("begin; set local search_path = longshore").execute(connection).await.unwrap();
}

/// The checks that found something, promises and notes.
fn fired(report: &Report) -> Vec<&'static str> {
    report.checks.iter().filter(|check| check.found > 0).map(|check| check.name).collect()
}

fn assert_silent(report: &Report) {
    assert_eq!(fired(report), Vec::<&str>::new(), "{report}");
}

/// What is done, and the checks that find it.
type Damage = (&'static str, &'static str, &'static [&'static str]);

const ATTEMPT: &str = "insert into execution_step_attempts
    (run_id, frame, node, attempt, lane_id, enqueued_at, claimed_at, finished_at, shard, outcome, output, error)";

const DAMAGE: &[Damage] = &[
    ("the step job of a queued run is gone", "delete from step_ready where run_id = {ready}", &["stuck_run"]),
    ("a wait is gone", "delete from step_waiting where run_id = {waiting}", &["stuck_run"]),
    (
        "nobody looks for the signal that a step waits for",
        "update step_waiting set since = now() - interval '80 s';
         insert into signals (shard, run_id, name, payload, sent_at) values (0, {waiting}, 'go', '1', now() - interval '80 s')",
        &["lost_wake_up"],
    ),
    (
        "a step is parked and its run is not paused",
        "update step_delayed set parked = true, due_at = '9999-12-31' where run_id = {later}",
        &["parked_step"],
    ),
    ("a run is paused and nobody says so", "update workflow_runs set state = 2 where run_id = {later}", &["parked_step"]),
    (
        "the time of a wait is over and nothing ends it",
        "update step_waiting set due_at = now() - interval '80 s'; delete from step_delayed where run_id = {waiting}",
        &["lost_wake_up"],
    ),
    (
        "a wait that was woken waits again",
        "insert into step_ready (run_id, version_id, queue_id, node, attempt, shard, priority, kind)
         select run_id, version_id, queue_id, node, attempt, shard, priority, 3 from step_waiting",
        &["one_home"],
    ),
    (
        "a child run has ended and nobody tells the step that waits for it",
        "update workflow_runs set state = 5, finished_at = now() where run_id = {kid}; delete from step_delayed where run_id = {kid}",
        &["lost_child"],
    ),
    (
        "the run that a step waits for is gone",
        "delete from step_delayed where run_id = {kid}; delete from workflow_runs where run_id = {kid}",
        &["lost_child"],
    ),
    (
        "a run has ended and its child lives on",
        "update workflow_runs set state = 5, finished_at = now() where run_id = {family}; delete from step_waiting where run_id = {family}",
        &["orphan_child"],
    ),
    (
        "a step waits for its run no more",
        "delete from step_waiting where run_id = {family}",
        &["stuck_run", "orphan_child"],
    ),
    (
        "a signal to a run that does not exist",
        "insert into signals (shard, run_id, name, payload) values (0, new_run_id(), 'go', '1')",
        &["orphan"],
    ),
    ("a timer is gone", "delete from step_delayed where run_id = {later}", &["stuck_run"]),
    (
        "the step job of a body is gone",
        "delete from step_delayed where run_id = {napping} and frame = (select max(frame) from step_delayed where run_id = {napping})",
        &["stuck_frame"],
    ),
    (
        "of a block's step jobs only its timeout is left",
        "delete from step_delayed where run_id = {napping} and node >= 0",
        &["stuck_frame"],
    ),
    (
        "a body that nothing is in has ended, and what follows it is gone",
        "update frames set state = 5, finished_at = now() where run_id = {napping} and frame = (select max(frame) from frames where run_id = {napping});
         delete from step_delayed where run_id = {napping} and frame = (select max(frame) from frames where run_id = {napping})",
        &["stuck_frame"],
    ),
    (
        "a try was cut off, and its finally is forgotten",
        "delete from frames where run_id = {tried} and shield = frame",
        &["lost_finally"],
    ),
    (
        "the step job that begins a finally is gone",
        "delete from frames where run_id = {tried} and shield = frame; update frames set cleanup = 2 where run_id = {tried} and whole",
        &["lost_finally"],
    ),
    ("all step jobs of a run within a block are gone", "delete from step_delayed where run_id = {napping}", &["stuck_run"]),
    (
        "a lane's baton is gone",
        "delete from lanes",
        &["lost_successor"],
    ),
    (
        "two attempts of a step completed",
        "{attempt} select run_id, frame, node, 2, lane_id, enqueued_at, claimed_at, finished_at, shard, outcome, output, error
         from execution_step_attempts where run_id = {chained} and node = 3",
        &["accepted_once"],
    ),
    (
        "an attempt follows the completed one",
        "{attempt} select run_id, frame, node, 2, lane_id, enqueued_at, claimed_at, finished_at, shard, 2, null, '{}'
         from execution_step_attempts where run_id = {chained} and node = 3",
        &["accepted_once"],
    ),
    (
        "a completed step is ready again",
        "insert into step_ready (run_id, version_id, queue_id, node, attempt, shard, priority, kind)
         select run_id, version_id, 1, 0, 2, 0, 1, 0 from workflow_runs where run_id = {live}",
        &["accepted_once"],
    ),
    (
        "an attempt is missing in between",
        "update execution_step_attempts set attempt = 3 where run_id = {done} and node = 3 and attempt = 2",
        &["attempt_numbers"],
    ),
    (
        "the first attempt is missing",
        "delete from execution_step_attempts where run_id = {done} and node = 3 and attempt = 1",
        &["attempt_numbers"],
    ),
    (
        "attempts begin at 2",
        "update execution_step_attempts set attempt = 2 where run_id = {done} and node = 7",
        &["attempt_numbers"],
    ),
    (
        "a skipped node has an attempt",
        "{attempt} select run_id, frame, node, 1, lane_id, finished_at, finished_at, finished_at, shard, 1, '{}', null
         from execution_step_attempts where run_id = {done} and node = 2",
        &["attempt_numbers"],
    ),
    (
        "a step is ready and delayed",
        "insert into step_ready (run_id, version_id, queue_id, node, attempt, shard, priority, kind)
         select run_id, version_id, queue_id, node, attempt, shard, priority, kind from step_delayed where run_id = {live} and node = 3",
        &["one_home"],
    ),
    (
        "two lanes hold a step",
        "insert into lanes (lane_id, cycle, expires_at, shard, run_ids, frames, nodes, kinds, attempts, claimed_at)
         select 7, 1, expires_at, shard, run_ids, frames, nodes, kinds, attempts, claimed_at from lanes",
        &["one_home"],
    ),
    (
        "a step is held and ready",
        "insert into step_ready (run_id, version_id, queue_id, node, attempt, shard, priority, kind)
         select run_id, version_id, 1, 8, 1, 0, 1, 0 from workflow_runs where run_id = {live}",
        &["one_home"],
    ),
    (
        "nobody takes a dead lane's steps back",
        "update lanes set expires_at = now() - interval '61 s'",
        &["lease_overdue"],
    ),
    (
        "a join counted too many in-edges",
        "update step_joins set resolved = 5 where run_id = {live} and node = 5",
        &["join_counts"],
    ),
    (
        "a join of no node",
        "insert into step_joins (run_id, frame, node, resolved, taken, shard) values ({live}, 0, 77, 1, 1, 0)",
        &["join_counts"],
    ),
    (
        "a join has all in-edges and is not decided",
        "update step_joins set resolved = 4 where run_id = {live} and node = 5",
        &["join_counts"],
    ),
    (
        "the end of a run has all in-edges and is not decided",
        "update step_joins set resolved = 4 where run_id = {live} and node = -2",
        &["join_counts"],
    ),
    ("a join forgot what it counted", "delete from step_joins where run_id = {live} and node = 5", &["join_counts"]),
    (
        "a join that fired early is not decided",
        "delete from execution_step_attempts where run_id = {live} and node = 6",
        &["join_counts"],
    ),
    (
        "a join's row and its attempt are gone",
        "delete from step_joins where run_id = {live} and node = 6;
         delete from execution_step_attempts where run_id = {live} and node = 6",
        &["join_counts"],
    ),
    (
        "a ready successor is gone",
        "delete from step_ready where run_id = {live}",
        &["lost_successor"],
    ),
    (
        "a delayed successor is gone",
        "delete from step_delayed where run_id = {live} and node = 4",
        &["lost_successor"],
    ),
    (
        "a completed run's successor has no attempt",
        "delete from execution_step_attempts where run_id = {done} and node = 7",
        &["lost_successor"],
    ),
    (
        "the skip of a failure's branch is not recorded",
        "delete from execution_step_attempts where run_id = {live} and node = 2",
        &["lost_successor"],
    ),
    (
        "a retry is gone",
        "delete from step_delayed where run_id = {live} and node = 3",
        &["lost_retry"],
    ),
    (
        "a run completed, yet a step of it was lost and not tried again",
        "update execution_step_attempts set outcome = 3, output = null, error = '{}' where run_id = {chained} and node = 3",
        &["lost_retry"],
    ),
    (
        "a run was completed by hand",
        "update workflow_runs set state = 3, finished_at = now(), output = '{}' where run_id = {ready}",
        &["undecided_node", "residue"],
    ),
    (
        "a completed run lacks a join",
        "delete from execution_step_attempts where run_id = {done} and node in (5, 7)",
        &["undecided_node"],
    ),
    (
        "a join ran before its last predecessor ended",
        "update execution_step_attempts set claimed_at = claimed_at - interval '10 s' where run_id = {done} and node = 5",
        &["started_early"],
    ),
    (
        "a step ran before its predecessor ended",
        "update execution_step_attempts set claimed_at = claimed_at - interval '10 s' where run_id = {chained} and node = 2",
        &["started_early"],
    ),
    (
        "a join of a live run ran though predecessors have not ended",
        "{attempt} select run_id, 0, 5, 1, lane_id, now(), now(), now(), 0, 1, '{}', null
         from execution_step_attempts where run_id = {live} and node = 0;
         insert into step_ready (run_id, version_id, queue_id, node, attempt, shard, priority, kind)
         select run_id, version_id, 1, 7, 1, 0, 1, 0 from workflow_runs where run_id = {live}",
        &["started_early"],
    ),
    (
        "attempts of a run that does not exist",
        "{attempt} select new_run_id(), 0, 0, 1, 1, now(), now(), now(), 0, 1, '{}', null",
        &["orphan"],
    ),
    (
        "a step job of a run that does not exist",
        "insert into step_ready (run_id, version_id, queue_id, node, attempt, shard, priority, kind) values (new_run_id(), 1, 1, 0, 1, 0, 1, 0)",
        &["orphan"],
    ),
    (
        "a timer of a run that does not exist",
        "insert into step_delayed (due_at, run_id, version_id, queue_id, node, attempt, shard, priority, kind)
         values (now(), new_run_id(), 1, 1, 0, 1, 0, 1, 0)",
        &["orphan"],
    ),
    (
        "a join of a run that does not exist",
        "insert into step_joins (run_id, frame, node, resolved, taken, shard) values (new_run_id(), 0, 1, 1, 1, 0)",
        &["orphan"],
    ),
    (
        "a lane holds a step of a run that does not exist",
        "update lanes set run_ids = run_ids || new_run_id(), frames = frames || 0, nodes = nodes || 0, kinds = kinds || 0::smallint,
             attempts = attempts || 1, claimed_at = claimed_at || now()",
        &["orphan"],
    ),
    ("a run was deleted without the rest", "delete from workflow_runs where run_id = {chained}", &["orphan"]),
    ("a queue that does not exist", "update step_ready set queue_id = 99 where run_id = {ready}", &["unknown_place"]),
    ("a version that is not the run's", "update step_ready set version_id = 1 where run_id = {ready}", &["unknown_place"]),
    ("a node that the version does not have", "update step_ready set node = 55 where run_id = {ready}", &["unknown_place"]),
    (
        "a lane holds a node that the version does not have",
        "update lanes set nodes = '{55}'",
        &["lost_successor", "unknown_place"],
    ),
    (
        "nobody tells a lane that its run ended",
        "update workflow_runs set state = 5, finished_at = now() - interval '80 s' where run_id = {live};
         update lanes set claimed_at = array[now() - interval '80 s'];
         delete from step_ready where run_id = {live}; delete from step_delayed where run_id = {live}; delete from step_joins where run_id = {live}",
        &["unsettled_step"],
    ),
    (
        "there is no partition but for the past and the next hour",
        "do $$
         declare v_name text; v_now text := 'execution_step_attempts_' || to_char(now() at time zone 'UTC', 'YYYY_MM');
         begin
             for v_name in select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
                 where i.inhparent = 'execution_step_attempts'::regclass and c.relname > v_now loop
                 execute format('drop table %I', v_name);
             end loop;
             execute format('alter table execution_step_attempts detach partition %I', v_now);
             execute format('alter table execution_step_attempts attach partition %I for values from (%L) to (%L)', v_now,
                 run_id_at(date_trunc('month', now(), 'UTC')), run_id_at(now() + interval '1 h'));
         end $$",
        &["partitions"],
    ),
    (
        "a step failed more often than its policy allows",
        "update execution_step_attempts set attempt = 9 where run_id = {failed} and node = 3 and attempt = 3;
         {attempt} select run_id, 0, 3, n, lane_id, enqueued_at, claimed_at, finished_at, 0, 2, null, '{}'
         from execution_step_attempts, generate_series(3, 8) n where run_id = {failed} and node = 3 and attempt = 1",
        &["max_attempts"],
    ),
    (
        "a definition was altered",
        "alter table workflow_versions disable trigger all;
         update workflow_versions set definition = jsonb_set(definition, '{description}', '\"x\"') where version_id = 1",
        &["version_altered"],
    ),
    (
        "a definition cannot be read",
        "alter table workflow_versions disable trigger all; update workflow_versions set definition = '{}' where version_id = 1",
        &["version_altered"],
    ),
    (
        "a content hash was altered",
        "alter table workflow_versions disable trigger all; update workflow_versions set content_hash = 'x' where version_id = 1",
        &["version_altered"],
    ),
    ("a node's handler was altered", "update workflow_nodes set handler = 'other' where version_id = 1 and node = 1", &["version_altered"]),
    ("an edge was altered", "update workflow_edges set on_outcome = 'always' where version_id = 1 and edge = 1", &["version_altered"]),
    (
        "a run begins somewhere else",
        "alter table workflow_versions disable trigger all; update workflow_versions set first_node = 1 where version_id = 1",
        &["version_altered"],
    ),
    ("a function is gone", "drop function settle_begin", &["functions"]),
    (
        "a function has another text",
        "do $do$ begin execute replace(pg_get_functiondef('longshore.promote'::regproc), 'begin', 'begin -- other'); end $do$",
        &["functions"],
    ),
    (
        "step jobs and joins of an ended run are left",
        "update workflow_runs set state = 5, finished_at = now() where run_id = {live}",
        &["residue"],
    ),
    (
        "a run awaits settling",
        "insert into closed (run_id, shard) values ({chained}, 0)",
        &["unsettled"],
    ),
    ("a worker is silent", "update workers set heartbeat_at = now() - interval '31 s'", &["silent_workers"]),
    (
        "nobody serves a queue",
        "update step_ready set seq = seq - (61 * 1000000::bigint << 13) where run_id = {ready}",
        &["unserved_queues"],
    ),
    (
        "the only worker of a queue is silent",
        "update step_ready set seq = seq - (61 * 1000000::bigint << 13), queue_id = 1 where run_id = {ready};
         update workers set heartbeat_at = now() - interval '31 s'",
        &["silent_workers", "unserved_queues"],
    ),
    (
        "an index was not built to its end",
        "update pg_catalog.pg_index set indisvalid = false where indexrelid = 'longshore.step_ready_run'::regclass",
        &["invalid_indexes"],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_damage_is_found_by_the_check_for_it() {
    let lived = Lived::new().await;
    assert_silent(&lived.after("select").await);
    let mut wrong = Vec::new();
    let mut proven = BTreeSet::new();
    for (what, damage, expected) in DAMAGE {
        let report = lived.after(&damage.replace("{attempt}", ATTEMPT)).await;
        let found = fired(&report);
        if found != *expected {
            wrong.push(format!("{what}: expected {expected:?}, found {found:?}\n{report}"));
        }
        proven.extend(found);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    let report = lived.after("select").await;
    assert_silent(&report);
    let elsewhere = ["vacuum_behind", "old_snapshots"];
    let unproven: Vec<&str> = report
        .checks
        .iter()
        .map(|check| check.name)
        .filter(|name| !proven.contains(name) && !elsewhere.contains(name))
        .collect();
    assert_eq!(unproven, Vec::<&str>::new(), "each check is seen to find what it is there for");
    lived.fleet.database.drop().await;
}

/// One step that its worker holds for a while.
fn hold() -> Value {
    json!({"name": "hold", "nodes": [{"id": "hold", "type": "task", "handler": "sleep"}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_nothing_broken_at_any_moment_of_a_busy_fleet() {
    let early = dag("early", "a b c d j:2 k", "a>j b>j c>j d>j j>k");
    let mut fleet =
        TestFleet::publish([chain("chain", 6), fan("fan", 20), life("life", "10ms"), choice(), stop(), early, hold()])
            .await;
    for _ in 0..3 {
        fleet.add(fleet.worker().queue("default", Slots(40)).queue("warehouse", Slots(10))).await;
    }
    let mut connection = fleet.database.pool.acquire().await.unwrap();
    let mut runs = Vec::new();
    for round in 0..8 {
        for n in 0..4 {
            runs.push(fleet.start("chain", json!({"n": n})).await);
            runs.push(fleet.start("fan", json!({"n": n})).await);
            let fail = if n == 3 { 9 } else { n };
            runs.push(fleet.start("life", json!({"fail": fail, "wait": "30ms", "nap": 0.05})).await);
            runs.push(fleet.start("choice", json!({"gift": n % 2 == 0})).await);
            runs.push(fleet.start("early", json!({})).await);
            runs.push(fleet.start("stop", json!({})).await);
        }
        let canceled = runs[runs.len() - 20];
        fleet.enqueuer.cancel(canceled).await.unwrap();
        if round == 4 {
            let held = fleet.start("hold", json!({"seconds": 2.0})).await;
            fleet.crash_holder(held).await;
            runs.push(held);
        }
        let report = doctor::examine(&mut connection).await.unwrap();
        assert!(report.is_clean(), "in round {round}:\n{report}");
    }
    let live = "select count(*) from longshore.workflow_runs where state in (1, 2)";
    let until = Instant::now() + PATIENCE;
    while fleet.database.number(live).await > 0 {
        assert!(Instant::now() < until, "runs did not end");
        let report = doctor::examine(&mut connection).await.unwrap();
        assert!(report.is_clean(), "while the rest of the runs ends:\n{report}");
    }
    drop(connection);
    let lost = fleet.database.number("select count(*) from longshore.execution_step_attempts where outcome = 3").await;
    assert!(lost > 0, "the crash took something");
    fleet.until("select not exists (select from longshore.closed)").await;
    fleet.drain().await;
    fleet.database.execute("delete from longshore.workers; delete from longshore.worker_lanes").await; // of the worker that crashed
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_exits_with_1_when_a_promise_is_broken() {
    let fleet = TestFleet::publish([chain("chain", 2)]).await;
    let run = fleet.start("chain", json!({})).await;
    let mut connection = fleet.database.pool.acquire().await.unwrap();
    assert_eq!(doctor::stuck_runs(&mut connection).await.unwrap(), 0);
    let whole = doctor_command(&fleet, &["--strict"]);
    fleet.database.execute("delete from longshore.step_ready").await;
    assert_eq!(doctor::stuck_runs(&mut connection).await.unwrap(), 1);
    let report = doctor::examine(&mut connection).await.unwrap();
    let stuck = report.check("stuck_run").unwrap();
    assert!(stuck.is_broken() && stuck.promise == Some(8) && stuck.found == 1, "{report}");
    assert!(stuck.examples[0].contains(&run.to_string()), "{report}");
    if let Some((code, text)) = whole {
        assert_eq!(code, 0, "{text}");
        assert!(text.ends_with(" checks, 0 promises broken\n"), "{text}");
        let (code, text) = doctor_command(&fleet, &["--strict"]).unwrap();
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("BROKEN 1") && text.contains(&run.to_string()), "{text}");
        let (code, text) = doctor_command(&fleet, &["-o", "json"]).unwrap();
        assert_eq!(code, 0, "only --strict judges: {text}");
        let report: Value = serde_json::from_str(&text).unwrap();
        let broken = report["checks"].as_array().unwrap().iter().filter(|check| check["found"] != 0);
        assert_eq!(broken.map(|check| check["name"].as_str().unwrap()).collect::<Vec<_>>(), ["stuck_run"]);
    }
    drop(connection);
    fleet.database.drop().await;
}

/// The exit code and what `longshore doctor` prints; `None` where the program has not been built.
fn doctor_command(fleet: &TestFleet, arguments: &[&str]) -> Option<(i32, String)> {
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("longshore");
    if !program.exists() {
        eprintln!("skipped: {} has not been built", program.display());
        return None;
    }
    let output = Command::new(program)
        .arg("doctor")
        .args(arguments)
        .args(["--database-url", &fleet.database.url])
        .output()
        .unwrap();
    Some((output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_rows_that_vacuum_leaves_are_noted() {
    let database = TestDatabase::new().await;
    let mut connection = database.pool.acquire().await.unwrap();
    let aborted = "begin;
        alter table longshore.step_joins set (autovacuum_enabled = off);
        commit;
        begin;
        insert into longshore.step_joins (run_id, frame, node, resolved, taken, shard)
        select longshore.run_id_at(now()), 0, n, 1, 1, 0 from generate_series(1, 100001) n;
        rollback;
        select pg_stat_force_next_flush()";
    sqlx::raw_sql(aborted).execute(&mut *connection).await.unwrap();
    let report = doctor::examine(&mut connection).await.unwrap();
    let note = report.check("vacuum_behind").unwrap();
    assert_eq!((note.found, note.severity), (1, Severity::Note), "{report}");
    assert!(note.examples[0].starts_with("step_joins: 100001 dead rows"), "{report}");
    assert!(report.is_clean(), "a note breaks no promise");
    drop(connection);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_stays_open_is_noted() {
    let database = TestDatabase::new().await;
    let (mut holder, mut connection) = (database.pool.acquire().await.unwrap(), database.pool.acquire().await.unwrap());
    sqlx::raw_sql("begin isolation level repeatable read; select count(*) from longshore.queues")
        .execute(&mut *holder)
        .await
        .unwrap();
    let report = doctor::examine(&mut connection).await.unwrap();
    assert_eq!(report.check("old_snapshots").unwrap().found, 0, "not yet: {report}");
    // nobody can make a session older than it is; so the same statement with less patience
    let sql = include_str!("../../core/sql/doctor/old_snapshots.sql").replace("'5 min'", "'0 s'");
    let (found, examples): (i64, Vec<String>) = sqlx::query_as(&sql).fetch_one(&mut *connection).await.unwrap();
    assert!(found >= 1, "{examples:?}");
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut *holder).await.unwrap();
    assert!(examples.iter().any(|example| example.starts_with(&format!("session {pid} "))), "{examples:?}");
    drop((holder, connection));
    database.drop().await;
}
