//! The promises of DESIGN §1, one test each and named after it, proven by SQL that shares no code with the engine on a fleet of several workers
//! under a mixed load with failures. Promise 7 (cost does not grow with backlog, history or another session's snapshot) is measured by
//! `longshore bench` and by the plans in `plans.rs`; it has no test here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use longshore_core::{doctor, explain};
use longshore_enqueuer::{Canceled, Error, NewRun};
use longshore_tests::fleet::{Gate, TestHandlers, chain, task, with};
use longshore_tests::process::{WorkerOptions, WorkerProcess};
use longshore_tests::{TestFleet, checks};
use longshore_worker::{Failure, Slots, Step, WorkerBuilder};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use uuid::Uuid;

/// Runs of each workflow of the mixed load.
const EACH: usize = 12;

/// The workflows of the mixed load and how their runs must end.
const ENDS: [(&str, i16); 6] = [("steady", 3), ("order", 3), ("fan", 3), ("panics", 3), ("times_out", 4), ("fails", 4)];

fn mixed() -> Vec<Value> {
    let soon = json!({"max_attempts": 3, "initial": "5ms", "jitter": 0});
    let flaky = |id: &str, fail: Value| {
        with(task(id, "flaky"), json!({"input": {"fail": fail, "output": id, "name": "busy"}, "retry": soon}))
    };
    let declined = json!({"input": {"fail": 9, "permanent": true, "name": "declined"}});
    let mut fan: Vec<Value> = (0..12).map(|n| flaky(&format!("m{n}"), json!(n % 3))).collect();
    fan.extend(
        [
            task("start", "echo"),
            task("join", "echo"),
            with(task("first", "echo"), json!({"join": "any"})),
            with(task("three", "echo"), json!({"join": 3})),
            task("never", "echo"),
            task("nor this", "echo"),
        ]
        .map(|node| if node["id"] == "nor this" { with(node, json!({"id": "nor_this"})) } else { node }),
    );
    let mut edges: Vec<Value> =
        (0..12).flat_map(|n| ["join", "first", "three"].map(|to| json!([format!("m{n}"), to]))).collect();
    edges.extend((0..12).map(|n| json!(["start", format!("m{n}")])));
    edges.extend([json!({"from": "start", "to": "never", "when": "run.input.n < 0"}), json!(["never", "nor_this"])]);
    vec![
        json!({"name": "steady", "nodes": [flaky("a", json!(1)), task("b", "echo"), with(task("c", "sleep"), json!({"input": {"seconds": 0.01}})),
            {"id": "d", "type": "delay", "duration": "20ms"}, {"id": "e", "type": "set", "output": {"n": "{{ run.input.n }}"}}],
            "edges": [["a", "b"], ["b", "c"], ["c", "d"], ["d", "e"]]}),
        json!({"name": "order", "nodes": [task("take", "echo"), with(task("charge", "flaky"), declined.clone()), task("ship", "echo"), task("refund", "echo"),
            task("book", "echo")],
            "edges": [["take", "charge"], ["charge", "ship"], {"from": "charge", "to": "refund", "on": "failure"}, ["ship", "book"], ["refund", "book"]]}),
        json!({"name": "fan", "nodes": fan, "edges": edges}),
        json!({"name": "panics", "nodes": [with(task("a", "panic"), json!({"input": {"times": 1}, "retry": soon})), task("b", "echo")],
            "edges": [["a", "b"]]}),
        json!({"name": "times_out", "nodes": [task("a", "echo"), with(task("b", "sleep"), json!({"input": {"seconds": 60}, "timeout": "30ms",
            "retry": {"max_attempts": 2, "initial": "5ms"}})), task("c", "echo")], "edges": [["a", "b"], ["b", "c"]]}),
        json!({"name": "fails", "nodes": [task("a", "echo"), with(task("b", "flaky"), declined), task("c", "sleep"), task("d", "echo"),
            {"id": "later", "type": "delay", "duration": "1h"}],
            "edges": [["a", "b"], {"from": "a", "to": "c"}, ["b", "d"], ["c", "d"], ["a", "later"]]}),
    ]
}

/// A fleet of three workers, with the load of all workflows under way.
async fn loaded() -> TestFleet {
    let mut fleet = TestFleet::publish(mixed()).await;
    for _ in 0..3 {
        fleet.add(member(&fleet)).await;
    }
    load(&fleet).await;
    fleet
}

fn member(fleet: &TestFleet) -> WorkerBuilder {
    fleet.worker().lease(Duration::from_secs(2)).panics().queue("default", Slots(15))
}

async fn load(fleet: &TestFleet) {
    let runs: Vec<NewRun> = (0..EACH)
        .flat_map(|n| {
            ENDS.map(|(name, _)| NewRun::new(name, &json!({"n": n, "seconds": 0.05})).priority((n % 4) as i16))
        })
        .collect();
    fleet.enqueuer.start_many(&runs).await.unwrap();
}

async fn ends_rightly(fleet: &TestFleet) {
    fleet.all_ended().await;
    for (workflow, state) in ENDS {
        let sql = format!(
            "select count(*) from longshore.workflow_runs r join longshore.workflows w using (workflow_id) where w.name = '{workflow}' and r.state = {state}"
        );
        assert_eq!(fleet.database.number(&sql).await, EACH as i64, "{workflow}");
    }
}

/// Steps of a worker are held by nobody alive: as if it had lost its power.
async fn lose_a_worker(fleet: &mut TestFleet) {
    let doomed = member(fleet).name("doomed").start().await.unwrap();
    let held = format!("select exists (select from longshore.step_leases where worker_id = '{}')", doomed.id());
    load(fleet).await;
    fleet.until(&held).await;
    drop(doomed);
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_1_a_committed_run_is_never_lost() {
    let mut fleet = TestFleet::publish(mixed()).await;
    lose_a_worker(&mut fleet).await;
    for _ in 0..2 {
        fleet.add(member(&fleet)).await;
    }
    ends_rightly(&fleet).await;
    assert!(
        fleet.database.number("select count(*) from longshore.execution_step_attempts where outcome = 3").await > 0,
        "something was lost"
    );
    fleet.forget_killed().await;
    // a run that has not ended can say what it waits for
    let waiting = fleet.enqueuer.start("steady", &json!({})).run_at(Utc::now() + TimeDelta::hours(1)).await.unwrap().id;
    assert_eq!(says(&fleet, waiting).await["delayed"][0]["reason"], "run_at");
    fleet.finish().await;
}

/// The engine's explanation of a run, as data.
async fn says(fleet: &TestFleet, run: Uuid) -> Value {
    let mut connection = fleet.database.pool.acquire().await.unwrap();
    let explanation = explain::explain(&mut connection, run).await.unwrap().unwrap();
    assert!(!explanation.to_string().is_empty());
    serde_json::to_value(&explanation).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_2_one_attempt_is_accepted_and_its_successors_are_enqueued_in_the_same_transaction() {
    let mut fleet = TestFleet::publish(mixed()).await;
    // every row that makes a step ready or held is written down with its transaction, by Postgres itself
    fleet
        .database
        .execute(
            "create table public.seen (run_id uuid, node int, attempt int, transaction xid8, what text);
             create function public.see() returns trigger language plpgsql set search_path = public as $$
             begin
                 if tg_table_name = 'lanes' then
                     insert into seen select t.run_id, t.node, t.attempt, pg_current_xact_id(), 'held'
                     from unnest(new.run_ids, new.nodes, new.attempts) t (run_id, node, attempt);
                 elsif tg_table_name = 'step_ready' or tg_table_name = 'step_delayed' then
                     insert into seen values (new.run_id, new.node, new.attempt, pg_current_xact_id(), 'enqueued');
                 elsif new.outcome <> 5 then
                     insert into seen values (new.run_id, new.node, new.attempt, pg_current_xact_id(), 'ended');
                 end if;
                 return new;
             end $$;
             create trigger see after insert on longshore.step_ready for each row execute function public.see();
             create trigger see after insert on longshore.step_delayed for each row execute function public.see();
             create trigger see after insert on longshore.lanes for each row execute function public.see();
             create trigger see after insert on longshore.execution_step_attempts for each row execute function public.see()",
        )
        .await;
    for _ in 0..3 {
        fleet.add(member(&fleet)).await;
    }
    load(&fleet).await;
    ends_rightly(&fleet).await;
    let twice = "select count(*) from (select from longshore.execution_step_attempts where outcome = 1 group by run_id, frame, node having count(*) > 1) x";
    assert_eq!(fleet.database.number(twice).await, 0);
    // a step appears in the very transaction that ended one of its predecessors, a retry in the one that ended its attempt before
    let torn = "
        with came as (select run_id, node, attempt, array_agg(transaction) as transactions from public.seen where what <> 'ended' and node >= 0 group by 1, 2, 3)
        select coalesce(array_agg(format('%s of %s, attempt %s', n.id, c.run_id, c.attempt)), '{}') from came c
        join longshore.workflow_runs r on r.run_id = c.run_id
        join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = c.node
        where n.indegree > 0 and c.attempt > 0 and not exists (
            select from public.seen e
            where e.run_id = c.run_id and e.what = 'ended' and e.transaction = any (c.transactions)
              and (c.attempt > 1 and e.node = c.node and e.attempt = c.attempt - 1
                or c.attempt = 1 and e.node in (select p.from_node from longshore.workflow_edges p where p.version_id = r.version_id and p.to_node = c.node)))";
    let torn: Vec<String> = sqlx::query_scalar(torn).fetch_one(&fleet.database.pool).await.unwrap();
    assert_eq!(torn, [""; 0]);
    let ended = fleet.database.number("select count(*) from public.seen where what = 'ended'").await;
    assert!(ended > 500, "the trigger saw it all: {ended}");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_2_a_worker_that_lost_its_lease_changes_nothing() {
    let mut fleet =
        TestFleet::publish([json!({"name": "w", "nodes": [task("a", "gate"), task("b", "gate"), task("end", "echo")],
        "edges": [["a", "end"], ["b", "end"]]})])
        .await;
    let (first, second) = (Gate::default(), Gate::default());
    let handler = {
        let (first, second) = (first.clone(), second.clone());
        move |step: Step, input: Value| {
            let (first, second) = (first.clone(), second.clone());
            async move {
                if step.attempt() == 1 { first.pass_stubbornly(input).await } else { second.pass(step, input).await }
            }
        }
    };
    fleet.add(fleet.worker().handler("gate", handler.clone()).lease(Duration::from_secs(600))).await;
    let run = fleet.start("w", json!({"n": 1})).await;
    first.entered(2).await;
    fleet.add(fleet.worker().handler("gate", handler)).await;
    // again and again, since the lane may pass its baton at that moment
    while fleet.database.number("select count(*) from longshore.execution_step_attempts where outcome = 3").await < 2 {
        let expire = "update longshore.lanes set expires_at = now() - interval '1 s' where cardinality(run_ids) = 2";
        fleet.database.execute(expire).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    second.entered(2).await; // both run again, each alone in a lane
    first.open(2); // late results of the lane that lost its lease
    let accepted = "select exists (select from longshore.execution_step_attempts where outcome = 1 and node >= 0)";
    tokio::time::timeout(Duration::from_millis(300), fleet.until(accepted)).await.unwrap_err();
    second.open(2);
    assert_eq!(fleet.ended(run).await.0, "completed");
    for node in ["a", "b"] {
        assert_eq!(fleet.tries(run, node).await, ["lost", "completed"]);
    }
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_3_every_try_is_a_row_numbered_without_gaps() {
    let mut fleet = TestFleet::publish(mixed()).await;
    lose_a_worker(&mut fleet).await;
    for _ in 0..2 {
        fleet.add(member(&fleet)).await;
    }
    ends_rightly(&fleet).await;
    let gaps = "select count(*) from (select from longshore.execution_step_attempts where attempt > 0 group by run_id, frame, node
        having min(attempt) <> 1 or max(attempt) <> count(*)) x";
    assert_eq!(fleet.database.number(gaps).await, 0);
    let lost = "select count(*) from longshore.execution_step_attempts where outcome = 3 and claimed_at is not null and error ->> 'name' = 'lost'";
    assert!(fleet.database.number(lost).await > 0, "tries lost to a crash have rows too");
    let charged = "select count(*) from longshore.execution_step_attempts where outcome = 2 and node >= 0
        group by run_id, node having count(*) > 3";
    assert_eq!(
        fleet.database.number(&format!("select count(*) from ({charged}) x")).await,
        0,
        "only failures count toward max_attempts"
    );
    fleet.forget_killed().await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_4_a_join_fires_once_and_skipped_nodes_say_why() {
    let fleet = loaded().await;
    ends_rightly(&fleet).await;
    let joins = "select count(*) from (
            select a.run_id, n.id, count(*) from longshore.execution_step_attempts a
            join longshore.workflow_runs r on r.run_id = a.run_id and r.state = 3
            join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node
            where n.indegree > 1 and a.outcome = 1 group by 1, 2 having count(*) = 1) x";
    assert_eq!(
        fleet.database.number(joins).await,
        (EACH * 4) as i64,
        "book, join, first and three of each run, each once"
    );
    let twice = "select count(*) from (select from longshore.execution_step_attempts where outcome in (1, 5) group by run_id, node having count(*) > 1) x";
    assert_eq!(fleet.database.number(twice).await, 0);
    let reasons: Vec<(String, String, i64)> = sqlx::query_as(
        "select n.id, a.error ->> 'reason', count(*) from longshore.execution_step_attempts a
         join longshore.workflow_runs r on r.run_id = a.run_id
         join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node
         where a.outcome = 5 group by 1, 2 order by 1",
    )
    .fetch_all(&fleet.database.pool)
    .await
    .unwrap();
    let reason = |id: &str, why: &str| (id.to_owned(), why.to_owned(), EACH as i64);
    assert_eq!(
        reasons,
        [
            reason("never", "edge start -> never not taken: when `run.input.n < 0` is not true"),
            reason("nor_this", "edge never -> nor_this not taken: never was skipped"),
            reason("ship", "edge charge -> ship not taken: on success"),
        ]
    );
    assert_eq!(checks::broken(&fleet.database.pool).await, [""; 0]);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_5_a_start_is_atomic_with_the_callers_transaction_and_idempotent_under_a_key() {
    let fleet = loaded().await;
    let counts = "select (select count(*) from longshore.workflow_runs where key is not null)
        + (select count(*) from longshore.step_ready s join longshore.workflow_runs r on r.run_id = s.run_id where r.key is not null)";
    let mut tx = fleet.database.pool.begin().await.unwrap();
    fleet.enqueuer.start("steady", &json!({"n": 1})).key("k").in_transaction(&mut tx).await.unwrap();
    sqlx::query("select longshore.start_run('order', key => 'k')").execute(&mut *tx).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(fleet.database.number(counts).await, 0, "rolled back: nothing");
    // many at once, in transactions that end either way: one run
    let starts = (0..20).map(|n| {
        let fleet = &fleet;
        async move {
            let mut tx = fleet.database.pool.begin().await.unwrap();
            let started =
                fleet.enqueuer.start("steady", &json!({"n": 1})).key("k").in_transaction(&mut tx).await.unwrap();
            if n % 3 == 0 {
                tx.rollback().await.unwrap()
            } else {
                tx.commit().await.unwrap()
            }
            (n % 3 != 0).then_some(started)
        }
    });
    let started: Vec<_> = futures::future::join_all(starts).await.into_iter().flatten().collect();
    assert_eq!(started.iter().filter(|run| run.created).count(), 1);
    assert!(started.iter().all(|run| run.id == started[0].id));
    assert_eq!(fleet.database.number("select count(*) from longshore.workflow_runs where key = 'k'").await, 1);
    let conflict = fleet.enqueuer.start("steady", &json!({"n": 2})).key("k").await.unwrap_err();
    assert!(matches!(conflict, Error::KeyConflict { run_id, .. } if run_id == started[0].id), "{conflict:?}");
    assert_eq!(fleet.ended(started[0].id).await.0, "completed");
    fleet.all_ended().await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_6_a_killed_workers_steps_run_again_and_a_graceful_stop_charges_nothing() {
    let nap = json!({"input": {"seconds": "{{ run.input.seconds }}"}});
    let fleet = TestFleet::publish([json!({"name": "w", "nodes": [with(task("a", "sleep"), nap)], "edges": []})]).await;
    let options = WorkerOptions { queues: vec!["default=20".into()], ..WorkerOptions::default() };
    let killed = WorkerProcess::start(&fleet.database.url, &options).await;
    let runs: Vec<NewRun> = (0..20).map(|_| NewRun::new("w", &json!({"seconds": 0.4}))).collect();
    fleet.enqueuer.start_many(&runs).await.unwrap();
    fleet.until("select coalesce(sum(cardinality(run_ids)), 0) = 20 from longshore.lanes").await;
    killed.kill();
    let killed_at: DateTime<Utc> =
        sqlx::query_scalar("select clock_timestamp()").fetch_one(&fleet.database.pool).await.unwrap();
    let calm = WorkerOptions { grace: Duration::from_millis(100), lease: Duration::from_secs(10), ..options };
    let mut stopped = WorkerProcess::start(&fleet.database.url, &calm).await;
    fleet.all_ended().await;
    let again: bool = sqlx::query_scalar(
        "select count(*) = 20 and bool_and(attempt = 2 and outcome = 1) and max(claimed_at) - $1 < interval '15 s'
         from longshore.execution_step_attempts where outcome <> 3",
    )
    .bind(killed_at)
    .fetch_one(&fleet.database.pool)
    .await
    .unwrap();
    assert!(again, "each step ran again within 15 s, on its second attempt");
    // a graceful stop in the middle of a long step
    let long = fleet.start("w", json!({"seconds": 3600})).await;
    fleet.until("select exists (select from longshore.step_leases where attempt = 1)").await;
    stopped.signal(Signal::SIGTERM);
    assert!(stopped.ended().await.success());
    fleet.forget_killed().await;
    let leased = "select (select count(*) from longshore.lanes) + (select count(*) from longshore.worker_lanes) + (select count(*) from longshore.workers)";
    assert_eq!(fleet.database.number(leased).await, 0, "nothing is left leased");
    let uncharged = "select array[attempt, failed, lost] from longshore.step_ready where run_id = $1";
    assert_eq!(fleet.ask::<Vec<i32>>(uncharged, long).await, [2, 0, 0]);
    assert_eq!(fleet.tries(long, "a").await, ["released"]);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_8_one_query_explains_a_run_and_another_proves_that_none_is_stuck() {
    let mut fleet = TestFleet::publish([
        json!({"name": "waits", "nodes": [task("held", "gate"), {"id": "pause", "type": "delay", "duration": "1h"}, with(task("elsewhere", "echo"), json!({"queue": "remote"})),
            task("unheard", "telepathy"), with(task("again", "flaky"), json!({"input": {"fail": 9}, "retry": {"initial": "1h", "max": "1h"}})), task("end", "echo")],
            "edges": [["held", "end"], ["pause", "end"], ["elsewhere", "end"], ["unheard", "end"], ["again", "end"]]}),
        chain("plain", 3),
    ])
    .await;
    let gate = Gate::default();
    fleet.add(fleet.worker().gate(&gate).name("clerk").queue("default", Slots(10))).await;
    let run = fleet.start("waits", json!({})).await;
    gate.entered(1).await;
    fleet.until("select count(*) = 3 from longshore.step_delayed").await;
    let said = says(&fleet, run).await;
    assert_eq!((&said["state"], &said["stuck"]), (&json!("running"), &json!(false)), "{said:#}");
    let named = |part: &str, node: &str| {
        said[part]
            .as_array()
            .unwrap()
            .iter()
            .find(|step| step["node"] == node)
            .unwrap_or_else(|| panic!("{node} not in {said:#}"))
            .clone()
    };
    assert_eq!(named("held", "held")["worker"], "clerk");
    assert_eq!(
        (&named("ready", "elsewhere")["queue"], &named("ready", "elsewhere")["workers"]),
        (&json!("remote"), &json!(0))
    );
    assert_eq!(named("delayed", "pause")["reason"], "delay_node");
    assert_eq!(named("delayed", "unheard")["reason"], "put_back");
    assert_eq!(named("delayed", "again")["reason"], "backoff");
    fleet.enqueuer.cancel(run).await.unwrap();
    gate.told(1).await;
    fleet.until("select not exists (select from longshore.closed)").await;

    // the second query bites: a step job is taken away from a live run
    let stuck = fleet.enqueuer.start("plain", &json!({})).run_at(Utc::now() + TimeDelta::hours(1)).await.unwrap().id;
    let mut connection = fleet.database.pool.acquire().await.unwrap();
    assert!(doctor::examine(&mut connection).await.unwrap().is_clean());
    fleet
        .database
        .execute("create table kept as table longshore.step_delayed; delete from longshore.step_delayed")
        .await;
    let report = doctor::examine(&mut connection).await.unwrap();
    assert!(!report.is_clean());
    assert!(
        report
            .broken()
            .any(|check| check.name == "stuck_run" && check.examples.iter().any(|e| e.contains(&stuck.to_string()))),
        "{report}"
    );
    assert_eq!(says(&fleet, stuck).await["stuck"], true);
    assert!(checks::broken(&fleet.database.pool).await.iter().any(|broken| broken.contains(&stuck.to_string())));
    fleet.database.execute("insert into longshore.step_delayed table kept").await;
    drop(connection);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_9_a_published_version_never_changes_and_a_run_keeps_its_own() {
    let version = |output: &str| json!({"name": "w", "nodes": [task("a", "gate"), {"id": "b", "type": "set", "output": output}], "edges": [["a", "b"]]});
    let mut fleet = TestFleet::publish([version("first")]).await;
    let gate = Gate::default();
    fleet.add(fleet.worker().gate(&gate)).await;
    let old = fleet.start("w", json!({})).await;
    gate.entered(1).await;
    assert_eq!(fleet.apply(version("second")).await, 2);
    let new = fleet.start("w", json!({})).await;
    gate.entered(2).await;
    for change in [
        "update longshore.workflow_versions set definition = '{}'",
        "update longshore.workflow_versions set first_node = -1 where version = 1",
    ] {
        let refused = sqlx::raw_sql(change).execute(&fleet.database.pool).await.unwrap_err();
        assert_eq!(refused.as_database_error().unwrap().code().as_deref(), Some("LS009"), "{change}");
    }
    gate.open(2);
    assert_eq!(fleet.ended(old).await, ("completed".into(), json!("first")));
    assert_eq!(fleet.ended(new).await, ("completed".into(), json!("second")));
    let again = fleet.enqueuer.start("w", &()).version(1).await.unwrap().id;
    gate.open(1);
    assert_eq!(fleet.ended(again).await, ("completed".into(), json!("first")));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_10_leases_timers_and_records_carry_postgres_clock() {
    let retry = json!({"max_attempts": 2, "initial": "50ms", "jitter": 0});
    let mut fleet = TestFleet::publish([
        json!({"name": "w", "nodes": [with(task("a", "flaky"), json!({"input": {"fail": 1}, "retry": retry})),
        {"id": "d", "type": "delay", "duration": "70ms"}, task("b", "echo")], "edges": [["a", "d"], ["d", "b"]]}),
    ])
    .await;
    // what a row says against the clock of the transaction that writes it: equal to the microsecond, or it came from elsewhere
    fleet
        .database
        .execute(
            "create table public.clocks (what text, off interval);
             create function public.note() returns trigger language plpgsql set search_path = public as $$
             begin
                 case tg_table_name
                     when 'lanes' then insert into clocks values ('lease', new.expires_at - now() - interval '3 s');
                     when 'step_delayed' then insert into clocks values ('timer', new.due_at - now() - case new.node when 0 then interval '50 ms' else interval '70 ms' end);
                     when 'workers' then insert into clocks values ('heartbeat', new.heartbeat_at - now());
                     else insert into clocks values ('end', new.finished_at - now());
                         insert into clocks values ('claim', case when new.claimed_at > now() then new.claimed_at - now() else interval '0' end);
                 end case;
                 return new;
             end $$;
             create trigger note after insert on longshore.lanes for each row execute function public.note();
             create trigger note after insert on longshore.step_delayed for each row execute function public.note();
             create trigger note after insert or update on longshore.workers for each row execute function public.note();
             create trigger note after insert on longshore.execution_step_attempts for each row execute function public.note()",
        )
        .await;
    fleet.add(fleet.worker().lease(Duration::from_secs(3)).queue("default", Slots(10))).await;
    let runs: Vec<NewRun> = (0..20).map(|n| NewRun::new("w", &n)).collect();
    fleet.enqueuer.start_many(&runs).await.unwrap();
    fleet.all_ended().await;
    fleet.drain().await;
    let off: Vec<(String, i64, i64)> = sqlx::query_as(
        "select what, count(*), count(*) filter (where off <> interval '0') from public.clocks group by what order by what",
    )
    .fetch_all(&fleet.database.pool)
    .await
    .unwrap();
    assert_eq!(off.len(), 5, "{off:?}");
    assert!(off.iter().all(|(_, seen, wrong)| *seen > 0 && *wrong == 0), "what, seen, wrong: {off:?}");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_10_a_worker_whose_clock_is_wrong_works_like_any_other() {
    let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
    if !std::path::Path::new(library).exists() {
        eprintln!("skipped: libfaketime is not installed");
        return;
    }
    let fleet = TestFleet::publish(mixed()).await;
    let url = &fleet.database.url;
    let options = WorkerOptions { lease: Duration::from_secs(5), ..WorkerOptions::default() };
    let days = [("LD_PRELOAD", library), ("FAKETIME", "+3d"), ("DONT_FAKE_MONOTONIC", "1")];
    let (wrong, right) = (WorkerProcess::spawn_with(url, &options, &days), WorkerProcess::start(url, &options).await);
    wrong.address().await;
    let run = fleet.start("steady", json!({"n": 1})).await;
    assert_eq!(fleet.ended(run).await.0, "completed");
    assert_eq!(
        fleet.database.number("select count(*) from longshore.execution_step_attempts where outcome = 3").await,
        0
    );
    let ahead = "select count(*) from longshore.execution_step_attempts where finished_at > clock_timestamp() or claimed_at > clock_timestamp()";
    assert_eq!(fleet.database.number(ahead).await, 0);
    wrong.stop().await;
    right.stop().await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_11_after_a_cancel_is_acknowledged_no_step_of_the_run_starts() {
    let mut fleet = TestFleet::publish([chain("w", 400), {
        let mut fan = longshore_tests::fleet::fan("fan", 100);
        fan["name"] = json!("fan");
        fan
    }])
    .await;
    // when each run's last handler began, by this process's own clock
    let began: Arc<Mutex<HashMap<Uuid, Instant>>> = Arc::default();
    for _ in 0..3 {
        let began = began.clone();
        let echo = move |step: Step, input: Value| {
            began.lock().unwrap().insert(step.run_id(), Instant::now());
            async move { Ok::<_, Failure>(input) }
        };
        fleet.add(fleet.worker().handler("echo", echo).queue("default", Slots(10))).await;
    }
    fleet.database.execute("create table acknowledged (run_id uuid, at timestamptz)").await;
    let mut late = Vec::new();
    for round in 0..40 {
        let workflow = if round % 2 == 0 { "w" } else { "fan" };
        let run = fleet.start(workflow, json!({"n": round})).await;
        tokio::time::sleep(Duration::from_millis(round * 3)).await;
        let canceled = fleet.enqueuer.cancel(run).await.unwrap();
        let acknowledged = Instant::now();
        if canceled != Canceled::Canceled {
            continue;
        }
        sqlx::query("insert into acknowledged values ($1, clock_timestamp())")
            .bind(run)
            .execute(&fleet.database.pool)
            .await
            .unwrap();
        late.push((run, acknowledged));
    }
    assert!(late.len() > 10, "most runs were still under way");
    fleet.all_ended().await;
    fleet.until("select not exists (select from longshore.closed)").await;
    let started = "select count(*) from longshore.execution_step_attempts a join acknowledged k on k.run_id = a.run_id
        where a.claimed_at > k.at and a.duration_ms is not null";
    assert_eq!(fleet.database.number(started).await, 0);
    let began = began.lock().unwrap().clone();
    // what a cycle under way at that instant had kept may still begin; the next cycle is refused
    let latest =
        late.iter().filter_map(|(run, acknowledged)| began.get(run)?.checked_duration_since(*acknowledged)).max();
    assert!(
        latest.is_none_or(|latest| latest < Duration::from_secs(5)),
        "a handler began {latest:?} after the cancel was acknowledged"
    );
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_11_running_handlers_are_told_however_busy_their_lane_is() {
    let mut fleet =
        TestFleet::publish([json!({"name": "slow", "nodes": [task("a", "gate")], "edges": []}), chain("busy", 2000)])
            .await;
    let gate = Gate::default();
    fleet.add(fleet.worker().gate(&gate).queue("default", Slots(4))).await;
    let slow = fleet.start("slow", json!({})).await;
    gate.entered(1).await;
    let busy: Vec<Uuid> = {
        let runs = [NewRun::new("busy", &1), NewRun::new("busy", &2), NewRun::new("busy", &3)];
        fleet.enqueuer.start_many(&runs).await.unwrap().iter().map(|run| run.id).collect()
    };
    fleet.until("select count(*) > 30 from longshore.execution_step_attempts").await;
    fleet.enqueuer.cancel(slow).await.unwrap();
    gate.told(1).await;
    let state: i16 = fleet.ask("select state from longshore.workflow_runs where run_id = $1", busy[0]).await;
    assert_eq!(state, 1, "told while the lane is still busy");
    for run in busy {
        fleet.enqueuer.cancel(run).await.unwrap();
    }
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checks_of_every_fleet_bite() {
    let mut fleet = TestFleet::publish([longshore_tests::fleet::fan("w", 3)]).await;
    fleet.work(10).await;
    let (run, _) = fleet.complete("w", json!({"n": 1})).await;
    fleet.drain().await;
    let attempts = "longshore.execution_step_attempts";
    let damages = [
        ("2: one attempt", format!("insert into {attempts} select run_id, frame, node, 2, duration_ms, lane_id, enqueued_at, claimed_at, finished_at, shard, outcome,
            output, error from {attempts} where node = 1")),
        ("3: attempts are numbered", format!("update {attempts} set attempt = 2 where node = 1")),
        ("4: a skipped node", format!("update {attempts} set attempt = 0, outcome = 5, output = null, error = '{{}}' where node = 1")),
        ("4: no step began", format!("update {attempts} set claimed_at = claimed_at - interval '1 s' where node = 4")),
        ("4: a join began", format!("update {attempts} set outcome = 2, output = null, error = '{{}}' where node in (1, 2, 3)")),
        ("4: a completed run", format!("delete from {attempts} where node = 2")),
        ("1: a live run", "update longshore.workflow_runs set state = 1, finished_at = null, output = null".to_owned()),
        ("1: nothing is left", "insert into longshore.step_ready (run_id, version_id, queue_id, node, attempt, shard, priority, kind)
            select run_id, version_id, 1, 0, 2, 0, 1, 0 from longshore.workflow_runs".to_owned()),
    ];
    for (check, damage) in damages {
        let mut tx = fleet.database.pool.begin().await.unwrap();
        sqlx::raw_sql(&damage).execute(&mut *tx).await.unwrap();
        let broken = checks::broken_in(&mut tx).await;
        assert!(
            broken.iter().any(|broken| broken.contains(check) && broken.contains(&run.to_string())),
            "{check}: {broken:#?}"
        );
        tx.rollback().await.unwrap();
    }
    assert_eq!(checks::broken(&fleet.database.pool).await, [""; 0]);
    fleet.finish().await;
}
