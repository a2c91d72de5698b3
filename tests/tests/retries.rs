//! What follows a failed attempt: backoff by the database's clock, and when a step gives up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longshore_tests::TestFleet;
use longshore_tests::fleet::{Gate, TestHandlers, task, with};
use longshore_worker::{Failure, Slots, Step};
use serde_json::{Value, json};
use uuid::Uuid;

/// A workflow `w` of one task with this handler and these fields.
fn one(handler: &str, fields: Value) -> Value {
    json!({"name": "w", "nodes": [with(task("a", handler), fields)], "edges": []})
}

/// A fleet of one worker that knows `panic` and `gate` too.
async fn fleet_of(definition: Value) -> TestFleet {
    let mut fleet = TestFleet::publish([definition]).await;
    fleet.add(fleet.worker().panics().queue("default", Slots(10))).await;
    fleet
}

/// Seconds between each failed attempt and the claim of the next.
async fn gaps(fleet: &TestFleet, run: Uuid) -> Vec<f64> {
    let sql = "select array_agg(gap order by attempt) from (
            select attempt, extract(epoch from claimed_at - lag(finished_at) over (order by attempt))::float8 as gap
            from longshore.execution_step_attempts where run_id = $1) x
        where gap is not null";
    fleet.ask::<Option<Vec<f64>>>(sql, run).await.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pauses_grow_and_are_never_shorter_than_the_policy() {
    let retry = json!({"max_attempts": 5, "initial": "100ms", "factor": 2, "max": "300ms", "jitter": 0.2});
    let fleet = fleet_of(one("flaky", json!({"retry": retry}))).await;
    let (run, output) = fleet.complete("w", json!({"fail": 4, "output": "done"})).await;
    assert_eq!(output, "done");
    assert_eq!(fleet.tries(run, "a").await, ["failed", "failed", "failed", "failed", "completed"]);
    let gaps = gaps(&fleet, run).await;
    for (gap, pause) in gaps.iter().zip([0.1, 0.2, 0.3, 0.3]) {
        assert!(*gap >= pause * 0.8 && *gap < pause * 1.2 + 2.0, "a pause of {pause} s took {gaps:?}");
    }
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_of_max_attempts_gives_up_with_its_error() {
    let retry = json!({"max_attempts": 3, "initial": "1ms", "jitter": 0});
    let fleet = fleet_of(one("flaky", json!({"retry": retry}))).await;
    let run = fleet.start("w", json!({"fail": 99, "name": "busy"})).await;
    let (state, error) = fleet.ended(run).await;
    let expected =
        json!({"name": "busy", "kind": "retryable", "message": "attempt 3 of 99 that fail", "node": "a", "attempt": 3});
    assert_eq!((state.as_str(), error), ("failed", expected));
    assert_eq!(fleet.tries(run, "a").await, ["failed"; 3]);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permanent_failure_gives_up_at_once() {
    let fleet = fleet_of(one("flaky", json!({}))).await;
    let run = fleet.start("w", json!({"fail": 1, "permanent": true})).await;
    assert_eq!(fleet.ended(run).await.0, "failed");
    assert_eq!(fleet.tries(run, "a").await, ["failed"]);
    let run = fleet.start("w", json!({"fail": "once"})).await;
    let (_, error) = fleet.ended(run).await;
    assert_eq!((&error["name"], &error["details"]), (&json!("input_invalid"), &json!({"path": "input.fail"})));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_on_names_what_is_tried_again() {
    let retry = json!({"retry_on": ["busy", "timeout"], "initial": "1ms"});
    let fleet = fleet_of(one("flaky", json!({"retry": retry}))).await;
    let (run, _) = fleet.complete("w", json!({"fail": 1, "name": "busy"})).await;
    assert_eq!(fleet.tries(run, "a").await, ["failed", "completed"]);
    let run = fleet.start("w", json!({"fail": 1, "name": "broken"})).await;
    assert_eq!(fleet.ended(run).await.0, "failed");
    assert_eq!(fleet.tries(run, "a").await, ["failed"]);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_may_say_when_to_try_again() {
    let mut fleet = TestFleet::publish([one("later", json!({"retry": {"initial": "1h", "max": "1h"}}))]).await;
    let later = async |step: Step, _: Value| match step.attempt() {
        1 => Err(Failure::retry_after("slow down", Duration::from_millis(200))),
        attempt => Ok(attempt),
    };
    fleet.add(fleet.worker().handler("later", later)).await;
    let (run, output) = fleet.complete("w", json!({})).await;
    assert_eq!(output, 2);
    let gaps = gaps(&fleet, run).await;
    assert!(matches!(gaps[..], [gap] if (0.2..2.5).contains(&gap)), "{gaps:?}");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attempt_begins_when_the_total_would_be_over() {
    let retry = json!({"max_attempts": 100, "initial": "150ms", "factor": 1, "jitter": 0, "total": "400ms"});
    let fleet = fleet_of(one("flaky", json!({"retry": retry}))).await;
    let run = fleet.start("w", json!({"fail": 99})).await;
    assert_eq!(fleet.ended(run).await.0, "failed");
    let tries = fleet.tries(run, "a").await.len();
    assert!((1..=3).contains(&tries), "{tries} attempts of 150 ms in 400 ms");
    let last = "select max(claimed_at) - min(claimed_at) < interval '2 s' from longshore.execution_step_attempts where run_id = $1";
    assert!(fleet.ask::<bool>(last, run).await);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn timeouts_and_panics_are_tried_again() {
    let retry = json!({"max_attempts": 2, "initial": "1ms"});
    let slow = with(task("slow", "slow_once"), json!({"timeout": "100ms", "retry": retry}));
    let panics = with(task("panics", "panic"), json!({"input": {"times": 1}, "retry": retry}));
    let mut fleet = TestFleet::publish([
        json!({"name": "once", "nodes": [slow, panics], "edges": [["slow", "panics"]]}),
        json!({"name": "always", "nodes": [with(task("panics", "panic"), json!({"input": {}, "retry": retry}))], "edges": []}),
        json!({"name": "stuck", "nodes": [with(task("slow", "sleep"), json!({"input": {"seconds": 3600}, "timeout": "50ms", "retry": retry}))],
            "edges": []}),
    ])
    .await;
    let gate = Gate::default();
    let slow_once = {
        let gate = gate.clone();
        move |step: Step, input: Value| {
            let gate = gate.clone();
            async move { if step.attempt() == 1 { gate.pass(step, input).await } else { Ok(json!("in time")) } }
        }
    };
    fleet.add(fleet.worker().panics().handler("slow_once", slow_once)).await;
    let (run, _) = fleet.complete("once", json!({})).await;
    let slow = fleet.attempts(run, "slow").await;
    assert_eq!((slow.len(), slow[0].error.as_deref(), slow[1].outcome.as_str()), (2, Some("timeout"), "completed"));
    let panics = fleet.attempts(run, "panics").await;
    assert_eq!((panics.len(), panics[0].error.as_deref(), panics[1].outcome.as_str()), (2, Some("panic"), "completed"));
    let panic = fleet.error(run, "panics", 1).await;
    assert_eq!((&panic["kind"], &panic["node"], &panic["attempt"]), (&json!("panic"), &json!("panics"), &json!(1)));
    assert!(panic["message"].as_str().unwrap().contains("as the test asks"), "{panic}");
    let (state, error) = fleet.run("always", json!({})).await;
    assert_eq!(
        (state.as_str(), &error["name"], &error["node"], &error["attempt"]),
        ("failed", &json!("panic"), &json!("panics"), &json!(2))
    );
    let (state, error) = fleet.run("stuck", json!({})).await;
    assert_eq!((state.as_str(), &error["kind"], &error["node"]), ("failed", &json!("timeout"), &json!("slow")));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_for_an_unknown_handler_waits_uncharged_for_a_worker_that_knows_it() {
    let mut fleet = TestFleet::publish([one("special", json!({}))]).await;
    fleet.work(5).await;
    let run = fleet.start("w", json!({"n": 1})).await;
    fleet.until("select exists (select from longshore.step_delayed where attempt = 1 and failed = 0)").await;
    assert!(fleet.tries(run, "a").await.is_empty(), "no attempt is recorded");
    let special = async |_: Step, input: Value| Ok::<_, Failure>(input);
    fleet.add(fleet.worker().handler("special", special)).await;
    // whichever worker claims it first, the one that knows it comes to it at last
    let (state, output) = fleet.ended(run).await;
    assert_eq!((state.as_str(), output), ("completed", json!({"n": 1})));
    let tries = fleet.attempts(run, "a").await;
    assert_eq!((tries.len(), tries[0].number, tries[0].outcome.as_str()), (1, 1, "completed"));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_that_cannot_be_stored_are_permanent_failures_and_take_no_others_with_them() {
    let mut nodes: Vec<Value> = (0..8).map(|n| task(&format!("n{n}"), "mixed")).collect();
    nodes.push(task("end", "echo"));
    let edges: Vec<Value> = (0..8).map(|n| json!({"from": format!("n{n}"), "to": "end", "on": "always"})).collect();
    let mut fleet = TestFleet::publish([json!({"name": "w", "nodes": nodes, "edges": edges})]).await;
    let mixed = async |step: Step, _: Value| match step.node() {
        "n1" => Ok::<_, Failure>(json!("nul \0 inside")),
        "n3" => Ok(json!("x".repeat(2 << 20))),
        "n5" => Ok((0..200).fold(json!(1), |inner, _| json!([inner]))),
        _ => Ok(json!("fine")),
    };
    fleet.add(fleet.worker().handler("mixed", mixed).queue("default", Slots(20))).await;
    let (run, output) = fleet.complete("w", json!({})).await;
    assert_eq!(output.as_object().unwrap().len(), 5);
    for (node, name) in [("n1", "output_invalid"), ("n3", "output_too_large"), ("n5", "output_invalid")] {
        let error = fleet.error(run, node, 1).await;
        assert_eq!((&error["name"], &error["kind"]), (&json!(name), &json!("permanent")));
    }
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_beside_a_retry_goes_on_and_the_join_waits_for_both() {
    let retry = json!({"max_attempts": 4, "initial": "20ms", "jitter": 0});
    let flaky = with(task("b", "flaky"), json!({"retry": retry, "input": {"fail": 3, "output": 3}}));
    let fleet =
        fleet_of(json!({"name": "w", "nodes": [task("a", "echo"), flaky, task("c", "echo"), task("end", "echo")],
        "edges": [["a", "b"], ["a", "c"], ["b", "end"], ["c", "end"]]}))
        .await;
    let (run, output) = fleet.complete("w", json!(1)).await;
    assert_eq!(output, json!({"b": 3, "c": 1}));
    assert_eq!(fleet.tries(run, "b").await, ["failed", "failed", "failed", "completed"]);
    assert_eq!(fleet.tries(run, "end").await, ["completed"]);
    fleet.finish().await;
}

/// A handler that fails with the names it is given, one after the other over all attempts of its run, and completes when there are no more.
fn fails(fleet: &TestFleet) -> longshore_worker::WorkerBuilder {
    let calls: Arc<Mutex<HashMap<Uuid, usize>>> = Arc::default();
    fleet.worker().handler("fails", move |step: Step, names: Vec<String>| {
        let mut calls = calls.lock().unwrap();
        let call = calls.entry(step.run_id()).or_default();
        *call += 1;
        let name = names.get(*call - 1).cloned();
        async move {
            match name {
                Some(name) => Err(Failure::retryable("not yet").named(&name)),
                None => Ok("done"),
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_policy_that_lists_the_error_decides_and_each_counts_its_own_failures() {
    let policy = |on: Option<&str>, max_attempts: u32, give_up: &str| {
        let mut policy = json!({"max_attempts": max_attempts, "initial": "1ms", "jitter": 0, "give_up": give_up});
        on.into_iter().for_each(|on| policy["retry_on"] = json!([on]));
        policy
    };
    let policies = json!([policy(Some("a"), 3, "fail"), policy(Some("b"), 2, "pause"), policy(None, 2, "fail")]);
    let block = |retry: &Value| {
        let once = json!({"retry": {"max_attempts": 1}, "input": "{{ run.input }}"});
        json!({"name": "block", "nodes": [{"id": "a", "type": "if", "when": "true", "retry": retry,
            "then": {"nodes": [with(task("t", "fails"), once)]}}]})
    };
    let mut fleet = TestFleet::publish([one("fails", json!({"retry": policies})), block(&policies)]).await;
    fleet.add(fails(&fleet).queue("default", Slots(10))).await;
    for workflow in ["w", "block"] {
        let (run, output) = fleet.complete(workflow, json!(["a", "b", "a", "c"])).await;
        assert_eq!(output, "done", "{workflow}");
        assert_eq!(fleet.tries(run, "a").await, ["failed", "failed", "failed", "failed", "completed"], "{workflow}");
        for names in [json!(["a", "c", "a", "a"]), json!(["c", "a", "c"])] {
            let run = fleet.start(workflow, names.clone()).await;
            let (state, error) = fleet.ended(run).await;
            let last = names.as_array().unwrap().last().unwrap();
            assert_eq!((state.as_str(), &error["name"]), ("failed", last), "{workflow}");
            assert_eq!(fleet.tries(run, "a").await.len(), names.as_array().unwrap().len(), "{workflow}");
        }
        // one that pauses begins anew when the run is resumed, and so do the others: what was counted before is not counted again
        let run = fleet.start(workflow, json!(["a", "a", "b", "b", "a", "a", "b"])).await;
        fleet.until(&format!("select state = 2 from longshore.workflow_runs where run_id = '{run}'")).await;
        assert_eq!(fleet.tries(run, "a").await.len(), 4, "{workflow}");
        fleet.enqueuer.resume(run).await.unwrap();
        assert_eq!(fleet.ended(run).await, ("completed".to_owned(), json!("done")), "{workflow}");
        assert_eq!(fleet.tries(run, "a").await.len(), 8, "{workflow}");
    }
    fleet.finish().await;
}
