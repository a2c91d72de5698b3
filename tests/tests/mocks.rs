//! Runs in test mode: mocks answer for their nodes, on a fleet that runs others with its handlers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use longshore_enqueuer::{Error, NewRun};
use longshore_tests::TestFleet;
use longshore_tests::fleet::{task, with};
use longshore_tests::http::get;
use longshore_tests::process::metric;
use longshore_worker::{Failure, Slots, Step};
use serde_json::{Value, json};
use uuid::Uuid;

/// `order`: charges, waits for three days, then for a signal, and ships in a child run.
fn definitions() -> [Value; 2] {
    let charge = with(task("charge", "real"), json!({"retry": {"max_attempts": 3, "initial": "1h"}}));
    let order = json!({"name": "order", "nodes": [charge, {"id": "rest", "type": "delay", "duration": "72h"},
            {"id": "packed", "type": "wait", "signal": "packed", "timeout": "24h"}, {"id": "ship", "type": "subflow", "workflow": "shipping"}],
        "edges": [["charge", "rest"], ["rest", "packed"], ["packed", "ship"]]});
    [
        json!({"name": "shipping", "nodes": [task("label", "real"), {"id": "pause", "type": "delay", "duration": "1h"}], "edges": [["label", "pause"]]}),
        order,
    ]
}

/// A fleet of one worker, and how often its handler `real` ran.
async fn fleet() -> (TestFleet, Arc<AtomicUsize>, std::net::SocketAddr) {
    let mut fleet = TestFleet::publish(definitions()).await;
    let ran = Arc::new(AtomicUsize::new(0));
    let count = ran.clone();
    let real = move |_: Step, input: Value| {
        count.fetch_add(1, Ordering::SeqCst);
        async move { Ok::<_, Failure>(input) }
    };
    let worker = fleet.worker().handler("real", real).queue("default", Slots(5)).listen("127.0.0.1:0".parse().unwrap());
    let address = fleet.add(worker).await.address().unwrap();
    (fleet, ran, address)
}

async fn wait_for(fleet: &TestFleet, run: Uuid, node: &str, state: &str) {
    fleet
        .until(&format!(
            "select exists (select from longshore.execution_steps s join longshore.workflow_runs r using (run_id)
        join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = s.node
        where (r.run_id = '{run}' or r.parent_run_id = '{run}') and n.id = '{node}' and s.state = '{state}')"
        ))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mocks_answer_for_the_nodes_of_a_run_and_its_clock_is_moved() {
    let (fleet, ran, address) = fleet().await;
    let mocks = json!({"charge": [{"error": {"name": "busy"}}, {"output": {"receipt": 7}, "input": {"order": 1}}], "shipping/label": "L-1"});
    let live = fleet.start("order", json!({"order": 1})).await;
    let test = fleet.enqueuer.start("order", &json!({"order": 1})).mocks(&mocks).key("k").await.unwrap();
    assert!(!fleet.enqueuer.start("order", &json!({"order": 1})).mocks(&mocks).key("k").await.unwrap().created);
    let test = test.id;
    wait_for(&fleet, test, "charge", "delayed").await;
    // to the next timer: its retry
    assert_eq!(fleet.enqueuer.advance(test, None).await.unwrap(), 1);
    wait_for(&fleet, test, "rest", "delayed").await;
    wait_for(&fleet, live, "rest", "delayed").await;
    fleet.enqueuer.advance(test, Some(Duration::from_secs(71 * 3600))).await.unwrap();
    wait_for(&fleet, test, "rest", "delayed").await;
    fleet.enqueuer.advance(test, Some(Duration::from_secs(3600))).await.unwrap();
    wait_for(&fleet, test, "packed", "waiting").await;
    fleet.enqueuer.signal(test, "packed", &json!("by ann")).await.unwrap();
    // of the run that it started
    wait_for(&fleet, test, "pause", "delayed").await;
    fleet.enqueuer.advance(test, None).await.unwrap();
    assert_eq!(fleet.ended(test).await, ("completed".to_owned(), json!("L-1")));
    assert_eq!(fleet.tries(test, "charge").await, ["failed", "completed"]);
    assert_eq!(ran.load(Ordering::SeqCst), 1, "the other run's handler alone");
    let (_, page) = get(address, "/metrics").await.unwrap();
    assert_eq!(metric(&page, "longshore_step_attempts_total", ""), 1.0);
    assert_eq!(metric(&page, "longshore_runs_total", ""), 0.0, "no run of production has ended");
    // the other run's timers are where they were
    assert!(matches!(fleet.enqueuer.advance(live, None).await, Err(Error::NotATest { run_id }) if run_id == live));
    assert_eq!(fleet.state(live).await["delayed"][0]["node"], 1);
    assert!(matches!(fleet.enqueuer.advance(Uuid::now_v7(), None).await, Err(Error::NotFound { .. })));
    fleet.enqueuer.cancel(live).await.unwrap();
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_and_child_runs_are_answered_too_and_nothing_reaches_a_handler() {
    let (fleet, ran, _) = fleet().await;
    let mocks = json!({"handler:real": 1, "packed": {"error": {"name": "late", "kind": "permanent"}}, "ship": 2});
    let failed = fleet.enqueuer.start("order", &json!({})).mocks(&mocks).await.unwrap().id;
    wait_for(&fleet, failed, "rest", "delayed").await;
    fleet.enqueuer.advance(failed, None).await.unwrap();
    let (state, error) = fleet.ended(failed).await;
    assert_eq!((state.as_str(), &error["name"], &error["node"]), ("failed", &json!("late"), &json!("packed")));
    // a retry of it is in test mode, and so is a new run that takes over from it
    let missing = fleet.enqueuer.start("order", &json!({})).mocks(&json!({})).await.unwrap().id;
    let (state, error) = fleet.ended(missing).await;
    assert_eq!((state.as_str(), &error["name"]), ("failed", &json!("mock_missing")));
    let anew = fleet.enqueuer.rerun(missing, "charge").await.unwrap().run_id.unwrap();
    assert_eq!(fleet.ended(anew).await.1["name"], "mock_missing");
    assert_eq!(ran.load(Ordering::SeqCst), 0);
    fleet.finish().await;
}

/// A mock of a plain id is for the workflow that was started, whichever of its runs is run anew.
#[tokio::test(flavor = "multi_thread")]
async fn mocks_of_one_workflow_are_not_anothers_in_a_run_made_anew() {
    let (fleet, ran, _) = fleet().await;
    fleet.apply(json!({"name": "c", "nodes": [task("send", "real")]})).await;
    let sub = json!({"id": "sub", "type": "subflow", "workflow": "c"});
    let both = json!({"name": "p", "nodes": [sub, task("send", "real")], "output": ["{{ nodes.sub.output }}", "{{ nodes.send.output }}"]});
    fleet.apply(both).await;
    let run = fleet.enqueuer.start("p", &json!({})).mocks(&json!({"send": 1, "c/send": 2})).await.unwrap().id;
    assert_eq!(fleet.ended(run).await, ("completed".to_owned(), json!([2, 1])));
    let child: Uuid = fleet.ask("select run_id from longshore.workflow_runs where parent_run_id = $1", run).await;
    for (run, from, output) in
        [(child, "send", json!(2)), (run, "send", json!([2, 1])), (run, "sub/send", json!([2, 1]))]
    {
        let anew = fleet.enqueuer.rerun(run, from).await.unwrap().run_id.unwrap();
        assert_eq!(fleet.ended(anew).await, ("completed".to_owned(), output), "{from}");
    }
    assert_eq!(ran.load(Ordering::SeqCst), 0);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_that_would_remind_is_answered_as_a_whole() {
    let (fleet, ran, _) = fleet().await;
    let reminder = json!({"handler": "real", "after": "10ms"});
    let asks = json!({"name": "asks", "nodes": [{"id": "boss", "type": "approval", "reminder": reminder, "timeout": "24h"}], "edges": []});
    fleet.apply(asks).await;
    let run = fleet.enqueuer.start("asks", &()).mocks(&json!({"boss": {"output": {"by": "ann"}}})).await.unwrap().id;
    assert_eq!(fleet.ended(run).await, ("completed".to_owned(), json!({"by": "ann"})));
    assert_eq!(fleet.tries(run, "boss").await, ["completed"]);
    assert_eq!(fleet.database.number("select count(*) from longshore.frames").await, 0);
    assert_eq!(ran.load(Ordering::SeqCst), 0);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_without_a_timer_to_move_to_changes_nothing() {
    let (fleet, ..) = fleet().await;
    let run = fleet.enqueuer.start("order", &json!({})).mocks(&json!({"handler:real": 1})).await.unwrap().id;
    wait_for(&fleet, run, "rest", "delayed").await;
    fleet.enqueuer.advance(run, None).await.unwrap();
    wait_for(&fleet, run, "packed", "waiting").await;
    fleet.enqueuer.pause(run, "later").await.unwrap();
    // its timer comes, and is parked
    fleet.enqueuer.advance(run, None).await.unwrap();
    fleet.until(&format!("select exists (select from longshore.step_delayed where run_id = '{run}' and parked)")).await;
    assert_eq!(fleet.enqueuer.advance(run, None).await.unwrap(), 0);
    assert_eq!(fleet.database.number("select count(*) from longshore.step_waiting where due_at is not null").await, 1);
    fleet.enqueuer.resume(run).await.unwrap();
    let (state, error) = fleet.ended(run).await;
    assert_eq!((state.as_str(), &error["name"]), ("failed", &json!("timeout")));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mocks_that_are_wrong_start_nothing() {
    let (fleet, ..) = fleet().await;
    let refused = fleet.enqueuer.start("order", &json!({})).mocks(&json!({"charge": []})).await.unwrap_err();
    assert!(refused.to_string().contains("mocks.charge: it has no answer"), "{refused}");
    let large = json!({"charge": "x".repeat(70_000)});
    let many = [NewRun::new("order", &json!({})), NewRun::new("order", &json!({})).mocks(&large)];
    let refused = fleet.enqueuer.start_many(&many).await.unwrap_err();
    assert!(refused.to_string().contains("at most 65536 are allowed"), "{refused}");
    assert_eq!(fleet.database.number("select count(*) from longshore.workflow_runs").await, 0);
    // of many, some may be in test mode
    let many = [NewRun::new("shipping", &json!({})), NewRun::new("shipping", &json!({})).mocks(&json!({"label": 1}))];
    fleet.enqueuer.start_many(&many).await.unwrap();
    assert_eq!(fleet.database.number("select count(*) from longshore.workflow_runs where mocks is null").await, 1);
    fleet.finish().await;
}
