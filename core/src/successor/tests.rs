#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod interpreter;

use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::definition::Definition;
use crate::graph::RunFacts;

fn graph(definition: &Value) -> Graph {
    Graph::compile(&Definition::from_json(definition).unwrap_or_else(|problems| panic!("{problems}"))).unwrap()
}

fn tasks(ids: &[&str], edges: &Value) -> Graph {
    let nodes: Vec<_> = ids.iter().map(|id| json!({"id": id, "type": "task", "handler": "h"})).collect();
    graph(&json!({"name": "w", "nodes": nodes, "edges": edges}))
}

fn values(input: &Value) -> Values {
    Values::new(Arc::new(RunFacts {
        run_id: Uuid::nil(),
        workflow: Arc::from("w"),
        version: 1,
        key: None,
        parent: None,
        input: Payload::of(input).unwrap(),
        mocks: None,
    }))
}

fn after(graph: &Graph, id: &str, ending: Ending<'_>) -> Consequences {
    successor(graph, graph.number(id).unwrap(), ending, &values(&json!({"n": 1}))).unwrap()
}

fn arrival(node: NodeNumber, resolved: i32, taken: i32) -> Arrival {
    Arrival { node, resolved, taken }
}

#[test]
fn a_chain_goes_on_and_its_last_node_ends_the_run() {
    let graph = tasks(&["a", "b"], &json!([["a", "b"]]));
    let output = Payload::null();
    let next = after(&graph, "a", Ending::Completed(&output));
    assert_eq!(next, Consequences { ready: vec![1], ..Consequences::default() });
    let next = after(&graph, "b", Ending::Completed(&output));
    assert_eq!(next, Consequences { end: Some(BodyEnd::Completed), ..Consequences::default() });
}

#[test]
fn a_failure_takes_its_edge_and_skips_the_others_up_to_the_join() {
    let graph = tasks(
        &["charge", "ship", "pack", "refund", "done"],
        &json!([["charge", "ship"], ["ship", "pack"], {"from": "charge", "to": "refund", "on": "failure"}, ["pack", "done"], ["refund", "done"]]),
    );
    let error = StepError::permanent("declined", "no");
    let next = after(&graph, "charge", Ending::GaveUp(&error));
    assert_eq!(next.ready, [3]);
    assert_eq!(next.arrivals, [arrival(4, 1, 0)]);
    let reasons: Vec<_> = next.skips.iter().map(|skip| (skip.node, skip.reason.as_str())).collect();
    assert_eq!(
        reasons,
        [(1, "edge charge -> ship not taken: on success"), (2, "edge ship -> pack not taken: ship was skipped")]
    );
    let output = Payload::null();
    let next = after(&graph, "charge", Ending::Completed(&output));
    assert_eq!((next.ready.as_slice(), next.arrivals.as_slice()), ([1].as_slice(), [arrival(4, 1, 0)].as_slice()));
    assert_eq!(next.skips[0].reason, "edge charge -> refund not taken: on failure");
}

#[test]
fn a_failure_no_edge_takes_fails_the_run_and_nothing_else() {
    let graph = tasks(
        &["a", "b", "c"],
        &json!([["a", "b"], {"from": "a", "to": "c", "on": "failure", "when": "error.name == 'late'"}]),
    );
    let error = StepError::permanent("early", "no");
    let next = after(&graph, "a", Ending::GaveUp(&error));
    assert_eq!(next, Consequences { end: Some(BodyEnd::Failed(error)), ..Consequences::default() });
    let late = StepError::permanent("late", "no");
    let next = after(&graph, "a", Ending::GaveUp(&late));
    assert_eq!((next.ready.as_slice(), next.end.as_ref()), ([2].as_slice(), None));
    assert_eq!(next.arrivals, [arrival(END, 1, 0)]);
}

#[test]
fn conditions_see_the_nodes_own_output() {
    let graph = tasks(
        &["a", "b", "c"],
        &json!([{"from": "a", "to": "b", "when": "nodes.a.output.n > run.input.n"},
                {"from": "a", "to": "c", "on": "always", "when": "nodes.a.output.n == 1 and error is none"}]),
    );
    let output = Payload::of(&json!({"n": 1})).unwrap();
    let next = after(&graph, "a", Ending::Completed(&output));
    assert_eq!(next.ready, [2]);
    assert_eq!(next.skips[0].reason, "edge a -> b not taken: when `nodes.a.output.n > run.input.n` is not true");
}

#[test]
fn a_condition_that_fails_is_an_error_naming_edge_and_expression() {
    let graph = tasks(
        &["a", "b", "c"],
        &json!([{"from": "a", "to": "b", "when": "nodes.a.output + 1 > 2"}, {"from": "a", "to": "c", "on": "failure"}]),
    );
    let output = Payload::of("text").unwrap();
    let error = successor(&graph, 0, Ending::Completed(&output), &values(&json!(1))).unwrap_err();
    assert_eq!((error.name.as_str(), error.node.as_deref()), (crate::error::EXPRESSION_FAILED, Some("a")));
    assert!(error.message.starts_with("edge a -> b: expression `nodes.a.output + 1 > 2` failed"), "{error}");
    let next = successor(&graph, 0, Ending::GaveUp(&error), &values(&json!(1))).unwrap();
    assert_eq!(next.ready, [2]);
}

#[test]
fn tokens_for_joins_are_added_up_and_sorted() {
    let graph = graph(&json!({"name": "w", "nodes": [
        {"id": "a", "type": "task", "handler": "h"}, {"id": "j", "type": "task", "handler": "h", "join": 2},
        {"id": "k", "type": "task", "handler": "h"}, {"id": "b", "type": "task", "handler": "h"},
    ], "edges": [["a", "k"], ["b", "k"], ["a", "j"], {"from": "a", "to": "j", "on": "failure"}, {"from": "a", "to": "j", "on": "always"}]}));
    assert_eq!(after(&graph, "a", Ending::Completed(&Payload::null())).arrivals, [arrival(1, 3, 2), arrival(2, 1, 1)]);
    // j and k are sinks and j fires early.
    assert_eq!(graph.bodies()[0].end_join().unwrap().indegree, 3);
    assert_eq!(after(&graph, "j", Ending::Completed(&Payload::null())).arrivals, [arrival(END, 1, 1)]);
    assert_eq!(after(&graph, "j", Ending::Skipped).arrivals, [arrival(END, 1, 0)]);
    assert_eq!(after(&graph, "j", Ending::Rested).arrivals, [arrival(END, 1, 0)]);
    assert_eq!(after(&graph, "a", Ending::Started).ready, [0, 3]);
}

#[test]
fn skipping_goes_deep_without_a_deep_stack() {
    let count = 20_000_usize;
    let ids: Vec<_> = (0..count).map(|n| format!("n{n}")).collect();
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    let mut edges: Vec<_> = (1..count).map(|n| json!([ids[n - 1], ids[n]])).collect();
    edges[0] = json!({"from": "n0", "to": "n1", "when": "false"});
    let graph = tasks(&ids, &json!(edges));
    let next = after(&graph, "n0", Ending::Completed(&Payload::null()));
    assert_eq!((next.skips.len(), next.end), (count - 1, Some(BodyEnd::Completed)));
}

#[test]
fn unknown_nodes_have_no_consequences() {
    let graph = tasks(&["a"], &json!([]));
    let output = Payload::null();
    for node in [END, 5, NodeNumber::MIN] {
        let next = successor(&graph, node, Ending::Completed(&output), &values(&json!(1))).unwrap();
        assert_eq!(next, Consequences::default());
    }
}

/// Prints what a hop costs: `cargo test --release -p longshore-core hop_cost -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a check"]
fn hop_cost() {
    let graph = tasks(&["a", "b", "c"], &json!([["a", "b"], ["b", "c"]]));
    let mut values = values(&json!({"n": 1}));
    let output = Payload::of(&json!({"ok": true, "n": 12345})).unwrap();
    values.results.insert(0, NodeResult::Completed(output.clone()));
    let rounds = 1_000_000_u32;
    let measure = |name: &str, work: &mut dyn FnMut()| {
        let started = std::time::Instant::now();
        for _ in 0..rounds {
            work();
        }
        let text = format!("{name}: {:?}\n", started.elapsed() / rounds);
        std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes()).unwrap();
    };
    measure("successor", &mut || {
        std::hint::black_box(successor(&graph, 1, Ending::Completed(&output), &values).unwrap());
    });
    measure("input", &mut || {
        std::hint::black_box(graph.input(1, &values).unwrap());
    });
    let receipt = json!({"ok": true, "n": 12345});
    measure("payload of a json value", &mut || {
        std::hint::black_box(Payload::of(&receipt).unwrap());
    });
    let input = "x".repeat(180);
    let text = format!("{{\"order\": \"{input}\"}}");
    measure("payload from 200 bytes of text", &mut || {
        std::hint::black_box(Payload::from_text(&text).unwrap());
    });
    let conditional = tasks(&["a", "b"], &json!([{"from": "a", "to": "b", "when": "nodes.a.output.n > 3"}]));
    measure("successor with a condition", &mut || {
        std::hint::black_box(successor(&conditional, 0, Ending::Completed(&output), &values).unwrap());
    });
}
