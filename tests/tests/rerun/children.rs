//! Child runs: a run that failed with one goes on with the same one, and a new run may begin within one.

use std::time::Duration;

use longshore_enqueuer::RerunError;
use longshore_tests::TestFleet;
use longshore_tests::fleet::{Gate, TestHandlers};
use longshore_worker::Slots;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{failing, retry, words};

fn subflow(id: &str, workflow: &str, more: Value) -> Value {
    let mut node = json!({"id": id, "type": "subflow", "workflow": workflow});
    node.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    node
}

/// The runs that a run started, the first first, with their states.
async fn children(fleet: &TestFleet, run: Uuid) -> Vec<(Uuid, i16)> {
    sqlx::query_as("select run_id, state from longshore.workflow_runs where parent_run_id = $1 order by run_id")
        .bind(run)
        .fetch_all(&fleet.database.pool)
        .await
        .unwrap()
}

async fn tries(fleet: &TestFleet, run: Uuid, node: &str) -> usize {
    fleet.tries(run, node).await.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_failed_with_its_child_goes_on_with_the_same_child() {
    let leaf = json!({"name": "leaf", "nodes": [failing("x", 0), failing("y", 1), failing("z", 0)], "edges": [["x", "y"], ["y", "z"]]});
    let middle = json!({"name": "middle", "nodes": [failing("m", 0), subflow("deep", "leaf", json!({"timeout": "1h"}))], "edges": [["m", "deep"]]});
    let each = json!({"id": "each", "type": "foreach", "items": [0, 1], "concurrency": 1, "body": {"nodes": [subflow("sub", "middle", json!({}))]}});
    let mut fleet = TestFleet::publish([
        leaf,
        middle,
        json!({"name": "w", "nodes": [each, failing("end", 0)], "edges": [["each", "end"]]}),
    ])
    .await;
    fleet.work(8).await;
    let run = fleet.start("w", json!({})).await;
    let mut started = 0;
    for round in 0..2 {
        assert_eq!(fleet.ended(run).await.0, "failed");
        let last = children(&fleet, run).await;
        started = last.len();
        let (child, state) = last[round];
        assert_eq!(state, 4);
        assert!(matches!(fleet.enqueuer.retry(child).await, Err(RerunError::OfParent { parent, .. }) if parent == run));
        let done = retry(&fleet, run).await;
        assert_eq!(done.ready, [format!("each[{round}]/sub/deep/y")], "{done:?}");
        for place in ["each[R]/sub", "each[R]/sub/deep"].map(|place| place.replace('R', &round.to_string())) {
            assert!(done.taken_up.contains(&place), "{place}: {done:?}");
        }
        assert!(done.reused.contains(&format!("each[{round}]/sub/m")), "{done:?}");
    }
    assert_eq!(fleet.ended(run).await, ("completed".to_owned(), json!("end")));
    let (middles, ended) = (children(&fleet, run).await, 3);
    assert_eq!((started, middles.len()), (2, 2), "no child is started twice");
    for (middle, state) in middles {
        let leaves = children(&fleet, middle).await;
        assert_eq!((state, leaves.len(), leaves[0].1), (ended, 1, ended));
        let leaf = leaves[0].0;
        assert_eq!(
            (tries(&fleet, leaf, "x").await, tries(&fleet, leaf, "y").await, tries(&fleet, middle, "m").await),
            (1, 2, 1)
        );
    }
    assert_eq!(tries(&fleet, run, "sub").await, 4, "an attempt of the step for each time it waited");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_was_canceled_beside_a_failure_goes_on_and_time_is_given_anew() {
    let gate = Gate::default();
    let child = json!({"name": "child", "nodes": [failing("x", 0), {"id": "g", "type": "task", "handler": "gate"}], "edges": [["x", "g"]]});
    let parent = json!({"name": "w", "nodes": [subflow("sub", "child", json!({"timeout": "1h"})), {"id": "go", "type": "wait", "signal": "go"}, failing("bad", 1)],
        "edges": [["go", "bad"]]});
    let mut fleet = TestFleet::publish([child, parent]).await;
    fleet.add(fleet.worker().gate(&gate).queue("default", Slots(8))).await;
    let run = fleet.start("w", json!({})).await;
    gate.entered(1).await;
    fleet.enqueuer.signal(run, "go", &1).await.unwrap();
    assert_eq!(fleet.ended(run).await.0, "failed");
    fleet.until("select not exists (select from longshore.closed)").await;
    let before = children(&fleet, run).await;
    assert_eq!(before[0].1, 5, "with its parent");
    // of two at once one goes on with it
    let (one, other) = tokio::join!(fleet.enqueuer.retry(run), fleet.enqueuer.retry(run));
    assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
    gate.entered(2).await;
    let timer = "select count(*) from longshore.step_waiting where run_id = $1 and child_run_id is not null and due_at > now() + interval '50 min'";
    assert_eq!(fleet.ask::<i64>(timer, run).await, 1);
    // and a cancel ends both
    fleet.enqueuer.cancel(run).await.unwrap();
    assert_eq!(children(&fleet, run).await, before);
    retry(&fleet, run).await;
    gate.open(1);
    assert_eq!(fleet.ended(run).await.0, "completed");
    assert_eq!(children(&fleet, run).await, [(before[0].0, 3)]);
    assert_eq!(tries(&fleet, before[0].0, "x").await, 1);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_cannot_go_on_is_started_anew() {
    let child =
        json!({"name": "child", "input_schema": {"type": "integer"}, "nodes": [failing("x", 0), failing("y", 0)]});
    let parent = json!({"name": "w", "context": {"n": "none"}, "nodes": [{"id": "go", "type": "wait", "signal": "go"},
        subflow("sub", "child", json!({"input": "{{ run.context.n }}"})), {"id": "set", "type": "context", "set": {"n": 7}}], "edges": [["go", "set"]]});
    let mut fleet = TestFleet::publish([child, parent]).await;
    fleet.work(8).await;
    let run = fleet.start("w", json!({})).await;
    assert_eq!(fleet.ended(run).await.0, "failed");
    let done = retry(&fleet, run).await;
    assert!(done.ready.contains(&"sub".to_owned()), "{done:?}");
    // the other step goes on in parallel; the child is refused again, unless it came later
    fleet.enqueuer.signal(run, "go", &1).await.ok();
    fleet.ended(run).await;
    assert_eq!(children(&fleet, run).await.len(), 2);
    fleet.until("select not exists (select from longshore.closed)").await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_run_begins_within_a_child_run() {
    let echo = |id: &str, input: Value| json!({"id": id, "type": "task", "handler": "echo", "input": input});
    let leaf = json!({"name": "leaf", "nodes": [echo("x", json!("{{ run.input }}")), echo("y", json!({"at": "{{ run.parent.run_id }}", "x": "{{ nodes.x.output }}"}))],
        "edges": [["x", "y"]]});
    let middle = json!({"name": "middle", "nodes": [{"id": "all", "type": "foreach", "items": [1, 2], "body": {"nodes": [
        subflow("deep", "leaf", json!({"input": "{{ item }}", "timeout": "1h"}))]}}]});
    let parent = json!({"name": "w", "nodes": [echo("a", json!(1)), subflow("sub", "middle", json!({})), echo("b", json!("{{ nodes.sub.output }}"))],
        "edges": [["a", "sub"], ["sub", "b"]]});
    let mut fleet = TestFleet::publish([leaf, middle, parent]).await;
    fleet.work(8).await;
    let (run, _) = fleet.complete("w", json!({})).await;
    let from = "sub/all[1]/deep/y";
    let planned = fleet.enqueuer.rerun(run, from).plan().await.unwrap();
    assert_eq!(planned.ready, words(&[from]));
    assert_eq!(children(&fleet, run).await.len(), 1);
    let done = fleet.enqueuer.rerun(run, from).await.unwrap();
    assert_eq!((&done.reused, &done.ready, &done.taken_up), (&planned.reused, &planned.ready, &planned.taken_up));
    for place in ["a", "sub/all[0]", "sub/all[1]/deep/x"] {
        assert!(done.reused.iter().any(|one| one == place), "{place}: {done:?}");
    }
    let anew = done.run_id.unwrap();
    let (state, output) = fleet.ended(anew).await;
    let middles = children(&fleet, anew).await;
    let leaves = children(&fleet, middles[0].0).await;
    assert_eq!((state.as_str(), middles.len(), leaves.len()), ("completed", 1, 1));
    assert_eq!(output[1], json!({"at": middles[0].0.to_string(), "x": 2}), "{output}");
    assert_ne!(output[0]["at"], output[1]["at"], "the other iteration is the other run's");
    let refused = fleet.enqueuer.rerun(run, "a/x").plan().await;
    assert!(matches!(refused, Err(RerunError::Place { .. })), "{refused:?}");
    // and what is made so can be canceled and tried again as any other
    let again = fleet.enqueuer.rerun(anew, "sub/all").await.unwrap().run_id.unwrap();
    assert_eq!(tokio::time::timeout(Duration::from_secs(60), fleet.ended(again)).await.unwrap().0, "completed");
    assert_eq!(children(&fleet, children(&fleet, again).await[0].0).await.len(), 2);
    fleet.finish().await;
}
