//! Runs go end to end: every node type, edge and join, on a real fleet over a real Postgres.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use longshore_tests::TestFleet;
use longshore_tests::fleet::{Gate, TestHandlers, chain, fan, set, task, with};
use longshore_worker::{Failure, Slots, Step};
use serde_json::{Value, json};
use uuid::Uuid;

/// A fleet of one worker with twenty slots on `default`.
async fn fleet_of(definition: Value) -> TestFleet {
    TestFleet::working([definition]).await
}

/// A fleet of one worker with a gate.
async fn gated(definition: Value) -> (TestFleet, Gate) {
    let mut fleet = TestFleet::publish([definition]).await;
    let gate = Gate::default();
    fleet.add(fleet.worker().gate(&gate).queue("default", Slots(20))).await;
    (fleet, gate)
}

/// A node of type `fail`: success edges may not leave it.
fn fail(id: &str) -> Value {
    json!({"id": id, "type": "fail", "name": "card_declined", "message": "no funds for {{ run.input.order }}"})
}

/// A task that fails for good, at once.
fn failing(id: &str) -> Value {
    with(task(id, "flaky"), json!({"input": {"fail": 99, "permanent": true, "name": "card_declined"}}))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_hands_its_output_on() {
    let mut fleet = TestFleet::publish([chain("chain", 10)]).await;
    fleet.work(10).await;
    let (_, output) = fleet.complete("chain", json!({"order": 7})).await;
    assert_eq!(output, json!({"order": 7}));
    assert_eq!(fleet.database.number("select count(*) from longshore.execution_step_attempts").await, 10);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fan_joins_once_with_all_outputs() {
    let mut fleet = TestFleet::publish([fan("fan", 300)]).await;
    fleet.work(100).await;
    fleet.work(100).await;
    let (_, output) = fleet.complete("fan", json!({"x": 1})).await;
    assert_eq!(output.as_object().unwrap().len(), 300);
    assert_eq!(output["m7"], json!({"x": 1}));
    let completed = "select count(*) from longshore.execution_step_attempts where outcome = 1";
    assert_eq!(fleet.database.number(completed).await, 302);
    assert_eq!(fleet.database.number("select count(*) from longshore.step_joins").await, 0);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn set_builds_its_output_from_run_and_nodes() {
    let fleet = fleet_of(json!({"name": "w", "nodes": [
        set("a", json!({"n": "{{ run.input.n }}", "text": "n is {{ run.input.n }}, ok {{ run.input.ok }}", "list": ["{{ run.input.list }}", 1]})),
        set("b", json!("{{ nodes.a.output.n + 1 }}")),
        set("c", json!({"a": "{{ nodes.a.output }}", "b": "{{ nodes.b.output }}", "own": "{{ input }}",
            "missing": "{{ nodes.a.output.x.y }}", "in text": "<{{ nodes.a.output.x.y }}>", "workflow": "{{ run.workflow }}",
            "version": "{{ run.version }}", "id": "{{ run.id }}", "key": "{{ run.key }}"}))],
        "edges": [["a", "b"], ["b", "c"]]}))
    .await;
    let run = fleet.enqueuer.start("w", &json!({"n": 7, "ok": true, "list": [null]})).key("k-1").await.unwrap().id;
    let (state, output) = fleet.ended(run).await;
    let a = json!({"n": 7, "text": "n is 7, ok true", "list": [[null], 1]});
    let expected = json!({"a": a, "b": 8, "own": 8, "missing": null, "in text": "<>", "workflow": "w", "version": 1, "id": run, "key": "k-1"});
    assert_eq!((state.as_str(), output), ("completed", expected));
    assert_eq!(fleet.tries(run, "b").await, ["completed"], "an engine's own step is recorded too");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_waits_for_its_duration_by_the_databases_clock() {
    let fleet = fleet_of(json!({"name": "w", "nodes": [task("a", "echo"),
            {"id": "wait", "type": "delay", "duration": "{{ run.input.ms }}ms"}, task("b", "echo")],
        "edges": [["a", "wait"], ["wait", "b"]]}))
    .await;
    let (run, output) = fleet.complete("w", json!({"ms": 300})).await;
    assert_eq!(output, json!({"ms": 300}), "a delay hands its input on");
    let waited = "select extract(epoch from min(claimed_at) filter (where node = 2) - max(finished_at) filter (where node = 0))::float8
        from longshore.execution_step_attempts where run_id = $1";
    let waited: f64 = fleet.ask(waited, run).await;
    assert!((0.3..1.5).contains(&waited), "waited {waited} s");
    assert_eq!(fleet.tries(run, "wait").await, ["completed"]);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_waits_until_a_time_and_not_for_one_that_has_passed() {
    let fleet = fleet_of(json!({"name": "w", "nodes": [
            {"id": "wait", "type": "delay", "until": "{{ run.input.at }}"}, task("b", "echo")], "edges": [["wait", "b"]]}))
    .await;
    let at = Utc::now() + TimeDelta::milliseconds(400);
    let (run, _) = fleet.complete("w", json!({"at": at.to_rfc3339()})).await;
    let claimed: chrono::DateTime<Utc> =
        fleet.ask("select claimed_at from longshore.execution_step_attempts where run_id = $1 and node = 1", run).await;
    assert!(claimed >= at && claimed < at + TimeDelta::seconds(2), "{claimed} for {at}");
    fleet.complete("w", json!({"at": "2020-01-01T00:00:00Z"})).await;
    let (state, error) = fleet.run("w", json!({"at": "tomorrow"})).await;
    assert_eq!((state.as_str(), &error["name"], &error["node"]), ("failed", &json!("delay_invalid"), &json!("wait")));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_step_without_a_failure_edge_fails_the_run() {
    let fleet = fleet_of(json!({"name": "w", "nodes": [task("a", "echo"), failing("b"), task("c", "echo")],
        "edges": [["a", "b"], ["b", "c"]]}))
    .await;
    let run = fleet.start("w", json!({"order": 7})).await;
    let (state, error) = fleet.ended(run).await;
    assert_eq!(state, "failed");
    let expected = json!({"name": "card_declined", "kind": "permanent", "message": "attempt 1 of 99 that fail", "node": "b", "attempt": 1});
    assert_eq!(error, expected);
    assert_eq!(fleet.outcomes(run).await, json!({"completed": ["a"], "failed": ["b"]}));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fail_node_fails_for_good_and_failure_edges_leave_it() {
    let mut fleet = TestFleet::publish([
        json!({"name": "sink", "nodes": [task("a", "echo"), fail("stop")], "edges": [["a", "stop"]]}),
        json!({"name": "caught", "nodes": [task("a", "echo"), fail("stop"), task("b", "echo")],
            "edges": [["a", "stop"], {"from": "stop", "to": "b", "on": "failure"}]}),
    ])
    .await;
    fleet.work(10).await;
    let (state, error) = fleet.run("sink", json!({"order": 7})).await;
    let expected = json!({"name": "card_declined", "kind": "permanent", "message": "no funds for 7", "node": "stop", "attempt": 1});
    assert_eq!((state.as_str(), &error), ("failed", &expected));
    let (run, output) = fleet.complete("caught", json!({"order": 7})).await;
    assert_eq!(output, expected, "the error is the successor's input");
    assert_eq!(fleet.outcomes(run).await, json!({"completed": ["a", "b"], "failed": ["stop"]}));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_edge_takes_the_error_and_the_run_completes() {
    let fleet = fleet_of(json!({"name": "w", "nodes": [failing("charge"), task("ship", "echo"), task("refund", "echo"),
            with(task("tell", "echo"), json!({"input": {"why": "{{ error.name }}: {{ nodes.charge.error.message }}"}})), task("always", "echo")],
        "edges": [["charge", "ship"], {"from": "charge", "to": "refund", "on": "failure"},
            {"from": "charge", "to": "tell", "on": "failure", "when": "error.name == 'card_declined'"},
            {"from": "charge", "to": "always", "on": "always"}]}))
    .await;
    let (run, output) = fleet.complete("w", json!({"order": 7})).await;
    assert_eq!(output["refund"]["name"], "card_declined", "the only predecessor's error is the input");
    assert_eq!(output["tell"], json!({"why": "card_declined: attempt 1 of 99 that fail"}));
    assert_eq!(output["always"]["kind"], "permanent");
    assert!(output.get("ship").is_none());
    assert_eq!(fleet.reason(run, "ship").await, "edge charge -> ship not taken: on success");
    let outcomes = json!({"completed": ["always", "refund", "tell"], "failed": ["charge"], "skipped": ["ship"]});
    assert_eq!(fleet.outcomes(run).await, outcomes);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_no_condition_takes_fails_the_run() {
    let fleet = fleet_of(json!({"name": "w", "nodes": [failing("a"), task("b", "echo")],
        "edges": [{"from": "a", "to": "b", "on": "failure", "when": "error.name == 'other'"}]}))
    .await;
    let (state, error) = fleet.run("w", json!({"order": 1})).await;
    assert_eq!((state.as_str(), &error["name"]), ("failed", &json!("card_declined")));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_choose_and_skips_say_why() {
    let fleet = fleet_of(json!({"name": "w", "nodes": [task("a", "echo"), task("low", "echo"), task("high", "echo"), task("low2", "echo"),
            task("low3", "echo"), task("end", "echo"), task("onfail", "echo")],
        "edges": [{"from": "a", "to": "low", "when": "nodes.a.output.n < 10"}, {"from": "a", "to": "high", "when": "run.input.n >= 10"},
            ["low", "low2"], ["low2", "low3"], ["low3", "end"], ["high", "end"], {"from": "a", "to": "onfail", "on": "failure"}, ["onfail", "end"]]}))
    .await;
    let (run, output) = fleet.complete("w", json!({"n": 12})).await;
    assert_eq!(output, json!({"high": {"n": 12}}), "a join's input has its completed predecessors only");
    assert_eq!(fleet.reason(run, "low").await, "edge a -> low not taken: when `nodes.a.output.n < 10` is not true");
    assert_eq!(fleet.reason(run, "low2").await, "edge low -> low2 not taken: low was skipped");
    assert_eq!(fleet.reason(run, "low3").await, "edge low2 -> low3 not taken: low2 was skipped");
    assert_eq!(fleet.reason(run, "onfail").await, "edge a -> onfail not taken: on failure");
    let (run, _) = fleet.complete("w", json!({"n": 3})).await;
    assert_eq!(
        fleet.outcomes(run).await,
        json!({"completed": ["a", "end", "low", "low2", "low3"], "skipped": ["high", "onfail"]})
    );
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_that_cannot_be_evaluated_is_a_failure_of_its_step() {
    let definition = |name: &str, last: Value| {
        json!({"name": name, "nodes": [task("a", "echo"), task("b", "echo"), task("c", "echo")],
            "edges": [{"from": "a", "to": "b", "when": "run.input.n + 1 > 2"}, last]})
    };
    let mut fleet = TestFleet::publish([
        definition("plain", json!(["b", "c"])),
        definition("caught", json!({"from": "a", "to": "c", "on": "failure"})),
    ])
    .await;
    fleet.work(10).await;
    let (state, error) = fleet.run("plain", json!({"n": {}})).await;
    assert_eq!(state, "failed");
    assert_eq!((&error["name"], &error["node"]), (&json!("expression_failed"), &json!("a")));
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("a -> b") && message.contains("run.input.n + 1 > 2"), "{message}");
    let (run, output) = fleet.complete("caught", json!({"n": {}})).await;
    assert_eq!(output["c"]["name"], "expression_failed");
    assert_eq!(fleet.tries(run, "a").await, ["failed"]);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn terminate_ends_the_run_and_cancels_the_rest() {
    let definition = |name: &str, end: Value| {
        let end = with(json!({"id": "end", "type": "terminate"}), end);
        json!({"name": name, "nodes": [task("a", "echo"), task("slow", "gate"), task("hold", "gate"), end, task("never", "echo")],
            "edges": [["a", "slow"], ["a", "hold"], ["hold", "end"], ["slow", "never"]]})
    };
    let mut fleet = TestFleet::publish([
        definition("completed", json!({"state": "completed", "output": {"order": "{{ input.order }}"}})),
        definition(
            "failed",
            json!({"state": "failed", "error": {"name": "no_stock", "message": "order {{ run.input.order }}"}}),
        ),
        definition("canceled", json!({"state": "canceled"})),
    ])
    .await;
    let (gate, slow) = (Gate::default(), Gate::default());
    let by_node = {
        let (gate, slow) = (gate.clone(), slow.clone());
        move |step: Step, input: Value| {
            if step.node() == "hold" { gate.clone().pass(step, input) } else { slow.clone().pass(step, input) }
        }
    };
    fleet.add(fleet.worker().handler("gate", by_node).queue("default", Slots(10))).await;
    for (told, state) in (1..).zip(["completed", "failed", "canceled"]) {
        let run = fleet.start(state, json!({"order": 7})).await;
        gate.entered(told).await;
        slow.entered(told).await;
        gate.open(1);
        let (ended, value) = fleet.ended(run).await;
        assert_eq!(ended, state);
        slow.told(told).await;
        match state {
            "completed" => assert_eq!(value, json!({"order": 7})),
            "failed" => assert_eq!(
                (&value["name"], &value["message"], &value["node"]),
                (&json!("no_stock"), &json!("order 7"), &json!("end"))
            ),
            _ => assert_eq!(value, Value::Null),
        }
        fleet.until("select not exists (select from longshore.closed)").await;
        let outcomes = json!({"completed": ["a", "end", "hold"], "canceled": ["slow"]});
        assert_eq!(fleet.outcomes(run).await, outcomes, "{state}");
    }
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_run_cancels_what_runs_beside_the_failure() {
    let (fleet, gate) = gated(
        json!({"name": "w", "nodes": [task("a", "echo"), task("slow", "gate"), failing("b"), task("join", "echo"),
            {"id": "later", "type": "delay", "duration": "1h"}],
        "edges": [["a", "slow"], ["slow", "join"], ["b", "join"], ["a", "b"], ["a", "later"], ["later", "join"]]}),
    )
    .await;
    let run = fleet.start("w", json!({"order": 1})).await;
    let (state, error) = fleet.ended(run).await;
    assert_eq!((state.as_str(), &error["node"]), ("failed", &json!("b")));
    if gate.count() > 0 {
        gate.told(1).await;
    }
    fleet.until("select not exists (select from longshore.closed)").await;
    let outcomes = json!({"completed": ["a"], "canceled": ["later", "slow"], "failed": ["b"]});
    assert_eq!(fleet.outcomes(run).await, outcomes);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_of_all_is_skipped_only_when_nothing_was_taken() {
    let fleet = fleet_of(json!({"name": "w", "nodes": [task("a", "echo"), task("b", "echo"), task("c", "echo"), task("join", "echo"),
            task("after", "echo"), task("end", "echo")],
        "edges": [{"from": "a", "to": "b", "when": "run.input.b"}, {"from": "a", "to": "c", "when": "run.input.c"}, ["b", "join"], ["c", "join"],
            ["join", "after"], ["after", "end"], ["a", "end"]]}))
    .await;
    let (run, _) = fleet.complete("w", json!({"b": true})).await;
    assert_eq!(fleet.outcomes(run).await, json!({"completed": ["a", "after", "b", "end", "join"], "skipped": ["c"]}));
    let (run, output) = fleet.complete("w", json!({})).await;
    assert_eq!(output, json!({"a": {}}));
    assert_eq!(fleet.outcomes(run).await, json!({"completed": ["a", "end"], "skipped": ["after", "b", "c", "join"]}));
    assert_eq!(fleet.reason(run, "join").await, "too few in-edges of the join were taken");
    assert_eq!(fleet.reason(run, "after").await, "edge join -> after not taken: join was skipped");
    fleet.finish().await;
}

/// `a`, three gates beside each other, a join of this kind, and `z` behind it.
fn joined(join: Value, sink: bool) -> Value {
    let mut nodes = vec![
        task("a", "echo"),
        task("g1", "gate"),
        task("g2", "gate"),
        task("g3", "gate"),
        with(task("join", "echo"), json!({"join": join})),
    ];
    let mut edges =
        vec![json!(["a", "g1"]), json!(["a", "g2"]), json!({"from": "a", "to": "g3", "when": "not run.input.two"})];
    edges.extend(["g1", "g2", "g3"].map(|gate| json!([gate, "join"])));
    if !sink {
        nodes.push(task("z", "echo"));
        edges.push(json!(["join", "z"]));
    }
    json!({"name": "w", "nodes": nodes, "edges": edges})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_of_any_starts_with_the_first_and_the_run_ends_with_the_last() {
    for sink in [false, true] {
        let (fleet, gate) = gated(joined(json!("any"), sink)).await;
        let run = fleet.start("w", json!({})).await;
        gate.entered(3).await;
        gate.open(1);
        let last = if sink { "join" } else { "z" };
        fleet
            .until(&format!(
                "select exists (select from longshore.execution_step_attempts a join longshore.workflow_nodes n on n.node = a.node
                 where n.id = '{last}' and a.outcome = 1)"
            ))
            .await;
        let state: i16 = fleet.ask("select state from longshore.workflow_runs where run_id = $1", run).await;
        assert_eq!(state, 1, "two gates are still closed");
        gate.open(2);
        let (state, output) = fleet.ended(run).await;
        assert_eq!(state, "completed");
        assert_eq!(output.as_object().unwrap().len(), 1, "the join saw only what had completed: {output}");
        assert_eq!(fleet.tries(run, "join").await, ["completed"]);
        fleet.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_of_two_starts_with_the_second_taken_edge() {
    let (fleet, gate) = gated(joined(json!(2), false)).await;
    for (entered, two) in [(3, false), (5, true)] {
        let run = fleet.start("w", json!({"two": two})).await;
        gate.entered(entered).await;
        gate.open(1);
        fleet
            .until(
                "select exists (select from longshore.execution_step_attempts where node in (1, 2, 3) and outcome = 1)",
            )
            .await;
        assert!(fleet.tries(run, "join").await.is_empty());
        gate.open(1);
        fleet
            .until(&format!(
                "select exists (select from longshore.execution_step_attempts where run_id = '{run}' and node = 5 and outcome = 1)"
            ))
            .await;
        if !two {
            gate.open(1);
        }
        let (state, _) = fleet.ended(run).await;
        assert_eq!(state, "completed");
        assert_eq!(fleet.tries(run, "join").await, ["completed"]);
    }
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_join_is_skipped_when_too_few_edges_can_be_taken() {
    let definition = |name: &str, join: Value| {
        json!({"name": name, "nodes": [task("a", "echo"), task("b", "echo"), task("c", "echo"), with(task("join", "echo"), json!({"join": join})),
                task("z", "echo")],
            "edges": [{"from": "a", "to": "b", "when": "run.input.b"}, {"from": "a", "to": "c", "when": "run.input.c"}, ["b", "join"], ["c", "join"],
                ["join", "z"]]})
    };
    let mut fleet = TestFleet::publish([definition("any", json!("any")), definition("two", json!(2))]).await;
    fleet.work(10).await;
    let (run, output) = fleet.complete("any", json!({})).await;
    assert_eq!(
        (fleet.outcomes(run).await, output),
        (json!({"completed": ["a"], "skipped": ["b", "c", "join", "z"]}), Value::Null)
    );
    let (run, _) = fleet.complete("any", json!({"c": true})).await;
    assert_eq!(fleet.outcomes(run).await, json!({"completed": ["a", "c", "join", "z"], "skipped": ["b"]}));
    let (run, _) = fleet.complete("two", json!({"c": true})).await;
    assert_eq!(fleet.outcomes(run).await, json!({"completed": ["a", "c"], "skipped": ["b", "join", "z"]}));
    let (run, _) = fleet.complete("two", json!({"b": true, "c": true})).await;
    assert_eq!(fleet.outcomes(run).await, json!({"completed": ["a", "b", "c", "join", "z"]}));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_counts_failures_that_its_edges_take() {
    let fleet = fleet_of(
        json!({"name": "w", "nodes": [task("a", "echo"), failing("b"), task("c", "echo"), task("join", "echo")],
        "edges": [["a", "b"], ["a", "c"], {"from": "b", "to": "join", "on": "always"}, ["c", "join"]]}),
    )
    .await;
    let (run, output) = fleet.complete("w", json!({"order": 1})).await;
    assert_eq!(output, json!({"c": {"order": 1}}), "a failed predecessor has no output");
    assert_eq!(fleet.outcomes(run).await, json!({"completed": ["a", "c", "join"], "failed": ["b"]}));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_entries_and_sinks_begin_and_end_with_engine_steps() {
    let fleet = fleet_of(
        json!({"name": "w", "nodes": [task("a", "echo"), task("b", "echo"), task("c", "echo"), task("d", "echo")],
        "edges": [["a", "c"], {"from": "b", "to": "d", "when": "run.input.d"}]}),
    )
    .await;
    let (run, output) = fleet.complete("w", json!({"d": 1})).await;
    assert_eq!(output, json!({"c": {"d": 1}, "d": {"d": 1}}));
    let engine = "select array_agg(node order by finished_at, node desc) from longshore.execution_step_attempts where run_id = $1 and node < 0 and outcome = 1";
    assert_eq!(fleet.ask::<Vec<i32>>(engine, run).await, [-1, -2]);
    let (_, output) = fleet.complete("w", json!({"d": 0})).await;
    assert_eq!(output, json!({"c": {"d": 0}}), "a skipped sink has no output");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_output_template_reads_any_node() {
    let definition = |name: &str, nodes: Value, edges: Value| {
        json!({"name": name, "nodes": nodes, "edges": edges,
            "output": {"first": "{{ nodes.a.output.x }}", "why": "{{ nodes.b.error.name }}", "in": "{{ run.input }}"}})
    };
    let mut fleet = TestFleet::publish([
        definition(
            "one",
            json!([task("a", "echo"), failing("b"), task("c", "echo")]),
            json!([["a", "b"], {"from": "b", "to": "c", "on": "failure"}]),
        ),
        definition(
            "many",
            json!([task("a", "echo"), failing("b"), task("c", "echo"), task("d", "echo")]),
            json!([["a", "b"], {"from": "b", "to": "c", "on": "failure"}, ["a", "d"]]),
        ),
    ])
    .await;
    fleet.work(10).await;
    for workflow in ["one", "many"] {
        let (_, output) = fleet.complete(workflow, json!({"x": [1]})).await;
        assert_eq!(output, json!({"first": [1], "why": "card_declined", "in": {"x": [1]}}), "{workflow}");
    }
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_template_that_cannot_be_evaluated_fails_the_run() {
    let fleet = fleet_of(
        json!({"name": "w", "nodes": [task("a", "echo")], "edges": [], "output": "{{ nodes.a.output.n + 1 }}"}),
    )
    .await;
    let run = fleet.start("w", json!({"n": {}})).await;
    let (state, error) = fleet.ended(run).await;
    assert_eq!((state.as_str(), &error["name"]), ("failed", &json!("expression_failed")));
    assert_eq!(fleet.tries(run, "a").await, ["completed"], "the step itself did complete");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_follow_the_default_rules_unless_a_template_replaces_them() {
    let fleet = fleet_of(json!({"name": "w", "nodes": [task("entry", "echo"), set("one", json!({"one": "{{ input.x }}"})), set("two", json!(2)),
            task("join", "echo"), with(task("own", "echo"), json!({"input": {"sum": "{{ nodes.two.output + run.input.x }}"}}))],
        "edges": [["entry", "one"], ["entry", "two"], ["one", "join"], ["two", "join"], ["join", "own"]],
        "output": {"entry": "{{ nodes.entry.output }}", "join": "{{ nodes.join.output }}", "own": "{{ nodes.own.output }}"}}))
    .await;
    let (_, output) = fleet.complete("w", json!({"x": 5})).await;
    assert_eq!(output, json!({"entry": {"x": 5}, "join": {"one": {"one": 5}, "two": 2}, "own": {"sum": 7}}));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_and_outputs_larger_than_a_claim_carries_arrive_whole() {
    let fleet = fleet_of(json!({"name": "w", "nodes": [task("a", "echo"), task("b", "echo"),
            with(task("c", "echo"), json!({"input": {"again": "{{ run.input.text }}"}}))], "edges": [["a", "b"], ["b", "c"]]}))
    .await;
    let text: String = (0..100_000).map(|n| char::from(b'a' + ((n * 7 + n / 26) % 26) as u8)).collect();
    let (run, output) = fleet.complete("w", json!({"text": text})).await;
    assert_eq!(output["again"], json!(text));
    let same =
        "select count(*) from longshore.execution_step_attempts a join longshore.workflow_runs r on r.run_id = a.run_id
        where r.run_id = $1 and a.node in (0, 1) and a.output = r.input";
    assert_eq!(fleet.ask::<i64>(same, run).await, 2);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_queue_is_served_by_the_workers_that_name_it() {
    let mut fleet = TestFleet::publish([json!({"name": "w", "queue": "orders", "nodes": [task("a", "who"),
            with(task("b", "who"), json!({"queue": "warehouse"})), task("c", "who")], "edges": [["a", "b"], ["b", "c"]],
        "output": ["{{ nodes.a.output }}", "{{ nodes.b.output }}", "{{ nodes.c.output }}"]})])
    .await;
    let who = |name: &'static str| move |_: Step, _: Value| async move { Ok::<_, Failure>(name) };
    fleet.add(fleet.worker().handler("who", who("clerk")).queue("orders", Slots(2))).await;
    fleet.add(fleet.worker().handler("who", who("packer")).queue("warehouse", Slots(2))).await;
    let (_, output) = fleet.complete("w", json!({})).await;
    assert_eq!(output, json!(["clerk", "packer", "clerk"]));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_against_the_schema_fails_the_run_before_any_handler() {
    let schema = json!({"type": "object", "required": ["order"], "properties": {"order": {"type": "integer"}}});
    let definition = |name: &str, nodes: &[&str]| {
        let nodes: Vec<Value> = nodes.iter().map(|id| task(id, "gate")).collect();
        json!({"name": name, "input_schema": schema, "nodes": nodes, "edges": []})
    };
    let mut fleet = TestFleet::publish([definition("one", &["a"]), definition("many", &["a", "b"])]).await;
    let gate = Gate::default();
    fleet.add(fleet.worker().gate(&gate).queue("default", Slots(10))).await;
    for workflow in ["one", "many"] {
        let refused = fleet.enqueuer.start(workflow, &json!({"order": "seven"})).await.unwrap_err();
        assert!(matches!(&refused, longshore_enqueuer::Error::InputInvalid { .. }), "{refused}");
        assert_eq!(fleet.database.number("select count(*) from longshore.workflow_runs where state < 3").await, 0);
        let run: Uuid = sqlx::query_scalar("select longshore.start_run($1, '{\"order\": \"seven\"}')")
            .bind(workflow)
            .fetch_one(&fleet.database.pool)
            .await
            .unwrap();
        let (state, error) = fleet.ended(run).await;
        assert_eq!((state.as_str(), &error["name"]), ("failed", &json!("input_invalid")), "{workflow}");
        assert!(error["message"].as_str().unwrap().contains("input/order"), "{error}");
    }
    assert_eq!(gate.count(), 0, "no handler ran");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_against_the_schema_is_found_by_a_later_try_as_well() {
    let mut fleet =
        TestFleet::publish([json!({"name": "w", "input_schema": {"type": "object", "required": ["order"]},
        "nodes": [task("a", "gate")], "edges": []})])
        .await;
    let run: Uuid =
        sqlx::query_scalar("select longshore.start_run('w', '{}')").fetch_one(&fleet.database.pool).await.unwrap();
    // as if a worker had been killed between its claim and the check
    fleet
        .database
        .execute(
            "insert into longshore.execution_step_attempts (shard, run_id, frame, node, attempt, outcome, lane_id, claimed_at, finished_at, error)
             select shard, run_id, 0, node, 1, 3, 1, now(), now(), '{\"name\": \"lost\", \"details\": {\"alone\": false}}' from longshore.step_ready;
             update longshore.step_ready set attempt = 2, priority = priority + 16",
        )
        .await;
    let gate = Gate::default();
    gate.open(1);
    fleet.add(fleet.worker().gate(&gate).queue("default", Slots(10))).await;
    let (state, error) = fleet.ended(run).await;
    assert_eq!((state.as_str(), &error["name"]), ("failed", &json!("input_invalid")));
    assert_eq!(gate.count(), 0, "no handler ran");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_slot_the_smaller_priority_goes_first_and_then_the_older() {
    let mut fleet = TestFleet::publish([chain("w", 1)]).await;
    let mut expected = Vec::new();
    for (order, priority) in [3, 1, 0, 2, 0, 3].into_iter().enumerate() {
        fleet.enqueuer.start("w", &json!({"order": order})).priority(priority).await.unwrap();
        expected.push((priority, order as i64));
    }
    expected.sort_unstable();
    fleet.work(1).await;
    fleet.all_ended().await;
    let sql = "select r.priority, (r.input ->> 'order')::bigint from longshore.execution_step_attempts a
        join longshore.workflow_runs r on r.run_id = a.run_id order by a.claimed_at";
    let found: Vec<(i16, i64)> = sqlx::query_as(sql).fetch_all(&fleet.database.pool).await.unwrap();
    assert_eq!(found, expected);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_begins_at_its_run_at() {
    let fleet = fleet_of(chain("w", 2)).await;
    let at = Utc::now() + TimeDelta::milliseconds(500);
    let run = fleet.enqueuer.start("w", &json!({})).run_at(at).await.unwrap().id;
    assert_eq!(fleet.ended(run).await.0, "completed");
    let begun = "select min(a.claimed_at - r.run_at) between interval '0 s' and interval '2 s' from longshore.execution_step_attempts a
        join longshore.workflow_runs r on r.run_id = a.run_id where r.run_id = $1";
    assert!(fleet.ask::<bool>(begun, run).await, "begun at the time and soon after it");
    let past = fleet.enqueuer.start("w", &json!({})).run_at(Utc::now() - TimeDelta::days(1)).await.unwrap().id;
    assert_eq!(fleet.ended(past).await.0, "completed");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_learn_of_their_step_and_its_key() {
    let mut fleet = TestFleet::publish([
        json!({"name": "w", "nodes": [with(task("a", "facts"), json!({"timeout": "20s"}))], "edges": []}),
    ])
    .await;
    let facts = async |step: Step, _: Value| {
        let left = step.deadline().saturating_duration_since(tokio::time::Instant::now());
        let in_time = left > Duration::from_secs(10) && left <= Duration::from_secs(20);
        Ok::<_, Failure>(
            json!({"run": step.run_id(), "node": step.node(), "attempt": step.attempt(), "frame": step.frame(),
            "workflow": step.workflow(), "key": step.idempotency_key(), "in_time": in_time, "canceled": step.is_canceled()}),
        )
    };
    fleet.add(fleet.worker().handler("facts", facts)).await;
    let (run, output) = fleet.complete("w", json!({})).await;
    let expected = json!({"run": run, "node": "a", "attempt": 1, "frame": 0, "workflow": "w", "key": format!("{run}/0/a"), "in_time": true, "canceled": false});
    assert_eq!(output, expected);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_joins_over_two_workers_keep_their_order() {
    let (layers, width) = (8, 8);
    let name = |layer: usize, place: usize| format!("l{layer}-{place}");
    let nodes: Vec<Value> = (0..layers)
        .flat_map(|layer| {
            (0..width).map(move |place| with(task(&name(layer, place), "echo"), json!({"input": "{{ run.input }}"})))
        })
        .collect();
    let mut edges = Vec::new();
    for layer in 1..layers {
        for (from, to) in (0..width).flat_map(|from| (0..width).map(move |to| (from, to))) {
            if (from + to + layer) % 3 != 0 {
                edges.push(json!([name(layer - 1, from), name(layer, to)]));
            }
        }
    }
    let mut fleet = TestFleet::publish([json!({"name": "w", "nodes": nodes, "edges": edges, "output": "done"})]).await;
    fleet.work(7).await;
    fleet.work(7).await;
    let mut runs = Vec::new();
    for n in 0..10 {
        runs.push(fleet.start("w", json!({"n": n})).await);
    }
    for run in runs {
        assert_eq!(fleet.ended(run).await, ("completed".to_owned(), json!("done")));
    }
    let completed =
        "select count(*) from longshore.execution_step_attempts where node >= 0 and outcome = 1 and attempt = 1";
    assert_eq!(fleet.database.number(completed).await, (10 * layers * width) as i64);
    fleet.finish().await;
}
