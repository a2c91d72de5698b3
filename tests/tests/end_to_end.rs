//! Runs go end to end: every shape of graph, on a real fleet over a real Postgres.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use longshore_tests::TestFleet;
use longshore_tests::fleet::{chain, fan};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_hands_its_output_on() {
    let mut fleet = TestFleet::publish([chain("chain", 10)]).await;
    fleet.work(10).await;
    let (state, output) = fleet.run("chain", json!({"order": 7})).await;
    assert_eq!((state.as_str(), output), ("completed", json!({"order": 7})));
    assert_eq!(fleet.database.number("select count(*) from longshore.execution_step_attempts").await, 10);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fan_joins_once_with_all_outputs() {
    let mut fleet = TestFleet::publish([fan("fan", 300)]).await;
    fleet.work(100).await;
    fleet.work(100).await;
    let (state, output) = fleet.run("fan", json!({"x": 1})).await;
    assert_eq!(state, "completed");
    assert_eq!(output.as_object().unwrap().len(), 300);
    assert_eq!(output["m7"], json!({"x": 1}));
    assert_eq!(
        fleet.database.number("select count(*) from longshore.execution_step_attempts where outcome = 1").await,
        302
    );
    assert_eq!(fleet.database.number("select count(*) from longshore.step_joins").await, 0);
    fleet.finish().await;
}
