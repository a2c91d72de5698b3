#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod blocks;

use serde_json::{Value, json};

use crate::definition::{Definition, EdgeDefinition, JoinRule, NodeDefinition, NodeType, On, Problems};
use crate::graph::Graph;

fn problems(definition: &Value) -> Problems {
    match Definition::from_json(definition) {
        Ok(_) => panic!("it was accepted: {definition}"),
        Err(problems) => problems,
    }
}

/// A definition of tasks with these ids, in which `over` replaces fields.
fn tasks(ids: &[&str], over: &Value) -> Value {
    let nodes: Vec<_> = ids.iter().map(|id| json!({"id": id, "type": "task", "handler": "h"})).collect();
    let mut definition = json!({"name": "w", "nodes": nodes, "edges": []});
    for (key, value) in over.as_object().unwrap() {
        definition[key] = value.clone();
    }
    definition
}

fn one(node: &Value) -> Value {
    json!({"name": "w", "nodes": [node]})
}

#[test]
fn every_mistake_is_told_with_its_path() {
    let long = "x".repeat(129);
    let t = |over: Value| {
        let mut node = json!({"id": "a", "type": "task", "handler": "h"});
        for (key, value) in over.as_object().unwrap() {
            node[key] = value.clone();
        }
        one(&node)
    };
    let w = |over: Value| {
        let mut node = json!({"id": "a", "type": "wait"});
        node.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
        one(&node)
    };
    let e = |edges: Value| tasks(&["a", "b", "c"], &json!({"edges": edges}));
    for (definition, path, message) in [
        // The whole.
        (json!([]), "", "it is no object"),
        (json!({}), "name", "missing"),
        (json!({"name": "w"}), "nodes", "no node"),
        (json!({"name": "w", "nodes": {}}), "nodes", "no list"),
        (json!({"name": "w", "nodes": [], "edges": 1}), "edges", "no list"),
        (json!({"name": 5, "nodes": []}), "name", "`5` is no text"),
        (tasks(&["a"], &json!({"name": "no spaces"})), "name", "`no spaces` is no name"),
        (tasks(&["a"], &json!({"name": long})), "name", "is no name"),
        (tasks(&["a"], &json!({"queue": "a b"})), "queue", "is no name"),
        (tasks(&["a"], &json!({"colour": 1})), "colour", "no such field"),
        (tasks(&["a"], &json!({"description": "a\u{0}b"})), "", "cannot be stored"),
        (tasks(&["a"], &json!({"input_schema": {"type": "nothing"}})), "input_schema", "nothing"),
        (tasks(&["a"], &json!({"input_schema": {"$ref": "https://example.com/x.json"}})), "input_schema", ""),
        (tasks(&["a"], &json!({"input_schema": {"pattern": "(?=x)"}})), "input_schema", ""),
        (tasks(&["a"], &json!({"input_schema": doubling(20)})), "input_schema", "more than 10000 times"),
        (tasks(&["a"], &json!({"output": "{{ nodes.z.output }}"})), "output", "does not exist"),
        (tasks(&["a"], &json!({"output": {"x": ["{{ error }}"]}})), "output.x[0]", "`error` is not known here"),
        (tasks(&["a"], &json!({"output": "{{ input }}"})), "output", "`input` is not known here"),
        // Nodes.
        (json!({"name": "w", "nodes": [1]}), "nodes[0]", "no object"),
        (one(&json!({"type": "task", "handler": "h"})), "nodes[0].id", "missing"),
        (one(&json!({"id": "", "type": "task", "handler": "h"})), "nodes[0].id", "empty"),
        (one(&json!({"id": "a b", "type": "task", "handler": "h"})), "nodes[0].id", "`a b` is no id"),
        (one(&json!({"id": "é", "type": "task", "handler": "h"})), "nodes[0].id", "is no id"),
        (tasks(&["a", "a"], &json!({})), "nodes[1].id", "nodes[0] has the id `a` already"),
        (one(&json!({"id": "a"})), "nodes[0].type", "missing"),
        (one(&json!({"id": "a", "type": "magic"})), "nodes[0].type", "no such node type"),
        (one(&json!({"id": "a", "type": "task"})), "nodes[0].handler", "missing"),
        (t(json!({"handler": ""})), "nodes[0].handler", "empty"),
        (t(json!({"handler": "a\nb"})), "nodes[0].handler", "no handler name"),
        (t(json!({"output": 1})), "nodes[0].output", "no such field"),
        (t(json!({"priority": 1})), "nodes[0].priority", "no such field"),
        (t(json!({"timeout": 30})), "nodes[0].timeout", "`30` is no text"),
        (t(json!({"timeout": "30"})), "nodes[0].timeout", "unit is missing"),
        (t(json!({"timeout": "0s"})), "nodes[0].timeout", "zero"),
        (t(json!({"timeout": "200y"})), "nodes[0].timeout", "no duration"),
        (t(json!({"queue": "?"})), "nodes[0].queue", "no name"),
        (t(json!({"join": "some"})), "nodes[0].join", "no such join"),
        (t(json!({"join": 0})), "nodes[0].join", "no such join"),
        (t(json!({"join": -1})), "nodes[0].join", "no such join"),
        (t(json!({"join": {"n": 2}})), "nodes[0].join", "waits for 2 edges, but 0 lead"),
        (t(json!({"retry": 3})), "nodes[0].retry", "no object"),
        (t(json!({"retry": {"max_attempts": 0}})), "nodes[0].retry.max_attempts", "out of range"),
        (t(json!({"retry": {"max_attempts": "3"}})), "nodes[0].retry.max_attempts", "no whole number"),
        (t(json!({"retry": {"max_attempts": 1.5}})), "nodes[0].retry.max_attempts", "no whole number"),
        (t(json!({"retry": {"initial": "1x"}})), "nodes[0].retry.initial", "no duration"),
        (t(json!({"retry": {"factor": 0.1}})), "nodes[0].retry.factor", "out of range"),
        (t(json!({"retry": {"jitter": 2}})), "nodes[0].retry.jitter", "out of range"),
        (t(json!({"retry": {"initial": "1m", "max": "1s"}})), "nodes[0].retry.max", "shorter than `initial`"),
        (t(json!({"retry": {"retry_on": []}})), "nodes[0].retry.retry_on", "empty"),
        (t(json!({"retry": {"retry_on": [1]}})), "nodes[0].retry.retry_on", "no list of texts"),
        (t(json!({"retry": {"tries": 1}})), "nodes[0].retry.tries", "no such field"),
        (t(json!({"retry": []})), "nodes[0].retry", "empty"),
        (t(json!({"retry": [{"retry_on": ["a"]}, 3]})), "nodes[0].retry[1]", "no object"),
        (t(json!({"retry": [{"retry_on": ["a"], "jitter": 2}, {}]})), "nodes[0].retry[0].jitter", "out of range"),
        (t(json!({"retry": [{}, {"retry_on": ["a"]}]})), "nodes[0].retry[0]", "takes every failure"),
        (t(json!({"input": {"x": "{{ 1 + }}"}})), "nodes[0].input.x", "expected a value"),
        (t(json!({"input": "{{ nodes.a.output }}"})), "nodes[0].input", "`a` does not run before `a`"),
        (t(json!({"input": "{{ input }}"})), "nodes[0].input", "`input` is not known here"),
        (t(json!({"input": "{{ error }}"})), "nodes[0].input", "entry node"),
        (t(json!({"input": "{{ nodes[run.input].output }}"})), "nodes[0].input", "computed reference"),
        (one(&json!({"id": "a", "type": "set"})), "nodes[0].output", "missing"),
        (one(&json!({"id": "a", "type": "delay"})), "nodes[0].duration", "missing"),
        (one(&json!({"id": "a", "type": "delay", "duration": "soon"})), "nodes[0].duration", "no duration"),
        (one(&json!({"id": "a", "type": "delay", "until": "2030-01-01"})), "nodes[0].until", "is no time"),
        (one(&json!({"id": "a", "type": "delay", "until": "2030-01-01T00:00:00"})), "nodes[0].until", "is no time"),
        (one(&json!({"id": "a", "type": "delay", "duration": "1s", "until": "x"})), "nodes[0].until", "as well"),
        (w(json!({})), "nodes[0].signal", "missing"),
        (w(json!({"signal": ""})), "nodes[0].signal", "no name of a signal"),
        (w(json!({"signal": "s", "signals": ["t"]})), "nodes[0].signals", "as well"),
        (w(json!({"signals": []})), "nodes[0].signals", "there are 0"),
        (w(json!({"signals": ["s", "x".repeat(257)]})), "nodes[0].signals[1]", "no name of a signal"),
        (w(json!({"signal": "s", "timeout": "soon"})), "nodes[0].timeout", "no duration"),
        (w(json!({"signal": "s", "timeout": "0s"})), "nodes[0].timeout", "zero"),
        (w(json!({"signal": "s", "match": "{{ true }}"})), "nodes[0].match", "bare expression"),
        (w(json!({"signal": "s", "match": "signal.id == 1"})), "nodes[0].match", "followed by .name or .payload"),
        (w(json!({"signal": "s", "match": "input"})), "nodes[0].match", "`input` is not known here"),
        (w(json!({"signal": "s", "schema": {"type": 1}})), "nodes[0].schema", "is not valid"),
        (w(json!({"signal": "{{ signal.name }}"})), "nodes[0].signal", "`signal.name` is not known here"),
        (one(&json!({"id": "a", "type": "approval", "approvers": []})), "nodes[0].approvers", "there are 0"),
        (one(&json!({"id": "a", "type": "approval", "signal": "s"})), "nodes[0].signal", "no such field"),
        (
            json!({"name": "w", "nodes": [{"id": "a", "type": "set", "output": 1}, {"id": "b", "type": "set", "output": 1}], "edges": [{"from": "a", "to": "b", "on": "timeout"}]}),
            "edges[0]",
            "does not wait",
        ),
        (
            json!({"name": "w", "nodes": [{"id": "a", "type": "subflow", "workflow": "w"}, {"id": "b", "type": "set", "output": 1}], "edges": [{"from": "a", "to": "b", "on": "timeout"}]}),
            "edges[0]",
            "waits for ever",
        ),
        (one(&json!({"id": "a", "type": "fail"})), "nodes[0].name", "missing"),
        (one(&json!({"id": "a", "type": "fail", "name": "{{ x }}"})), "nodes[0].name", "there is no `x`"),
        (one(&json!({"id": "a", "type": "terminate"})), "nodes[0].state", "missing"),
        (one(&json!({"id": "a", "type": "terminate", "state": "paused"})), "nodes[0].state", "cannot end so"),
        (one(&json!({"id": "a", "type": "terminate", "state": "failed"})), "nodes[0].error", "missing"),
        (
            one(&json!({"id": "a", "type": "terminate", "state": "failed", "error": {"why": 1}})),
            "nodes[0].error.why",
            "no such field",
        ),
        (
            one(&json!({"id": "a", "type": "terminate", "state": "canceled", "output": 1})),
            "nodes[0].output",
            "only a completed",
        ),
        (
            one(&json!({"id": "a", "type": "terminate", "state": "completed", "error": {"name": "n"}})),
            "nodes[0].error",
            "only a failed",
        ),
        // Edges.
        (e(json!([["a"]])), "edges[0]", "no pair"),
        (e(json!([["a", 1]])), "edges[0]", "no pair"),
        (e(json!(["a"])), "edges[0]", "no object"),
        (e(json!([{"from": "a"}])), "edges[0].to", "missing"),
        (e(json!([["a", "z"]])), "edges[0].to", "no node `z`"),
        (e(json!([["a", "b"], {"from": "y", "to": "b"}])), "edges[1].from", "no node `y`"),
        (e(json!([["a", "b"], {"from": "a", "to": "b"}])), "edges[1]", "same as edges[0]"),
        (e(json!([{"from": "a", "to": "b", "on": "sometimes"}])), "edges[0].on", "no such ending"),
        (e(json!([{"from": "a", "to": "b", "when": ""}])), "edges[0].when", "empty"),
        (e(json!([{"from": "a", "to": "b", "when": "{{ true }}"}])), "edges[0].when", "leave out"),
        (
            e(json!([{"from": "a", "to": "b", "when": "nodes.c.output"}])),
            "edges[0].when",
            "`c` does not run before `a`",
        ),
        (e(json!([{"from": "a", "to": "b", "if": "true"}])), "edges[0].if", "no such field"),
        (e(json!([["a", "a"]])), "edges", "cycle: a -> a"),
        (e(json!([["b", "c"], ["a", "b"], ["c", "a"]])), "edges", "cycle: a -> b -> c -> a"),
    ] {
        let problems = problems(&definition);
        let found = problems.iter().any(|p| p.path == path && p.message.contains(message) && !p.fix.is_empty());
        assert!(found, "{definition}\nexpected {path}: {message}\n{problems}");
    }
}

#[test]
fn all_problems_are_told_at_once_and_each_once() {
    let definition = json!({
        "name": "order fulfilment", "retries": 3,
        "nodes": [
            {"id": "a", "type": "task", "handler": "h", "retry": {"initial": "soon", "max_attempts": 0}},
            {"id": "a", "type": "delay"},
            {"id": "b", "type": "task", "handler": "h", "input": {"x": "{{ nodes.zz.output }}", "y": "{{ 1 + }}"}},
        ],
        "edges": [["a", "q"], ["b", "b"]],
    });
    let told = problems(&definition);
    let paths: Vec<_> = told.iter().map(|p| p.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "retries",
            "nodes[0].retry.initial",
            "nodes[1].duration",
            "name",
            "nodes[1].id",
            "edges[0].to",
            "edges",
            "nodes[0].retry.max_attempts",
            "nodes[2].input.y",
            "nodes[2].input.x"
        ],
        "{told}"
    );
    assert_eq!(told.to_string().lines().count(), 10);
    assert!(told.to_string().contains("edges[0].to: there is no node `q`: name a node of this definition"));
}

#[test]
fn many_problems_are_counted() {
    let nodes: Vec<_> = (0..250).map(|n| json!({"id": format!("n{n}"), "type": "task"})).collect();
    let told = problems(&json!({"name": "w", "nodes": nodes}));
    assert_eq!(told.iter().count(), 250);
    assert!(told.to_string().ends_with("and 150 more problems"));
}

#[test]
fn cycles_are_named_and_what_hangs_behind_them_is_not() {
    let edges = json!([["a", "b"], ["b", "c"], ["c", "b"], ["c", "d"], ["e", "f"], ["f", "e"], ["f", "g"], ["g", "h"]]);
    let told = problems(&tasks(&["a", "b", "c", "d", "e", "f", "g", "h"], &json!({"edges": edges})));
    let messages: Vec<_> = told.iter().map(|p| p.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "these nodes form a cycle: b -> c -> b",
            "these nodes form a cycle: e -> f -> e",
            "`d` cannot be reached from an entry node",
            "`g` cannot be reached from an entry node",
            "`h` cannot be reached from an entry node",
        ]
    );
}

#[test]
fn edges_that_cannot_be_taken_are_refused() {
    let definition = json!({"name": "w", "nodes": [
        {"id": "f", "type": "fail", "name": "n"}, {"id": "t", "type": "terminate", "state": "canceled"},
        {"id": "x", "type": "task", "handler": "h"},
    ], "edges": [["f", "x"], {"from": "f", "to": "t", "on": "failure"}, ["t", "x"]]});
    let told = problems(&definition).to_string();
    assert!(told.contains("edges[0]: it is never taken: `f` always fails"), "{told}");
    assert!(told.contains("edges[2]: it leaves `t`, which ends the run"), "{told}");
    assert_eq!(told.lines().count(), 2);
}

#[test]
fn references_reach_ancestors_only() {
    let nodes = |input: &str| {
        json!({"name": "w", "nodes": [
            {"id": "a", "type": "task", "handler": "h"}, {"id": "b", "type": "task", "handler": "h"},
            {"id": "c", "type": "task", "handler": "h"}, {"id": "d", "type": "task", "handler": "h", "input": input},
        ], "edges": [["a", "b"], {"from": "b", "to": "d", "on": "always"}, ["a", "c"]]})
    };
    for good in ["{{ nodes.a.output }}", "{{ nodes.b.error.message }}", "{{ error }}"] {
        Definition::from_json(&nodes(good)).unwrap();
    }
    for bad in ["{{ nodes.c.output }}", "{{ nodes.d.output }}"] {
        assert!(problems(&nodes(bad)).to_string().contains("does not run before `d`"));
    }
}

#[test]
fn large_definitions_are_checked_and_compiled_in_time() {
    let count = 20_000_usize;
    // A chain with a reference to the first node in every input: all ancestors are needed.
    let nodes: Vec<_> = (0..count)
        .map(|n| {
            let mut node = NodeDefinition::task(&format!("n{n}"), "h");
            node.input = (n > 0).then(|| json!({"first": "{{ nodes.n0.output }}"}));
            node
        })
        .collect();
    let edges = (1..count).map(|n| EdgeDefinition::success(&format!("n{}", n - 1), &format!("n{n}"))).collect();
    let definition = Definition {
        name: "w".into(),
        queue: None,
        description: None,
        input_schema: None,
        nodes,
        edges,
        output: None,
        context: None,
        queries: Default::default(),
    };
    let started = std::time::Instant::now();
    let graph = Graph::compile(&definition).unwrap();
    assert!(graph.is_chain());
    let back = Definition::from_json(&definition.to_value()).unwrap();
    assert_eq!(back.content_hash(), definition.content_hash());
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());

    let mut large = definition;
    large.nodes.push(NodeDefinition::task("one-more", "h"));
    assert!(Graph::compile(&large).unwrap_err().to_string().contains("use at most 20000"));
    assert!(problems(&large.to_value()).to_string().contains("there are 20001 of them"));
}

#[test]
fn a_long_cycle_is_found_without_a_deep_stack() {
    let ids: Vec<_> = (0..5_000).map(|n| format!("n{n}")).collect();
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    let edges: Vec<_> = (0..5_000).map(|n| json!([ids[n], ids[(n + 1) % 5_000]])).collect();
    let told = problems(&tasks(&ids, &json!({"edges": edges}))).to_string();
    assert!(told.contains("cycle: n0 -> n1 -> ") && told.contains("…") && told.lines().count() == 1, "{told}");
}

#[test]
fn a_schema_that_only_refers_to_itself_does_no_harm() {
    let definition = tasks(&["a"], &json!({"input_schema": {"$ref": "#"}}));
    if let Ok(definition) = Definition::from_json(&definition) {
        let graph = Graph::compile(&definition).unwrap();
        assert!(graph.check_input(&crate::payload::Payload::null()).is_ok());
    }
}

#[test]
fn a_full_definition_reads_back_the_same() {
    let definition = json!({
        "name": "order-fulfilment", "queue": "orders", "description": "d",
        "input_schema": {"type": "object", "required": ["order"]},
        "nodes": [
            {"id": "charge", "type": "task", "handler": "charge", "input": {"order": "{{ run.input.order }}"}, "timeout": "90s",
             "retry": {"max_attempts": 5, "initial": "1000ms", "factor": 2, "max": "1m", "jitter": 0.2, "total": "1h", "retry_on": ["busy"]}},
            {"id": "ship", "type": "task", "handler": "ship", "queue": "warehouse", "join": "any"},
            {"id": "note", "type": "set", "output": null},
            {"id": "wait", "type": "delay", "duration": "{{ nodes.note.output.pause | default('5s') }}"},
            {"id": "late", "type": "delay", "until": "2030-01-31T08:00:00+01:00"},
            {"id": "refuse", "type": "fail", "name": "refused", "message": "no: {{ input }}"},
            {"id": "stop", "type": "terminate", "state": "failed", "error": {"name": "stopped", "message": "{{ nodes.refuse.error.message }}"}},
            {"id": "last", "type": "task", "handler": "h", "join": {"n": 2}},
            {"id": "paid", "type": "wait", "signal": "paid:{{ run.input.order }}", "match": "signal.payload.order == run.input.order", "timeout": "2m",
             "schema": {"type": "object"}},
            {"id": "either", "type": "wait", "signals": ["yes", "no"]},
            {"id": "ok", "type": "approval", "approvers": ["ann"], "timeout": "{{ nodes.note.output.pause }}", "schema": {"type": "boolean"}},
        ],
        "edges": [
            ["charge", "ship"], {"from": "charge", "to": "ship", "on": "failure", "when": "error.name == 'late'"},
            ["charge", "note"], ["note", "wait"], ["wait", "late"], ["late", "refuse"],
            {"from": "refuse", "to": "stop", "on": "failure"}, {"from": "wait", "to": "last", "on": "always"}, ["ship", "last"],
            ["note", "paid"], {"from": "paid", "to": "either", "on": "timeout"}, ["note", "ok"],
        ],
        "output": {"charged": "{{ nodes.charge.output }}"},
    });
    let read = Definition::from_json(&definition).unwrap();
    let written = read.to_value();
    assert_eq!(Definition::from_json(&written).unwrap(), read);
    assert_eq!(written["nodes"][0]["timeout"], "1m30s");
    assert_eq!(written["nodes"][0]["retry"]["initial"], "1s");
    assert_eq!(written["edges"][0], json!({"from": "charge", "to": "ship"}));
    assert_eq!(written["nodes"][7]["join"], 2);
    assert_eq!(
        (&written["nodes"][8]["timeout"], &written["nodes"][9]["signals"]),
        (&json!("2m"), &json!(["yes", "no"]))
    );
    assert_eq!(read.nodes[1].join, JoinRule::Any);
    assert_eq!(read.edges[1].on, On::Failure);
    assert!(matches!(&read.nodes[2].kind, NodeType::Set { output } if output.is_null()));
    Graph::compile(&read).unwrap();
}

#[test]
fn the_hash_sees_content_not_spelling() {
    let a = tasks(&["a", "b"], &json!({"edges": [["a", "b"]]}));
    let b =
        json!({"edges": [{"on": "success", "to": "b", "from": "a"}], "nodes": a["nodes"], "name": "w", "queue": null});
    let hash = |value: &Value| Definition::from_json(value).unwrap().content_hash();
    assert_eq!(hash(&a), hash(&b));
    assert_eq!(hash(&a).len(), 64);
    assert_ne!(hash(&a), hash(&tasks(&["a", "b"], &json!({"edges": []}))));
    // Known once and for all: a change of it would publish every version again.
    assert_eq!(hash(&tasks(&["a"], &json!({}))), "bec3367d1281fbb1e2d3ce22b86975c9247661504941e949993466da19019a5a");
}

/// Schemas of which each refers to the one before twice.
fn doubling(count: usize) -> Value {
    let twice =
        |n: usize| json!({"allOf": [{"$ref": format!("#/$defs/a{}", n - 1)}, {"$ref": format!("#/$defs/a{}", n - 1)}]});
    let mut defs: serde_json::Map<String, Value> = (1..=count).map(|n| (format!("a{n}"), twice(n))).collect();
    defs.insert("a0".to_owned(), json!({"type": "object"}));
    json!({"$ref": format!("#/$defs/a{count}"), "$defs": defs})
}

#[test]
fn what_is_as_usual_of_a_subflow_is_left_out() {
    let node = |fields: Value| {
        let mut node = json!({"id": "a", "type": "subflow", "workflow": "w"});
        node.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        one(&node)
    };
    let written = |fields: Value| Definition::from_json(&node(fields)).unwrap().to_value()["nodes"][0].clone();
    let usual = json!({"version": "pinned", "mode": "wait", "close_policy": "terminate"});
    assert_eq!(written(usual), node(json!({}))["nodes"][0]);
    let detached = json!({"mode": "detached", "close_policy": "abandon"});
    assert_eq!(written(detached), node(json!({"mode": "detached"}))["nodes"][0]);
    for kept in [
        json!({"version": "latest", "close_policy": "request_cancel", "timeout": "1m"}),
        json!({"mode": "detached", "close_policy": "terminate"}),
    ] {
        assert_eq!(written(kept.clone()), node(kept)["nodes"][0]);
    }
    for (fields, path) in [
        (json!({"workflow": "{{ run.input }}"}), "nodes[0].workflow"),
        (json!({"workflow": ""}), "nodes[0].workflow"),
        (json!({"version": 3}), "nodes[0].version"),
        (json!({"version": "newest"}), "nodes[0].version"),
        (json!({"mode": "later"}), "nodes[0].mode"),
        (json!({"close_policy": "kill"}), "nodes[0].close_policy"),
        (json!({"mode": "detached", "timeout": "1m"}), "nodes[0].timeout"),
        (json!({"retry": {"max_attempts": 0}}), "nodes[0].retry.max_attempts"),
    ] {
        let told = problems(&node(fields));
        assert_eq!(told.0.iter().map(|problem| problem.path.as_str()).collect::<Vec<_>>(), [path], "{told}");
    }
}

#[test]
fn one_policy_is_written_as_an_object_and_several_as_a_list() {
    let policy = |on: &str| json!({"retry_on": [on], "max_attempts": 2});
    let task = |retry: Value| json!({"id": "a", "type": "task", "handler": "h", "retry": retry});
    let definition = |retry: Value| Definition::from_json(&one(&task(retry))).unwrap();
    assert_eq!(definition(json!([policy("x")])), definition(policy("x")));
    assert_eq!(definition(json!([policy("x")])).content_hash(), definition(policy("x")).content_hash());
    let several = definition(json!([policy("x"), policy("y")]));
    assert_eq!(several.to_value()["nodes"][0]["retry"][1]["retry_on"], json!(["y"]));
    assert_eq!(Definition::from_json(&several.to_value()).unwrap(), several);
}

#[test]
fn only_a_version_that_may_leave_children_has_its_ends_announced() {
    let closes = |fields: Value| {
        let mut node = json!({"id": "a", "type": "subflow", "workflow": "w"});
        node.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let within = json!({"id": "i", "type": "if", "when": "true", "then": {"nodes": [node]}});
        Graph::compile(&Definition::from_json(&one(&within)).unwrap()).unwrap().closes_children()
    };
    assert!(!closes(json!({})) && !closes(json!({"mode": "detached"})));
    assert!(closes(json!({"mode": "detached", "close_policy": "terminate"})));
    assert!(closes(json!({"mode": "detached", "close_policy": "request_cancel"})));
}
