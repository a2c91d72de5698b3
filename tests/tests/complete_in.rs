//! A handler's own transaction can end its step: both are committed, or neither.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use longshore_tests::TestFleet;
use longshore_worker::{Failure, Slots, Step};
use serde_json::{Value, json};
use sqlx::PgPool;

fn definition(handler: &str) -> Value {
    json!({"name": "book", "nodes": [
        {"id": "book", "type": "task", "handler": handler, "retry": {"max_attempts": 3, "initial": "10ms"}},
        {"id": "after", "type": "task", "handler": "echo"}], "edges": [["book", "after"]]})
}

#[derive(serde::Deserialize)]
struct Booking {
    amount: i64,
    #[serde(default)]
    fail_first: bool,
}

async fn book(pool: PgPool, step: Step, booking: Booking) -> Result<i64, Failure> {
    let completion = step.transaction().await?;
    let mut tx = pool.begin().await?;
    sqlx::query("insert into bookings values ($1)").bind(booking.amount).execute(&mut *tx).await?;
    if booking.fail_first && step.attempt() == 1 {
        return Err(Failure::retryable("the bank is closed"));
    }
    completion.complete_in(tx, &(booking.amount * 2)).await?;
    Ok(booking.amount * 2)
}

async fn fleet() -> TestFleet {
    let mut fleet = TestFleet::publish([definition("book")]).await;
    fleet.database.execute("create table bookings (amount bigint)").await;
    let pool = fleet.database.pool.clone();
    let worker = fleet.worker().handler("book", move |step: Step, booking: Booking| book(pool.clone(), step, booking));
    fleet.add(worker.queue("default", Slots(20))).await;
    fleet
}

#[tokio::test(flavor = "multi_thread")]
async fn the_step_completes_with_the_handlers_transaction() {
    let fleet = fleet().await;
    let runs: Vec<_> = futures::future::join_all((0..30).map(|i| fleet.run("book", json!({"amount": i})))).await;
    for (amount, (state, output)) in runs.into_iter().enumerate() {
        assert_eq!((state.as_str(), output), ("completed", json!(amount * 2)));
    }
    assert_eq!(fleet.database.number("select count(*) from bookings").await, 30);
    assert_eq!(
        fleet.database.number("select count(*) from longshore.execution_step_attempts where outcome = 1").await,
        60
    );
    assert_eq!(fleet.database.number("select count(*) from longshore.execution_step_attempts").await, 60);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_fails_before_it_commits_is_retried_and_leaves_nothing() {
    let fleet = fleet().await;
    let (state, output) = fleet.run("book", json!({"amount": 4, "fail_first": true})).await;
    assert_eq!((state.as_str(), output), ("completed", json!(8)));
    assert_eq!(fleet.database.number("select count(*) from bookings").await, 1);
    assert_eq!(
        fleet
            .database
            .number("select attempt::bigint from longshore.execution_step_attempts where node = 0 and outcome = 1")
            .await,
        2
    );
    fleet.finish().await;
}
