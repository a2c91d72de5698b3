//! A start that its caller kept open while the fleet went on begins soon after its commit, though lanes have looked past its place in the queue.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::Duration;

use longshore_core::payload::Payload;
use longshore_core::run::{self, Start};
use longshore_core::session::Session;
use longshore_tests::TestFleet;
use longshore_tests::lane::dag;
use longshore_worker::Slots;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_start_held_open_for_five_seconds_under_load_begins_within_a_second_and_a_half_of_its_commit() {
    let mut workflow = dag("load", "a", "");
    workflow["nodes"][0]["handler"] = json!("nap");
    let mut fleet = TestFleet::publish([workflow]).await;
    let nap = |input: Value| async move {
        tokio::time::sleep(Duration::from_millis(25)).await;
        Ok::<Value, longshore_worker::Failure>(input)
    };
    let nap = move |_step: longshore_worker::Step, input: Value| nap(input);
    fleet.add(fleet.worker().handler("nap", nap).queue("default", Slots(10))).await;
    let mut connection = fleet.database.pool.acquire().await.unwrap();
    let starts = |count: usize| vec![Start::new("load", Payload::of(&json!({})).unwrap()); count];
    run::start(&mut Session::direct(&mut connection), &starts(200)).await.unwrap();
    fleet.until("select count(*) > 20 from longshore.execution_step_attempts").await;

    let mut caller = fleet.database.pool.begin().await.unwrap();
    let late = run::start(&mut Session::direct(&mut caller), &starts(1)).await.unwrap()[0].run_id;
    let began = "select extract(epoch from clock_timestamp())::float8";
    let opened: f64 = sqlx::query_scalar(began).fetch_one(&mut *connection).await.unwrap();
    // a backlog that outlasts it all
    run::start(&mut Session::direct(&mut connection), &starts(6000)).await.unwrap();
    fleet.until(&format!("select extract(epoch from clock_timestamp())::float8 > {opened} + 5")).await;
    caller.commit().await.unwrap();
    let committed: f64 = sqlx::query_scalar(began).fetch_one(&mut *connection).await.unwrap();
    fleet
        .until(&format!("select exists (select from longshore.execution_step_attempts where run_id = '{late}')"))
        .await;
    let backlog = fleet.database.number("select count(*) from longshore.step_ready").await;
    assert!(backlog > 500, "the fleet was busy all the time: {backlog} step jobs still wait");
    let claimed = format!(
        "select extract(epoch from claimed_at)::float8 - {committed} from longshore.execution_step_attempts where run_id = '{late}'"
    );
    let after: f64 = sqlx::query_scalar(&claimed).fetch_one(&fleet.database.pool).await.unwrap();
    assert!(after < 1.5, "it began {after} s after its commit");
    // what has not begun is not needed any more
    fleet
        .database
        .execute(
            "with d as (delete from longshore.step_ready returning run_id)
             delete from longshore.workflow_runs r using d where r.run_id = d.run_id",
        )
        .await;
    drop(connection);
    fleet.finish().await;
}
