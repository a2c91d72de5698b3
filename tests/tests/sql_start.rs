//! Runs started from any language: the SQL function `longshore.start_run`, its defaults and its errors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::Duration;

use longshore_tests::TestFleet;
use longshore_tests::fleet::chain;
use serde_json::{Value, json};
use sqlx::postgres::{PgDatabaseError, PgListener};
use uuid::Uuid;

async fn start(fleet: &TestFleet, call: &str) -> Result<Uuid, sqlx::Error> {
    sqlx::query_scalar(&format!("select longshore.start_run({call})")).fetch_one(&fleet.database.pool).await
}

/// The SQLSTATE and the detail of a call that is refused; nothing may be written.
async fn refused(fleet: &TestFleet, call: &str) -> (String, Value) {
    let before = rows(fleet).await;
    let error = start(fleet, call).await.expect_err(call);
    assert_eq!(rows(fleet).await, before, "{call}: nothing is written");
    let error = error.as_database_error().unwrap().downcast_ref::<PgDatabaseError>();
    let detail = error.detail().map(|detail| serde_json::from_str(detail).unwrap()).unwrap_or_default();
    (error.code().to_owned(), detail)
}

async fn rows(fleet: &TestFleet) -> i64 {
    let sql = "select (select count(*) from longshore.workflow_runs) + (select count(*) from longshore.step_ready) + (select count(*) from longshore.step_delayed)";
    fleet.database.number(sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn start_run_takes_named_arguments_and_defaults() {
    let mut fleet = TestFleet::publish([chain("w", 2)]).await;
    let second =
        fleet.apply(json!({"name": "w", "nodes": [{"id": "s", "type": "set", "output": 2}], "edges": []})).await;
    assert_eq!(second, 2);
    let plain = start(&fleet, "'w'").await.unwrap();
    let row = "select jsonb_strip_nulls(to_jsonb(r) - 'run_id' - 'created_at' - 'workflow_id') from longshore.workflow_runs r where run_id = $1";
    let plain_row: Value = fleet.ask(row, plain).await;
    // and nothing else is known of it: no key, no time, no output, no run that started it
    assert_eq!(plain_row, json!({"version_id": 2, "shard": 0, "state": 1, "priority": 1, "input": {}, "retries": 0}));
    let full = start(
        &fleet,
        "workflow => 'w', input => '{\"order\": 7}', key => 'order-7', run_at => now() + interval '1 h', priority => 3::smallint, version => 1, notify => true",
    )
    .await
    .unwrap();
    let full_row: Value = fleet.ask(row, full).await;
    assert_eq!(
        (&full_row["version_id"], &full_row["priority"], &full_row["input"], &full_row["key"]),
        (&json!(1), &json!(3), &json!({"order": 7}), &json!("order-7"))
    );
    let due = "select due_at = run_at from longshore.step_delayed join longshore.workflow_runs using (run_id) where run_id = $1";
    assert!(fleet.ask::<bool>(due, full).await);
    fleet.database.execute("update longshore.step_delayed set due_at = now()").await;
    fleet.work(5).await;
    assert_eq!(fleet.ended(plain).await, ("completed".into(), json!(2)));
    assert_eq!(fleet.ended(full).await, ("completed".into(), json!({"order": 7})));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn run_ids_are_version_7_uuids_of_the_databases_clock() {
    let fleet = TestFleet::publish([chain("w", 1)]).await;
    let before: f64 = sqlx::query_scalar("select extract(epoch from clock_timestamp())::float8")
        .fetch_one(&fleet.database.pool)
        .await
        .unwrap();
    let runs = [start(&fleet, "'w'").await.unwrap(), start(&fleet, "'w'").await.unwrap()];
    assert_ne!(runs[0], runs[1]);
    for run in runs {
        assert_eq!((run.get_version_num(), run.get_variant()), (7, uuid::Variant::RFC4122));
        let (seconds, nanos) = run.get_timestamp().unwrap().to_unix();
        let at = seconds as f64 + f64::from(nanos) / 1e9;
        assert!(at > before - 0.01 && at < before + 10.0, "{at} for {before}");
    }
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_its_sqlstate_and_writes_nothing() {
    let fleet = TestFleet::publish([chain("w", 1)]).await;
    assert_eq!(refused(&fleet, "'unheard'").await, ("LS001".into(), json!({"workflow": "unheard"})));
    assert_eq!(refused(&fleet, "'w', version => 9").await, ("LS002".into(), json!({"workflow": "w", "version": 9})));
    let (code, detail) = refused(&fleet, "'w', to_jsonb(repeat('x', 1048576))").await;
    assert_eq!((code.as_str(), detail), ("LS003", json!({"bytes": 1_048_578, "limit": 1_048_576})));
    assert_eq!(refused(&fleet, "'w', priority => 4::smallint").await, ("LS004".into(), json!({"priority": 4})));
    assert_eq!(refused(&fleet, "'w', priority => -1::smallint").await.0, "LS004");
    let run = start(&fleet, "'w', '{\"a\": 1}', key => 'k'").await.unwrap();
    assert_eq!(
        refused(&fleet, "'w', '{\"a\": 2}', key => 'k'").await,
        ("LS005".into(), json!({"run_id": run, "key": "k"}))
    );
    assert_eq!(refused(&fleet, "'w', key => ''").await, ("LS006".into(), json!({"length": 0})));
    assert_eq!(refused(&fleet, "'w', key => repeat('k', 513)").await, ("LS006".into(), json!({"length": 513})));
    assert_eq!(refused(&fleet, "'w', run_at => 'infinity'").await.0, "22008");
    assert_eq!(refused(&fleet, "'w', run_at => '10000-01-01 00:00:00+00'").await.0, "22008");
    assert_eq!(
        start(&fleet, "'w', '{\"a\":   1.0}', key => 'k'").await.unwrap(),
        run,
        "equal as jsonb is the same run"
    );
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_payload_limit_is_a_setting() {
    let fleet = TestFleet::publish([chain("w", 1)]).await;
    let mut tx = fleet.database.pool.begin().await.unwrap();
    sqlx::query("set local longshore.max_payload_bytes = 10").execute(&mut *tx).await.unwrap();
    let refused =
        sqlx::query("select longshore.start_run('w', '{\"a\": \"0123456789\"}')").execute(&mut *tx).await.unwrap_err();
    assert_eq!(refused.as_database_error().unwrap().code().as_deref(), Some("LS003"));
    tx.rollback().await.unwrap();
    start(&fleet, "'w', '{\"a\": \"0123456789\"}'").await.unwrap();
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_notifies_is_heard_at_commit_and_a_plain_one_is_not() {
    let fleet = TestFleet::publish([
        json!({"name": "w", "queue": "orders", "nodes": [{"id": "s", "type": "set", "output": 1}], "edges": []}),
    ])
    .await;
    let mut listener = PgListener::connect(&fleet.database.url).await.unwrap();
    listener.listen("longshore").await.unwrap();
    start(&fleet, "'w'").await.unwrap();
    start(&fleet, "'w', key => 'k', notify => true").await.unwrap();
    start(&fleet, "'w', key => 'k', notify => true").await.unwrap();
    sqlx::query("select pg_notify('longshore', 'the end')").execute(&fleet.database.pool).await.unwrap();
    let mut heard = Vec::new();
    while heard.last().is_none_or(|last| last != "the end") {
        let hint = tokio::time::timeout(Duration::from_secs(20), listener.recv()).await.unwrap().unwrap();
        heard.push(hint.payload().to_owned());
    }
    assert_eq!(heard, ["orders", "the end"], "one for the run that was created");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_may_name_the_same_key_from_many_sessions_at_once() {
    let fleet = TestFleet::publish([chain("w", 1)]).await;
    let starts = (0..8).map(|_| start(&fleet, "'w', '{\"a\": 1}', key => 'once'"));
    let runs = futures::future::join_all(starts).await;
    let first = runs[0].as_ref().unwrap();
    assert!(runs.iter().all(|run| run.as_ref().unwrap() == first));
    assert_eq!(rows(&fleet).await, 2, "one run, one step job");
    fleet.finish().await;
}
