#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Value, json};

use super::*;
use crate::definition::Definition;
use crate::graph::{END, NodeKind, START};

fn graph(definition: &Value) -> Graph {
    match Definition::from_json(definition) {
        Ok(definition) => Graph::compile(&definition).unwrap(),
        Err(problems) => panic!("{problems}"),
    }
}

fn payload(value: &Value) -> Payload {
    Payload::of(value).unwrap()
}

fn values(input: &Value) -> Values {
    Values::new(Arc::new(RunFacts {
        run_id: Uuid::nil(),
        workflow: Arc::from("w"),
        version: 2,
        key: Some("k-1".to_owned()),
        parent: None,
        input: payload(input),
        mocks: None,
    }))
}

fn with(input: &Value, results: &[(NodeNumber, Value)]) -> Values {
    let mut values = values(input);
    for (number, output) in results {
        values.results.insert(*number, NodeResult::Completed(payload(output)));
    }
    values
}

fn task(id: &str) -> Value {
    json!({"id": id, "type": "task", "handler": "h"})
}

/// a and b lead to c; c leads to d on success and to e on failure.
fn diamond() -> Graph {
    graph(
        &json!({"name": "w", "queue": "q", "nodes": [task("a"), task("b"), task("c"), task("d"), task("e")], "edges": [
            ["a", "c"], ["b", "c"], ["c", "d"], {"from": "c", "to": "e", "on": "failure", "when": "nodes.a.output.x or run.input"},
        ]}),
    )
}

#[test]
fn the_shape_is_known() {
    let graph = diamond();
    assert_eq!((graph.entries(), graph.sinks(), graph.first_node()), ([0, 1].as_slice(), [3, 4].as_slice(), START));
    assert_eq!(graph.join(2), Some(crate::graph::Join { indegree: 2, need: 0 }));
    assert_eq!(graph.bodies()[0].end_join(), Some(crate::graph::Join { indegree: 2, need: -1 }));
    assert_eq!((graph.join(0), graph.join(3), graph.join(99)), (None, None, None));
    assert!(graph.bodies()[0].end_needed() && !graph.is_chain());
    assert_eq!(graph.queues().iter().map(|queue| &**queue).collect::<Vec<_>>(), ["q"]);
    assert_eq!((graph.number("e"), graph.number("z"), graph.id(4), graph.id(END)), (Some(4), None, "e", "end"));
    let chain = graph_of_chain();
    assert!(
        chain.is_chain()
            && !chain.bodies()[0].end_needed()
            && chain.first_node() == 0
            && chain.bodies()[0].end_join().is_none()
    );
    let NodeKind::Task { timeout, .. } = &chain.node(0).unwrap().kind else { panic!() };
    assert_eq!(*timeout, crate::definition::DEFAULT_TIMEOUT);
}

fn graph_of_chain() -> Graph {
    graph(&json!({"name": "w", "nodes": [task("a"), task("b"), task("c")], "edges": [["a", "b"], ["b", "c"]]}))
}

#[test]
fn one_sink_that_is_an_early_join_needs_an_end() {
    let graph = graph(
        &json!({"name": "w", "nodes": [task("a"), task("b"), {"id": "c", "type": "task", "handler": "h", "join": "any"}],
        "edges": [["a", "c"], ["b", "c"]]}),
    );
    assert_eq!(graph.bodies()[0].end_join().map(|join| join.indegree), Some(2));
    assert!(graph.join(2).unwrap().fires_early());
}

#[test]
fn needs_name_what_is_read_and_not_the_node_itself() {
    let graph = diamond();
    let needs = |number: NodeNumber| graph.node(number).unwrap().needs().clone();
    assert_eq!(needs(0), crate::graph::Needs { run_input: true, run_context: false, nodes: vec![] });
    // Its predecessors for its input, `a` and the run's input for the condition of its edge.
    assert_eq!(needs(2), crate::graph::Needs { run_input: true, run_context: false, nodes: vec![0, 1] });
    assert_eq!(needs(3), crate::graph::Needs { run_input: false, run_context: false, nodes: vec![2] });
    assert_eq!(
        graph.bodies()[0].end_needs(),
        &crate::graph::Needs { run_input: false, run_context: false, nodes: vec![3, 4] }
    );

    let graph = self::graph(&json!({"name": "w", "output": "{{ nodes.b.output }}", "nodes": [task("a"), task("b"),
        {"id": "c", "type": "set", "input": null, "output": "{{ error.name }} {{ nodes.a.output }}"}],
        "edges": [["a", "b"], {"from": "b", "to": "c", "on": "always", "when": "nodes.b.output.go"}]}));
    assert_eq!(graph.node(2).unwrap().needs().nodes, [0, 1]);
    assert_eq!(graph.node(1).unwrap().needs().nodes, [0]);
    assert_eq!(graph.bodies()[0].end_needs().nodes, [1]);
}

#[test]
fn default_inputs_are_passed_on_verbatim() {
    let graph = diamond();
    let mut values = with(&json!({"in": 1}), &[(0, json!({"x": 0})), (1, json!([2])), (2, json!("c"))]);
    assert_eq!(graph.input(0, &values).unwrap().as_str(), r#"{"in":1}"#);
    assert_eq!(graph.input(2, &values).unwrap().as_str(), r#"{"a":{"x":0},"b":[2]}"#);
    assert_eq!(graph.input(3, &values).unwrap().as_str(), r#""c""#);
    values.results.remove(&0);
    assert_eq!(graph.input(2, &values).unwrap().as_str(), r#"{"b":[2]}"#);
    let error = StepError::permanent("declined", "no");
    values.results.insert(2, NodeResult::Failed(error.to_payload()));
    assert_eq!(StepError::from_payload(&graph.input(4, &values).unwrap()), error);
    assert_eq!(graph.input(START, &values).unwrap(), Payload::null());
}

#[test]
fn two_edges_of_one_predecessor_pass_its_output() {
    let graph = graph(&json!({"name": "w", "nodes": [task("a"), task("b")],
        "edges": [["a", "b"], {"from": "a", "to": "b", "on": "failure"}]}));
    let values = with(&json!(null), &[(0, json!(5))]);
    assert_eq!(graph.input(1, &values).unwrap().as_str(), "5");
    assert_eq!(graph.join(1).map(|join| join.indegree), Some(2));
}

#[test]
fn outputs_of_a_run_come_from_sinks_or_the_template() {
    let graph = diamond();
    let values = with(&json!(null), &[(0, json!(0)), (3, json!({"d": 1}))]);
    assert_eq!(graph.body_output(0, &values).unwrap().as_str(), r#"{"d":{"d":1}}"#);
    let chain = graph_of_chain();
    assert_eq!(chain.body_output(0, &with(&json!(null), &[(2, json!("last"))])).unwrap().as_str(), r#""last""#);
    assert_eq!(chain.body_output(0, &with(&json!(null), &[])).unwrap(), Payload::null());
    let graph = self::graph(
        &json!({"name": "w", "nodes": [task("a")], "output": {"k": "{{ run.key }}", "v": "{{ run.version }}",
        "id": "{{ run.id }}", "w": "{{ run.workflow }}", "a": "{{ nodes.a.output.x }}", "e": "{{ nodes.a.error }}"}}),
    );
    let output = graph.body_output(0, &with(&json!(null), &[(0, json!({"x": [1]}))])).unwrap().value();
    let id = "00000000-0000-0000-0000-000000000000";
    assert_eq!(output, json!({"k": "k-1", "v": 2, "id": id, "w": "w", "a": [1], "e": null}));
}

#[test]
fn the_engines_own_nodes_are_evaluated() {
    let graph = graph(&json!({"name": "w", "nodes": [
        {"id": "set", "type": "set", "input": {"n": "{{ run.input.n }}"}, "output": {"twice": "{{ input.n * 2 }}", "c": 1}},
        {"id": "for", "type": "delay", "duration": "{{ nodes.set.output.twice }}s"},
        {"id": "until", "type": "delay", "until": "{{ input.at }}"},
        {"id": "fail", "type": "fail", "name": "too_{{ input.what }}", "message": "got {{ input }}"},
        {"id": "stop", "type": "terminate", "state": "failed", "error": {"name": "{{ error.name }}", "message": "it said: {{ error.message }}"}},
        {"id": "done", "type": "terminate", "state": "completed", "output": ["{{ input }}"]},
    ], "edges": [["set", "for"], {"from": "fail", "to": "stop", "on": "failure"}]}));
    let mut values = with(&json!({"n": 4, "at": "2030-01-31T08:00:00+01:00", "what": "big"}), &[]);
    let input = graph.input(0, &values).unwrap();
    let output = graph.set_output(0, &values, &input).unwrap();
    assert_eq!(output.value(), json!({"twice": 8, "c": 1}));
    values.results.insert(0, NodeResult::Completed(output));
    assert_eq!(graph.delay(1, &values), Ok(Delay::For(Duration::from_secs(8))));
    let Ok(Delay::Until(time)) = graph.delay(2, &values) else { panic!() };
    assert_eq!(time.to_rfc3339(), "2030-01-31T07:00:00+00:00");
    let error = graph.failure(3, &values).unwrap();
    assert_eq!((error.name.as_str(), error.kind), ("too_big", crate::error::ErrorKind::Permanent));
    assert!(error.message.starts_with("got {\"at\":"), "{}", error.message);
    values.results.insert(3, NodeResult::Failed(error.to_payload()));
    let stop = graph.termination(4, &values).unwrap();
    assert_eq!((stop.state, stop.output), (RunState::Failed, Payload::null()));
    let stopped = stop.error.unwrap();
    assert_eq!((stopped.name.as_str(), stopped.node.as_deref()), ("too_big", Some("stop")));
    assert!(stopped.message.starts_with("it said: got {"));
    let done = graph.termination(5, &values).unwrap();
    assert_eq!((done.state, done.error), (RunState::Completed, None));
    assert_eq!(done.output.value()[0]["n"], 4);

    // What the templates give may be wrong; each method refuses nodes of another type.
    values.run = with(&json!({"n": "x", "at": "soon"}), &[]).run;
    assert!(
        graph.set_output(0, &values, &graph.input(0, &values).unwrap()).unwrap_err().message.contains("input.n * 2")
    );
    assert_eq!(graph.delay(2, &values).unwrap_err().name, DELAY_INVALID);
    values.results.insert(0, NodeResult::Completed(payload(&json!({"twice": "1h"}))));
    assert_eq!(graph.delay(1, &values).unwrap_err().name, DELAY_INVALID);
    assert!(graph.failure(0, &values).unwrap_err().message.contains("is of type set, not fail"));
    assert!(graph.delay(77, &values).is_err() && graph.termination(0, &values).is_err());
}

#[test]
fn inputs_are_checked_against_the_schema() {
    let graph = graph(&json!({"name": "w", "nodes": [task("a")], "input_schema": {
        "type": "object", "required": ["order"], "properties": {"order": {"type": "object", "properties": {"id": {"type": "integer"}}}}
    }}));
    assert_eq!(graph.check_input(&payload(&json!({"order": {"id": 1}}))), Ok(()));
    let error = graph.check_input(&payload(&json!({"order": {"id": "x"}}))).unwrap_err();
    assert_eq!(error.name, INPUT_INVALID);
    assert!(error.message.contains("input/order/id") && error.message.contains("integer"), "{error}");
    let error = graph.check_input(&payload(&json!({}))).unwrap_err();
    assert!(error.message.starts_with("input: ") && error.details.is_some(), "{error}");
    let deep = Payload::trusted(Arc::from(format!("{}1{}", "[".repeat(200), "]".repeat(200))));
    assert!(graph.check_input(&deep).unwrap_err().message.contains("cannot be read"));
    assert!(graph_of_chain().check_input(&deep).is_ok());
}
