//! What an application links: starts alone, in its own transaction and in bulk, waits, cancels; each refusal is its own error and writes
//! nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use longshore_enqueuer::{Canceled, Enqueuer, Error, NewRun, RunState};
use longshore_tests::TestFleet;
use longshore_tests::fleet::{Gate, TestHandlers, chain, task};
use longshore_worker::Slots;
use serde_json::{Value, json};
use uuid::Uuid;

async fn rows(fleet: &TestFleet) -> i64 {
    let sql = "select (select count(*) from longshore.workflow_runs) + (select count(*) from longshore.step_ready) + (select count(*) from longshore.step_delayed)";
    fleet.database.number(sql).await
}

/// A gate workflow `w` on one worker.
async fn gated() -> (TestFleet, Gate) {
    let mut fleet = TestFleet::publish([json!({"name": "w", "nodes": [task("a", "gate")], "edges": []})]).await;
    let gate = Gate::default();
    fleet.add(fleet.worker().gate(&gate).queue("default", Slots(5))).await;
    (fleet, gate)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_started_read_and_awaited() {
    let (fleet, gate) = gated().await;
    let started = fleet.enqueuer.start("w", &json!({"order": 7})).key("order-7").priority(2).await.unwrap();
    assert!(started.created);
    gate.entered(1).await;
    let run = fleet.enqueuer.get(started.id).await.unwrap().unwrap();
    assert_eq!((run.workflow.as_str(), run.version, run.state), ("w", 1, RunState::Running));
    assert_eq!((run.key.as_deref(), run.priority, run.finished_at), (Some("order-7"), 2, None));
    let unread = run.output::<Value>().unwrap_err();
    assert!(matches!(unread, Error::NotCompleted { state: RunState::Running, .. }), "{unread}");
    gate.open(1);
    let ended = fleet.enqueuer.wait(started.id).await.unwrap();
    assert_eq!((ended.state, ended.output::<Value>().unwrap()), (RunState::Completed, json!({"order": 7})));
    assert!(ended.finished_at.unwrap() >= ended.created_at);
    let wrong = ended.output::<Vec<u8>>().unwrap_err();
    assert!(matches!(wrong, Error::OutputUnreadable(_)), "{wrong}");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_no_worker_has_taken_reads_as_queued() {
    let fleet = TestFleet::publish([chain("w", 1)]).await;
    let run = fleet.start("w", json!({})).await;
    assert_eq!(fleet.enqueuer.get(run).await.unwrap().unwrap().state, RunState::Queued);
    let later = fleet.enqueuer.start("w", &()).run_at(Utc::now() + TimeDelta::hours(1)).await.unwrap().id;
    let later = fleet.enqueuer.get(later).await.unwrap().unwrap();
    assert_eq!((later.state, later.input.as_str()), (RunState::Queued, "null"));
    assert!(later.run_at.is_some());
    assert!(fleet.enqueuer.get(Uuid::now_v7()).await.unwrap().is_none());
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_has_an_end_of_its_own() {
    let fleet = TestFleet::publish([chain("w", 1)]).await;
    let run = fleet.start("w", json!({})).await;
    let late = fleet.enqueuer.wait(run).timeout(Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(late, Error::TimedOut { run_id } if run_id == run), "{late}");
    let missing = fleet.enqueuer.wait(Uuid::now_v7()).await.unwrap_err();
    assert!(matches!(missing, Error::NotFound { .. }), "{missing}");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_run_says_why() {
    let mut fleet = TestFleet::publish([
        json!({"name": "w", "nodes": [{"id": "f", "type": "fail", "name": "no_stock", "message": "sold out"}],
        "edges": []}),
    ])
    .await;
    fleet.work(1).await;
    let run = fleet.start("w", json!({})).await;
    let ended = fleet.enqueuer.wait(run).await.unwrap();
    assert_eq!((ended.state, ended.error.as_ref().unwrap().name.as_str()), (RunState::Failed, "no_stock"));
    let unread = ended.output::<Value>().unwrap_err().to_string();
    assert!(unread.contains("no_stock: sold out"), "{unread}");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_its_own_error_and_writes_nothing() {
    let schema = json!({"type": "object", "properties": {"order": {"type": "integer"}}});
    let fleet = TestFleet::publish([
        chain("w", 1),
        json!({"name": "strict", "input_schema": schema, "nodes": [task("a", "echo")], "edges": []}),
    ])
    .await;
    let enqueuer = &fleet.enqueuer;
    let run = enqueuer.start("w", &json!({"n": 1})).key("taken").await.unwrap().id;
    let before = rows(&fleet).await;
    let large = "x".repeat(1_048_576);
    let plain = |workflow: &str| NewRun::new(workflow, &json!({"n": 1}));
    type Expect = fn(&Error) -> bool;
    let refusals: Vec<(NewRun, Expect)> = vec![
        (plain("unheard"), |e| matches!(e, Error::UnknownWorkflow { workflow } if workflow == "unheard")),
        (plain("no\0name"), |e| matches!(e, Error::UnknownWorkflow { .. })),
        (plain("w").version(2), |e| matches!(e, Error::UnknownVersion { version: 2, .. })),
        (NewRun::new("w", &large), |e| matches!(e, Error::PayloadTooLarge { bytes: 1_048_578, limit: 1_048_576 })),
        (NewRun::new("w", "nul \0"), |e| matches!(e, Error::PayloadInvalid(_))),
        (NewRun::new("w", &std::collections::HashMap::from([((1, 2), 3)])), |e| matches!(e, Error::PayloadInvalid(_))),
        (
            NewRun::new("strict", &json!({"order": "seven"})),
            |e| matches!(e, Error::InputInvalid { problems, .. } if problems.contains("input/order")),
        ),
        (plain("w").key("taken").priority(4), |e| matches!(e, Error::InvalidPriority { priority: 4 })),
        (plain("w").priority(-1), |e| matches!(e, Error::InvalidPriority { priority: -1 })),
        (plain("w").key(""), |e| matches!(e, Error::InvalidKey { length: 0 })),
        (plain("w").key("k".repeat(513)), |e| matches!(e, Error::InvalidKey { length: 513 })),
        (plain("w").key("a\0b"), |e| matches!(e, Error::InvalidKey { .. })),
        (
            NewRun::new("w", &json!({"n": 2})).key("taken"),
            |e| matches!(e, Error::KeyConflict { key, .. } if key == "taken"),
        ),
    ];
    for (wrong, expected) in refusals {
        // beside one that is fine: all or none
        let runs = [plain("w"), wrong];
        let error = enqueuer.start_many(&runs).await.unwrap_err();
        assert!(expected(&error), "{error:?}");
        assert_eq!(rows(&fleet).await, before, "{error}: nothing is written");
    }
    let conflict = enqueuer.start("w", &json!({"n": 2})).key("taken").await.unwrap_err();
    assert!(matches!(conflict, Error::KeyConflict { run_id, .. } if run_id == run), "{conflict:?}");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_with_an_equal_input_is_the_same_run() {
    let fleet = TestFleet::publish([chain("w", 1), chain("v", 1)]).await;
    let first = fleet.enqueuer.start("w", &json!({"a": 1, "b": 2.0})).key("k").await.unwrap();
    let again = fleet.enqueuer.start("w", &json!({"b": 2, "a": 1})).key("k").await.unwrap();
    assert_eq!((again.id, first.created, again.created), (first.id, true, false));
    let other = fleet.enqueuer.start("v", &json!({"a": 1, "b": 2})).key("k").await.unwrap();
    assert!(other.created, "a key belongs to its workflow");
    let runs = [NewRun::new("w", &json!(1)).key("twice"), NewRun::new("w", &json!(1)).key("twice")];
    let twice = fleet.enqueuer.start_many(&runs).await.unwrap();
    assert_eq!(twice[0].id, twice[1].id);
    assert_eq!(fleet.database.number("select count(*) from longshore.step_ready").await, 3);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_runs_start_in_order_and_complete() {
    let mut fleet = TestFleet::publish([
        chain("w", 1),
        json!({"name": "v", "nodes": [{"id": "s", "type": "set", "output": "{{ run.input }}"}], "edges": []}),
    ])
    .await;
    let runs: Vec<NewRun> =
        (0..2500).map(|n| NewRun::new(if n % 5 == 0 { "v" } else { "w" }, &n).key(format!("key-{n}"))).collect();
    let started = fleet.enqueuer.start_many(&runs).await.unwrap();
    assert!(started.iter().all(|run| run.created));
    assert_eq!(started.iter().map(|run| run.id).collect::<BTreeSet<_>>().len(), 2500);
    let ids: Vec<Uuid> = started.iter().map(|run| run.id).collect();
    let inputs: Vec<i64> = sqlx::query_scalar(
        "select r.input::bigint from unnest($1::uuid[]) with ordinality t (id, n) join longshore.workflow_runs r on r.run_id = t.id order by t.n",
    )
    .bind(&ids)
    .fetch_all(&fleet.database.pool)
    .await
    .unwrap();
    assert_eq!(inputs, (0..2500).collect::<Vec<_>>(), "one answer for each, in order");
    fleet.work(200).await;
    fleet.all_ended().await;
    assert_eq!(
        fleet.database.number("select count(*) from longshore.workflow_runs where state = 3 and output = input").await,
        2500
    );
    let again = fleet.enqueuer.start_many(&runs).await.unwrap();
    assert!(again.iter().zip(&started).all(|(again, first)| again.id == first.id && !again.created));
    assert_eq!(fleet.enqueuer.start_many(&[]).await.unwrap(), []);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_bulk_start_of_thousands_leaves_nothing() {
    let fleet = TestFleet::publish([chain("w", 1)]).await;
    fleet.enqueuer.start("w", &json!("other")).key("key-2400").await.unwrap();
    let runs: Vec<NewRun> = (0..2500).map(|n| NewRun::new("w", &n).key(format!("key-{n}"))).collect();
    let refused = fleet.enqueuer.start_many(&runs).await.unwrap_err();
    assert!(matches!(refused, Error::KeyConflict { .. }), "found in the third statement: {refused}");
    assert_eq!(rows(&fleet).await, 2);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_connections_that_were_all_lost_still_starts() {
    let fleet = TestFleet::publish([chain("w", 1)]).await;
    let enqueuer = Enqueuer::connect(&fleet.database.url).await.unwrap();
    let lose_all = async |round: &str| {
        // as many at once as it takes for the pool to be full
        let starts = (0..64).map(|n| enqueuer.start("w", &()).key(format!("{round} {n}")).into_future());
        assert!(futures::future::join_all(starts).await.iter().all(Result::is_ok));
        let sql = "select count(pg_terminate_backend(pid, 10000)) from pg_stat_activity
            where datname = current_database() and application_name = 'longshore'";
        assert!(fleet.database.number(sql).await > 5, "more than one call would meet by chance");
    };
    // with a key, whatever the connections are
    lose_all("first").await;
    enqueuer.start("w", &()).key("at once").await.unwrap();
    // without, what had been at rest is known to be lost before anything is sent
    lose_all("second").await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    enqueuer.start("w", &()).await.unwrap();
    assert_eq!(fleet.database.number("select count(*) from longshore.workflow_runs").await, 64 + 1 + 64 + 1);
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_belongs_to_the_callers_transaction() {
    let mut fleet = TestFleet::publish([chain("w", 1)]).await;
    fleet.work(5).await;
    fleet.database.execute("create table orders (id int primary key)").await;
    let order = |id: i32| format!("insert into orders values ({id})");

    let mut tx = fleet.database.pool.begin().await.unwrap();
    sqlx::query(&order(1)).execute(&mut *tx).await.unwrap();
    let gone = fleet.enqueuer.start("w", &1).key("one").in_transaction(&mut tx).await.unwrap();
    tx.rollback().await.unwrap();
    assert!(fleet.enqueuer.get(gone.id).await.unwrap().is_none());

    let mut tx = fleet.database.pool.begin().await.unwrap();
    sqlx::query(&order(1)).execute(&mut *tx).await.unwrap();
    let refused = fleet.enqueuer.start("w", &1).priority(9).in_transaction(&mut tx).await.unwrap_err();
    assert!(matches!(refused, Error::InvalidPriority { .. }));
    let run = fleet.enqueuer.start("w", &1).key("one").in_transaction(&mut tx).await.unwrap();
    let many: Vec<NewRun> = (0..1500).map(|n| NewRun::new("w", &n)).collect();
    let bulk = fleet.enqueuer.start_many(&many).in_transaction(&mut tx).await.unwrap();
    assert!(fleet.enqueuer.get(run.id).await.unwrap().is_none(), "not before the commit");
    tx.commit().await.unwrap();
    assert!(run.created && run.id != gone.id);
    assert_eq!(fleet.enqueuer.wait(run.id).await.unwrap().state, RunState::Completed);
    assert_eq!(fleet.enqueuer.wait(bulk[1499].id).await.unwrap().output::<i32>().unwrap(), 1499);
    assert_eq!(fleet.database.number("select count(*) from orders").await, 1);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancels_say_what_became_of_the_run() {
    let (fleet, gate) = gated().await;
    let run = fleet.start("w", json!({})).await;
    gate.entered(1).await;
    assert_eq!(fleet.enqueuer.cancel(run).reason("the customer left").await.unwrap(), Canceled::Canceled);
    let ended = fleet.enqueuer.wait(run).await.unwrap();
    let error = ended.error.unwrap();
    assert_eq!(
        (ended.state, error.name.as_str(), error.message.as_str()),
        (RunState::Canceled, "canceled", "the customer left")
    );
    gate.told(1).await;
    assert_eq!(fleet.enqueuer.cancel(run).await.unwrap(), Canceled::AlreadyEnded(RunState::Canceled));
    let done = fleet.start("w", json!({})).await;
    gate.open(1);
    fleet.enqueuer.wait(done).await.unwrap();
    assert_eq!(fleet.enqueuer.cancel(done).await.unwrap(), Canceled::AlreadyEnded(RunState::Completed));
    assert_eq!(fleet.enqueuer.cancel(Uuid::now_v7()).await.unwrap(), Canceled::NotFound);
    let delayed = fleet.enqueuer.start("w", &()).run_at(Utc::now() + TimeDelta::hours(1)).await.unwrap().id;
    assert_eq!(fleet.enqueuer.cancel(delayed).await.unwrap(), Canceled::Canceled);
    fleet.until("select not exists (select from longshore.closed)").await;
    assert_eq!(fleet.tries(run, "a").await, ["canceled"]);
    assert_eq!(fleet.tries(delayed, "a").await, ["canceled"]);
    assert_eq!(rows(&fleet).await, 3, "no step job is left");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_published_a_moment_ago_is_started_at_the_latest_after_five_seconds_and_at_once_by_number() {
    let mut fleet = TestFleet::publish([chain("w", 1)]).await;
    fleet.work(5).await;
    fleet.start("w", json!(0)).await;
    let version =
        fleet.apply(json!({"name": "w", "nodes": [{"id": "s", "type": "set", "output": "second"}], "edges": []})).await;
    let run = fleet.enqueuer.start("w", &0).version(version).await.unwrap().id;
    assert_eq!(fleet.ended(run).await, ("completed".into(), json!("second")));
    // what the enqueuer remembers is for checks only: Postgres decides which version is the latest
    let run = fleet.start("w", json!(0)).await;
    assert_eq!(fleet.ended(run).await, ("completed".into(), json!("second")));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_the_schema_is_a_clear_error() {
    let database = longshore_tests::TestDatabase::empty().await;
    let missing = Enqueuer::connect(&database.url).await.unwrap_err().to_string();
    assert!(missing.contains("longshore migrate up"), "{missing}");
    let unchecked = Enqueuer::new(database.pool.clone());
    let missing = unchecked.start("w", &()).await.unwrap_err();
    assert!(matches!(missing, Error::SchemaMissing), "{missing:?}");
    let missing = unchecked.cancel(Uuid::now_v7()).await.unwrap_err();
    assert!(matches!(missing, Error::SchemaMissing), "{missing:?}");
    database.drop().await;
}
