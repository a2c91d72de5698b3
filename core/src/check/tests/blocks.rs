//! Blocks: what they look like, what is wrong with them, and what can be read in their bodies.

use serde_json::{Value, json};

use super::{doubling, one, problems};
use crate::check::{CheckedBody, Program, check};
use crate::definition::block::{BlockDefinition, BlockType, MAX_BODIES, MAX_DEPTH, OnLimit};
use crate::definition::{
    BodyDefinition, Definition, EdgeDefinition, JoinRule, MAX_EDGES, MAX_NODES, NodeDefinition, NodeType, Size,
};

fn task(id: &str) -> Value {
    json!({"id": id, "type": "task", "handler": "h"})
}

/// A body of tasks in a row.
fn row(ids: &[&str]) -> Value {
    let nodes: Vec<_> = ids.iter().map(|id| task(id)).collect();
    let edges: Vec<_> = ids.windows(2).map(|pair| json!(pair)).collect();
    json!({"nodes": nodes, "edges": edges})
}

/// Adds fields to an object.
fn with(mut value: Value, over: &Value) -> Value {
    for (key, field) in over.as_object().unwrap() {
        value[key] = field.clone();
    }
    value
}

/// A definition of one block `b`.
fn block(word: &str, over: &Value) -> Value {
    one(&with(json!({"id": "b", "type": word}), over))
}

fn parallel(over: &Value) -> Value {
    block("parallel", &with(json!({"branches": [{"id": "left", "nodes": [task("x")]}]}), over))
}

fn foreach(over: &Value) -> Value {
    block("foreach", &with(json!({"items": "{{ run.input.orders }}", "body": row(&["x"])}), over))
}

fn repeat(over: &Value) -> Value {
    block("while", &with(json!({"when": "input.more", "body": row(&["x"])}), over))
}

fn attempt(over: &Value) -> Value {
    block("try", &with(json!({"body": row(&["x"])}), over))
}

#[test]
fn blocks_read_back_the_same_with_what_is_usual_left_out() {
    let retry = json!({"max_attempts": 2, "initial": "1s", "factor": 2.0, "max": "1m", "jitter": 0.2});
    for (written, usual) in [
        (
            parallel(&json!({"branches": [
                {"id": "left", "nodes": [task("x"), task("y")], "edges": [{"from": "x", "to": "y"}], "output": null},
                {"id": "right", "nodes": [task("z")]},
            ], "ends": 1, "fail_fast": false, "concurrency": "{{ run.input.n }}", "timeout": "1h30m", "retry": retry})),
            json!({}),
        ),
        (parallel(&json!({"ends": "any"})), json!({"fail_fast": true, "concurrency": null})),
        (parallel(&json!({})), json!({"ends": "all", "retry": null, "timeout": null, "join": "all"})),
        (foreach(&json!({"items": [1, "{{ run.input }}"], "concurrency": 3})), json!({"tolerate": null})),
        (foreach(&json!({"items": [], "tolerate": {"count": 2, "share": 0.5}})), json!({})),
        (foreach(&json!({"tolerate": {"share": "{{ run.input.s }}"}})), json!({"timeout": null})),
        (
            repeat(&json!({"do_while": true, "max_iterations": 7, "on_limit": "stop", "keep": 1, "queue": "q"})),
            json!({}),
        ),
        (repeat(&json!({})), json!({"do_while": false, "max_iterations": 100, "on_limit": "fail", "keep": null})),
        (block("if", &json!({"when": "true", "then": row(&["x", "y"]), "else": row(&["z", "w"])})), json!({})),
        (block("if", &json!({"when": "true", "then": row(&["x", "y"])})), json!({"else": null})),
        (
            block("switch", &json!({"cases": [{"when": "1", "body": row(&["x", "y"])}], "default": row(&["z", "w"])})),
            json!({}),
        ),
        (
            attempt(&json!({"catch": [
                {"on": ["timeout", "http_*"], "body": row(&["y", "z"])}, {"body": row(&["w", "v"])},
            ], "finally": row(&["u", "t"])})),
            json!({}),
        ),
        (attempt(&json!({"finally": row(&["u", "t"])})), json!({"catch": []})),
    ] {
        // Written as it is kept: edges as objects, none where there are none.
        let mut kept = written.clone();
        kept["edges"] = json!([]);
        keep(&mut kept["nodes"][0]);
        let read = Definition::from_json(&written).unwrap_or_else(|problems| panic!("{written}\n{problems}"));
        assert_eq!(read.to_value(), kept);
        assert_eq!(Definition::from_json(&kept).unwrap(), read);
        let mut spelled = written;
        spelled["nodes"][0] = with(spelled["nodes"][0].take(), &usual);
        let spelled = Definition::from_json(&spelled).unwrap();
        assert_eq!(spelled, read);
        assert_eq!(spelled.content_hash(), read.content_hash());
    }
}

/// Spells the edges of the bodies as they are kept.
fn keep(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::Array(edges)) = map.get_mut("edges") {
                for edge in edges.iter_mut().filter(|edge| edge.is_array()) {
                    *edge = json!({"from": edge[0], "to": edge[1]});
                }
                if edges.is_empty() {
                    map.remove("edges");
                }
            }
            map.values_mut().for_each(keep);
        }
        Value::Array(items) => items.iter_mut().for_each(keep),
        _ => {}
    }
}

#[test]
fn the_fields_of_blocks_are_read() {
    let read = Definition::from_json(&repeat(&json!({"on_limit": "stop", "keep": 2, "timeout": "90s"}))).unwrap();
    let NodeType::Block(block) = &read.nodes[0].kind else { panic!("{read:?}") };
    assert_eq!((block.timeout.unwrap().as_secs(), &block.retry), (90, &None));
    assert_eq!(read.nodes[0].kind.word(), "while");
    let BlockType::While { when, do_while, max_iterations, on_limit, keep, body } = &block.kind else { panic!() };
    assert_eq!((when.as_str(), *do_while, *max_iterations, *keep), ("input.more", false, 100, Some(2)));
    assert_eq!((*on_limit, body.nodes[0].id.as_str()), (OnLimit::Stop, "x"));
    let read = Definition::from_json(&parallel(&json!({"ends": {"n": 1}}))).unwrap();
    let NodeType::Block(block) = &read.nodes[0].kind else { panic!("{read:?}") };
    assert!(matches!(block.kind, BlockType::Parallel { ends: JoinRule::Count(1), fail_fast: true, .. }));
}

#[test]
fn what_is_checked_has_the_bodies_in_their_order() {
    let definition = json!({"name": "w", "nodes": [
        {"id": "each", "type": "foreach", "items": "{{ run.input }}", "concurrency": 2, "tolerate": {"count": 1, "share": 0.1},
         "body": with(row(&["x", "y"]), &json!({"output": "{{ nodes.y.output }}", "edges": [{"from": "x", "to": "y", "when": "true"}]}))},
        {"id": "choice", "type": "switch", "cases": [
            {"when": "1 == 1", "body": row(&["a"])}, {"when": "2 == 2", "body": row(&["b", "c"])},
        ], "default": row(&["d", "e", "f"])},
    ]});
    let checked = check(&Definition::from_json(&definition).unwrap()).unwrap();
    let block = |body: &CheckedBody, at: usize| match &body.nodes[at].program {
        Program::Block(block) => (
            [&block.items, &block.concurrency, &block.tolerate_count, &block.tolerate_share].map(Option::is_some),
            block.whens.iter().map(|when| when.text().to_owned()).collect::<Vec<_>>(),
            block.bodies.iter().map(|body| (body.nodes.len(), body.output.is_some())).collect::<Vec<_>>(),
        ),
        other => panic!("{other:?}"),
    };
    assert_eq!(block(&checked.body, 0), ([true; 4], vec![], vec![(2, true)]));
    let whens = vec!["1 == 1".to_owned(), "2 == 2".to_owned()];
    assert_eq!(block(&checked.body, 1), ([false; 4], whens, vec![(1, false), (2, false), (3, false)]));
    let Program::Block(each) = &checked.body.nodes[0].program else { panic!() };
    assert!(each.bodies[0].whens[0].is_some());
}

#[test]
fn every_mistake_in_a_block_is_told_with_its_path() {
    let body = |body: Value| foreach(&json!({ "body": body }));
    let n = "nodes[0]";
    let long = "x".repeat(201);
    for (definition, path, message) in [
        // What all blocks have.
        (foreach(&json!({"handler": "h"})), "nodes[0].handler", "no such field"),
        (foreach(&json!({"timeout": "0s"})), "nodes[0].timeout", "zero"),
        (foreach(&json!({"retry": {"max_attempts": 0}})), "nodes[0].retry.max_attempts", "out of range"),
        (foreach(&json!({"join": 2})), "nodes[0].join", "waits for 2 edges, but 0 lead"),
        (foreach(&json!({"queue": "?"})), "nodes[0].queue", "no name"),
        (foreach(&json!({"input": "{{ input }}"})), "nodes[0].input", "`input` is not known here"),
        // Bodies.
        (body(Value::Null), "nodes[0].body", "missing"),
        (body(json!([])), "nodes[0].body", "no object"),
        (body(json!({})), "nodes[0].body.nodes", "there is no node"),
        (body(json!({"nodes": 1})), "nodes[0].body.nodes", "no list"),
        (body(json!({"nodes": [task("x")], "input": 1})), "nodes[0].body.input", "no such field"),
        (body(json!({"nodes": [task("x")], "edges": {}})), "nodes[0].body.edges", "no list"),
        (body(json!({"nodes": [1]})), "nodes[0].body.nodes[0]", "no object"),
        (body(json!({"nodes": [task("x y")]})), "nodes[0].body.nodes[0].id", "is no id"),
        (body(json!({"nodes": [{"id": "x", "type": "task"}]})), "nodes[0].body.nodes[0].handler", "missing"),
        (body(json!({"nodes": [with(task("x"), &json!({"queue": "?"}))]})), "nodes[0].body.nodes[0].queue", "no name"),
        (body(with(row(&["x"]), &json!({"output": "{{ 1 + }}"}))), "nodes[0].body.output", "expected a value"),
        (body(with(row(&["x"]), &json!({"output": "{{ input }}"}))), "nodes[0].body.output", "not known here"),
        (body(with(row(&["x", "y"]), &json!({"edges": [["x"]]}))), "nodes[0].body.edges[0]", "no pair"),
        (body(with(row(&["x", "y"]), &json!({"edges": [["x", "z"]]}))), "nodes[0].body.edges[0].to", "no node `z`"),
        (
            body(with(row(&["x", "y"]), &json!({"edges": [["x", "y"], ["y", "x"]]}))),
            "nodes[0].body.edges",
            "x -> y -> x",
        ),
        (
            body(with(row(&["x", "y"]), &json!({"edges": [["x", "y"], ["x", "y"]]}))),
            "nodes[0].body.edges[1]",
            "as edges[0]",
        ),
        (
            body(json!({"nodes": [task("x"), with(task("y"), &json!({"join": 2}))], "edges": [["x", "y"]]})),
            "nodes[0].body.nodes[1].join",
            "waits for 2 edges, but 1 lead",
        ),
        (
            body(json!({"nodes": [task("x"), task("y"), task("z")], "edges": [["x", "x"], ["x", "y"], ["y", "z"]]})),
            "nodes[0].body.nodes[2]",
            "cannot be reached",
        ),
        (
            body(
                json!({"nodes": [{"id": "t", "type": "terminate", "state": "canceled"}, task("x")], "edges": [["t", "x"]]}),
            ),
            "nodes[0].body.edges[0]",
            "ends the run",
        ),
        (
            body(with(row(&["x", "y"]), &json!({"edges": [{"from": "x", "to": "y", "when": "1 +"}]}))),
            "nodes[0].body.edges[0].when",
            "expected a value",
        ),
        // Parallel.
        (block("parallel", &json!({})), "nodes[0].branches", "there is none"),
        (parallel(&json!({"branches": []})), "nodes[0].branches", "there is none"),
        (parallel(&json!({"branches": {}})), "nodes[0].branches", "no list"),
        (parallel(&json!({"branches": [5]})), "nodes[0].branches[0]", "no object"),
        (parallel(&json!({"branches": [5, {"id": "?", "nodes": [task("x")]}]})), "nodes[0].branches[1].id", "no id"),
        (parallel(&json!({"branches": [{"nodes": [task("x")]}]})), "nodes[0].branches[0].id", "missing"),
        (parallel(&json!({"branches": [{"id": "a"}]})), "nodes[0].branches[0].nodes", "no node"),
        (
            parallel(&json!({"branches": [{"id": "a", "body": row(&["x"])}]})),
            "nodes[0].branches[0].body",
            "no such field",
        ),
        (
            parallel(&json!({"branches": [{"id": "a", "nodes": [task("x")]}, {"id": "a", "nodes": [task("y")]}]})),
            "nodes[0].branches[1].id",
            "branches[0] has the id `a` already",
        ),
        (
            parallel(&json!({"branches": [{"id": "a", "nodes": [task("x"), task("y")], "edges": [["z", "y"]]}]})),
            "nodes[0].branches[0].edges[0].from",
            "no node `z`",
        ),
        (parallel(&json!({"ends": 0})), "nodes[0].ends", "no such end"),
        (parallel(&json!({"ends": "some"})), "nodes[0].ends", "no such end"),
        (parallel(&json!({"ends": 2})), "nodes[0].ends", "waits for 2 branches, but there are 1"),
        (parallel(&json!({"fail_fast": "no"})), "nodes[0].fail_fast", "neither true nor false"),
        (parallel(&json!({"concurrency": 0})), "nodes[0].concurrency", "`0` is not a whole number of at least 1"),
        (parallel(&json!({"concurrency": 1.5})), "nodes[0].concurrency", "not a whole number"),
        (parallel(&json!({"concurrency": "5"})), "nodes[0].concurrency", "not a whole number"),
        (parallel(&json!({"concurrency": "a{{ 1 }}"})), "nodes[0].concurrency", "not a whole number"),
        (parallel(&json!({"concurrency": "{{ 1 + }}"})), "nodes[0].concurrency", "expected a value"),
        // Foreach.
        (block("foreach", &json!({"body": row(&["x"])})), "nodes[0].items", "missing"),
        (foreach(&json!({"items": null})), "nodes[0].items", "no list"),
        (foreach(&json!({"items": {"a": 1}})), "nodes[0].items", "no list"),
        (foreach(&json!({"items": {"a": "{{ run.input }}"}})), "nodes[0].items", "no list"),
        (foreach(&json!({"items": "[1]"})), "nodes[0].items", "no list"),
        (foreach(&json!({"items": "{{ item }}"})), "nodes[0].items", "`item` is not known here"),
        (foreach(&json!({"items": vec![0; 100_001]})), "nodes[0].items", "there are 100001 of them"),
        (foreach(&json!({"concurrency": -1})), "nodes[0].concurrency", "not a whole number"),
        (foreach(&json!({"tolerate": 1})), "nodes[0].tolerate", "no object"),
        (foreach(&json!({"tolerate": {}})), "nodes[0].tolerate", "says nothing"),
        (foreach(&json!({"tolerate": {"rate": 1}})), "nodes[0].tolerate.rate", "no such field"),
        (foreach(&json!({"tolerate": {"count": -1}})), "nodes[0].tolerate.count", "of at least 0"),
        (foreach(&json!({"tolerate": {"share": 1.1}})), "nodes[0].tolerate.share", "a number from 0 to 1"),
        (foreach(&json!({"tolerate": {"share": "{{ nodes.x.output }}"}})), "nodes[0].tolerate.share", "within `b`"),
        // While.
        (block("while", &json!({"body": row(&["x"])})), "nodes[0].when", "missing"),
        (repeat(&json!({"when": ""})), "nodes[0].when", "empty"),
        (repeat(&json!({"when": true})), "nodes[0].when", "no text"),
        (repeat(&json!({"when": "{{ true }}"})), "nodes[0].when", "leave out"),
        (repeat(&json!({"do_while": 1})), "nodes[0].do_while", "neither true nor false"),
        (repeat(&json!({"max_iterations": 0})), "nodes[0].max_iterations", "out of range"),
        (repeat(&json!({"max_iterations": 1_000_001})), "nodes[0].max_iterations", "out of range"),
        (repeat(&json!({"max_iterations": "5"})), "nodes[0].max_iterations", "no whole number"),
        (repeat(&json!({"on_limit": "go on"})), "nodes[0].on_limit", "no such way"),
        (repeat(&json!({"keep": 0})), "nodes[0].keep", "zero"),
        // If and switch.
        (block("if", &json!({"when": "true"})), "nodes[0].then", "missing"),
        (block("if", &json!({"then": row(&["x"])})), "nodes[0].when", "missing"),
        (block("if", &json!({"when": "true", "then": row(&["x"]), "else": {}})), "nodes[0].else.nodes", "no node"),
        (block("if", &json!({"when": "true", "then": row(&["x"]), "body": {}})), "nodes[0].body", "no such field"),
        (block("switch", &json!({})), "nodes[0].cases", "there is none"),
        (block("switch", &json!({"cases": [1]})), "nodes[0].cases[0]", "no object"),
        (block("switch", &json!({"cases": [{"when": "1"}]})), "nodes[0].cases[0].body", "missing"),
        (block("switch", &json!({"cases": [{"body": row(&["x"])}]})), "nodes[0].cases[0].when", "missing"),
        (
            block(
                "switch",
                &json!({"cases": [{"when": "1", "body": row(&["x"])}, {"when": "y", "body": row(&["z"])}]}),
            ),
            "nodes[0].cases[1].when",
            "there is no `y`",
        ),
        (
            block("switch", &json!({"cases": [{"when": "1", "body": row(&["x"])}], "default": row(&[])})),
            "nodes[0].default.nodes",
            "no node",
        ),
        // Try.
        (attempt(&json!({})), "nodes[0].catch", "missing, and so is `finally`"),
        (attempt(&json!({"catch": []})), "nodes[0].catch", "missing, and so is `finally`"),
        (attempt(&json!({"catch": [1]})), "nodes[0].catch[0]", "no object"),
        (attempt(&json!({"catch": [{}]})), "nodes[0].catch[0].body", "missing"),
        (attempt(&json!({"catch": [{"on": "e", "body": row(&["y"])}]})), "nodes[0].catch[0].on", "no list of texts"),
        (attempt(&json!({"catch": [{"on": [], "body": row(&["y"])}]})), "nodes[0].catch[0].on", "empty"),
        (
            attempt(&json!({"catch": [{"on": ["a", ""], "body": row(&["y"])}]})),
            "nodes[0].catch[0].on[1]",
            "no name of an error",
        ),
        (
            attempt(&json!({"catch": [{"on": [long], "body": row(&["y"])}]})),
            "nodes[0].catch[0].on[0]",
            "no name of an error",
        ),
        (
            attempt(&json!({"catch": [{"body": row(&["y"])}, {"on": ["e"], "body": row(&["z"])}]})),
            "nodes[0].catch[1]",
            "never reached: catch[0] takes every error",
        ),
        (
            attempt(&json!({"catch": [{"on": ["a", "**"], "body": row(&["y"])}, {"body": row(&["z"])}]})),
            "nodes[0].catch[1]",
            "never reached",
        ),
        (attempt(&json!({"finally": {"nodes": [{"id": "y"}]}})), "nodes[0].finally.nodes[0].type", "missing"),
        (one(&json!({"id": "b", "type": "for", "items": [], "catch": []})), "nodes[0].type", "no such node type"),
        (foreach(&json!({"input_schema": doubling(1)})), "nodes[0].input_schema", "no such field"),
    ] {
        let problems = problems(&definition);
        let found = problems.iter().any(|p| p.path == path && p.message.contains(message) && !p.fix.is_empty());
        assert!(found, "{definition}\nexpected {path}: {message}\n{problems}");
        assert!(problems.iter().all(|p| p.path.starts_with(n)), "{problems}");
    }
}

#[test]
fn one_mistake_is_one_problem() {
    for definition in [
        block("parallel", &json!({"branches": [5]})),
        block("foreach", &json!({"items": []})),
        block("foreach", &json!({"items": "{{ 1 + }}", "body": row(&["x"])})),
        block("while", &json!({"body": row(&["x"])})),
        block("switch", &json!({"cases": [5]})),
        attempt(&json!({"catch": [5, {"body": row(&["y"])}]})),
        attempt(&json!({"catch": [{"on": 1, "body": row(&["y"])}, {"body": row(&["z"])}]})),
        one(&json!({"id": "b", "type": "magic", "branches": [], "when": 1, "finally": {}})),
    ] {
        let problems = problems(&definition);
        assert_eq!(problems.iter().count(), 1, "{definition}\n{problems}");
    }
}

/// `a` leads to the foreach `b` and to `d`, `b` to `c`. In `b`, `x` leads to the if `y`, and `w` stands alone; in `y`,
/// `p` leads to `q`, and else there is `r`.
fn nested() -> Value {
    json!({"name": "w", "nodes": [
        task("a"),
        {"id": "b", "type": "foreach", "items": [1], "body": {"nodes": [
            task("x"),
            {"id": "y", "type": "if", "when": "true", "then": row(&["p", "q"]), "else": row(&["r"])},
            task("w"),
        ], "edges": [{"from": "x", "to": "y"}]}},
        task("c"), task("d"),
    ], "edges": [{"from": "a", "to": "b"}, {"from": "b", "to": "c"}, ["a", "d"]]})
}

const A: &str = "/nodes/0/input";
const B: &str = "/nodes/1/items";
const B_OUTPUT: &str = "/nodes/1/body/output";
const C: &str = "/nodes/2/input";
const X: &str = "/nodes/1/body/nodes/0/input";
const X_TO_Y: &str = "/nodes/1/body/edges/0/when";
const Y: &str = "/nodes/1/body/nodes/1/input";
const Y_WHEN: &str = "/nodes/1/body/nodes/1/when";
const THEN_OUTPUT: &str = "/nodes/1/body/nodes/1/then/output";
const P: &str = "/nodes/1/body/nodes/1/then/nodes/0/input";
const Q: &str = "/nodes/1/body/nodes/1/then/nodes/1/input";
const R: &str = "/nodes/1/body/nodes/1/else/nodes/0/input";
const B_TO_C: &str = "/edges/1/when";
const OUTPUT: &str = "/output";

/// [`nested`] with an expression at this place.
fn reads(place: &str, expression: &str) -> Value {
    let mut definition = nested();
    let (above, field) = place.rsplit_once('/').unwrap();
    let bare = field == "when";
    let value = if bare { expression.to_owned() } else { format!("{{{{ {expression} }}}}") };
    definition.pointer_mut(above).unwrap()[field] = json!(value);
    definition
}

#[test]
fn what_runs_before_can_be_read_in_every_body_around() {
    for (place, expression) in [
        (C, "nodes.b.output"),
        (B, "nodes.a.output"),
        (B, "input"),
        (B_TO_C, "nodes.b.output and nodes.a.output and error"),
        (OUTPUT, "nodes.b.error"),
        (X, "nodes.a.output"),
        (X, "nodes.a.error"),
        (Y, "nodes.x.output"),
        (Y_WHEN, "nodes.x.output and nodes.a.output and input and error and item"),
        (X_TO_Y, "nodes.x.output and nodes.a.output and error and index"),
        (P, "nodes.x.output"),
        (P, "nodes.a.output"),
        (P, "run.input"),
        (Q, "nodes.p.output"),
        (Q, "error"),
        (R, "nodes.x.output"),
        (THEN_OUTPUT, "[nodes.p.output, nodes.q.output, nodes.x.output, nodes.a.output]"),
        (B_OUTPUT, "[nodes.x.output, nodes.y.output, nodes.w.output, nodes.a.output]"),
        (X, "[item, index, frame.input, frame.index, frames.b.input, frames.b.index]"),
        (Q, "[item, index, frame.input, frames.b.input, frames.y.input, frames['y'].index]"),
        (THEN_OUTPUT, "[item, index, frame.input, frames.b.index, frames.y.index]"),
        (B_OUTPUT, "[item, index, frame.index]"),
    ] {
        let definition = reads(place, expression);
        Definition::from_json(&definition).unwrap_or_else(|problems| panic!("{place} {expression}: {problems}"));
    }
}

#[test]
fn what_cannot_be_read_is_told_with_what_can() {
    for (place, expression, message, fix) in [
        // Nodes within other blocks.
        (C, "nodes.x.output", "`nodes.x.output` cannot be read: `x` is within the block `b`", "use nodes.b.output"),
        (C, "nodes.p.error", "`p` is within the block `b`", "use nodes.b.error"),
        (B_TO_C, "nodes.y.output", "`y` is within the block `b`", "use nodes.b.output"),
        (OUTPUT, "nodes.r.output", "`r` is within the block `b`", "use nodes.b.output"),
        (B_OUTPUT, "nodes.q.output", "`q` is within the block `y`", "use nodes.y.output"),
        (X, "nodes.p.output", "`p` is within the block `y`", "use nodes.y.output"),
        (A, "nodes.x.output", "`x` is within the block `b`", "use nodes.b.output"),
        (R, "nodes.p.output", "`p` is in another body of the block `y`", "refer to a node of this body"),
        (Y_WHEN, "nodes.p.output", "`p` is within `y`, which has not run by then", "a node that runs before"),
        (Y, "nodes.p.output", "`p` is within `y`, which has not run by then", "a node that runs before"),
        (B, "nodes.q.output", "`q` is within `b`, which has not run by then", "a node that runs before"),
        // Nodes that do not run before.
        (X, "nodes.b.output", "`b` has not ended while a body of it runs", "use frames.b.input"),
        (Q, "nodes.b.output", "`b` has not ended while a body of it runs", "use frames.b.input"),
        (Q, "nodes.y.output", "`y` has not ended while a body of it runs", "use frames.y.input"),
        (THEN_OUTPUT, "nodes.y.output", "`y` has not ended while a body of it runs", "use frames.y.input"),
        (X, "nodes.c.output", "`c` does not run before the block `b`", "from which edges lead to `b`"),
        (P, "nodes.d.output", "`d` does not run before the block `b`", "from which edges lead to `b`"),
        (P, "nodes.w.output", "`w` does not run before the block `y`", "from which edges lead to `y`"),
        (THEN_OUTPUT, "nodes.c.output", "`c` does not run before the block `b`", "edges lead to `b`"),
        (P, "nodes.q.output", "`q` does not run before `p`", "from which edges lead here"),
        (X_TO_Y, "nodes.w.output", "`w` does not run before `x`", "from which edges lead here"),
        (B, "nodes.b.output", "`b` does not run before `b`", "from which edges lead here"),
        (Q, "nodes.zz.output", "does not exist", "name a node"),
        // What a frame was given.
        (C, "item", "`item` is not known here", "`foreach`"),
        (B, "index", "`index` is not known here", "`foreach`"),
        (OUTPUT, "frame.input", "`frame.input` is not known here", "in the body of one"),
        (B_TO_C, "frame.index", "`frame.index` is not known here", "in the body of one"),
        (C, "frames.b.input", "`frames.b.input` is not known here: no block around", "in the body of a block"),
        (B, "frames.b.input", "no block around has that id", "in the body of a block"),
        (X, "frames.y.index", "no block around has that id", "name a block around: `b`"),
        (Q, "frames.x.index", "no block around has that id", "name a block around: `y`, `b`"),
        (P, "error", "`error` has no meaning in an entry node", "remove it"),
        (P, "input", "`input` is not known here", "run.input"),
        (THEN_OUTPUT, "error", "`error` is not known here", "nodes.<id>.error"),
    ] {
        let problems = problems(&reads(place, expression));
        let found = problems.iter().any(|p| p.message.contains(message) && p.fix.contains(fix));
        assert!(found && problems.iter().count() == 1, "{place} {expression}\n{problems}");
    }
}

#[test]
fn a_while_asks_what_the_next_pass_would_be_given() {
    Definition::from_json(&repeat(&json!({"when": "input.more and run.input.go"}))).unwrap();
    let problems = problems(&repeat(&json!({"when": "nodes.x.output.more"})));
    assert_eq!(problems.0[0].fix, "use input, which is what the next pass would be given", "{problems}");
}

#[test]
fn an_item_is_that_of_the_nearest_foreach_only() {
    let inner = json!({"nodes": [{"id": "in", "type": "if", "when": "item", "then": {"nodes": [
        with(task("x"), &json!({"input": ["{{ item }}", "{{ index }}"]}))]}}]});
    Definition::from_json(&foreach(&json!({ "body": inner }))).unwrap();
    let told = problems(&repeat(&json!({ "body": inner }))).to_string();
    assert!(told.contains("nodes[0].body.nodes[0].then.nodes[0].input[1]: `index` is not known here"), "{told}");
}

#[test]
fn the_caught_error_is_read_where_a_catch_begins() {
    let reads = |text: &str| with(task("y"), &json!({ "input": text }));
    let catch = |body: Value| attempt(&json!({"catch": [{ "body": body }]}));
    Definition::from_json(&catch(json!({"nodes": [reads("{{ error.name }} {{ frame.input.name }}")]}))).unwrap();
    let inner =
        json!({"id": "in", "type": "if", "when": "error.name == 'late'", "then": {"nodes": [reads("{{ error }}")]}});
    let problems_of = |definition: &Value| problems(definition).0.remove(0);
    let problem = problems_of(&catch(json!({"nodes": [inner]})));
    assert_eq!(problem.path, "nodes[0].catch[0].body.nodes[0].then.nodes[0].input");
    assert_eq!(problem.fix, "use frames.b.input");
    let problem = problems_of(&catch(with(row(&["z"]), &json!({"output": "{{ error }}"}))));
    assert_eq!(problem.fix, "use frame.input");
    for other in ["body", "finally"] {
        let mut definition = attempt(&json!({"finally": row(&["z"])}));
        definition["nodes"][0][other] = json!({"nodes": [reads("{{ error }}")]});
        let problem = problems_of(&definition);
        assert_eq!(problem.path, format!("nodes[0].{other}.nodes[0].input"));
        assert_eq!(
            (problem.message.as_str(), problem.fix.as_str()),
            ("`error` has no meaning in an entry node", "remove it")
        );
    }
    // Another node of a catch has the error of its predecessor, as anywhere.
    Definition::from_json(&catch(json!({"nodes": [task("z"), reads("{{ error }}")], "edges": [["z", "y"]]}))).unwrap();
}

#[test]
fn an_id_is_there_once_in_all_bodies() {
    let mut definition = nested();
    definition["nodes"][1]["body"]["nodes"][1]["then"]["nodes"][1]["id"] = json!("a");
    definition["nodes"][1]["body"]["nodes"][1]["then"]["edges"] = json!([["p", "a"]]);
    definition["nodes"][3]["id"] = json!("p");
    definition["edges"] = json!([["a", "b"], ["b", "c"], ["a", "p"]]);
    let told = problems(&definition).to_string();
    let expected = [
        "nodes[1].body.nodes[1].then.nodes[1].id: nodes[0] has the id `a` already: give each node its own id",
        "nodes[3].id: nodes[1].body.nodes[1].then.nodes[0] has the id `p` already: give each node its own id",
    ];
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn edges_stay_within_a_body() {
    let mut definition = nested();
    definition["edges"].as_array_mut().unwrap().push(json!(["x", "c"]));
    definition["nodes"][1]["body"]["edges"].as_array_mut().unwrap().push(json!(["w", "q"]));
    definition["nodes"][1]["body"]["nodes"][1]["then"]["edges"] = json!([["p", "q"], ["a", "q"]]);
    let told = problems(&definition).to_string();
    for expected in [
        "edges[3].from: edges stay within a body, and `x` is nodes[1].body.nodes[0]: name a node of the same body",
        "nodes[1].body.edges[1].to: edges stay within a body, and `q` is nodes[1].body.nodes[1].then.nodes[1]",
        "nodes[1].body.nodes[1].then.edges[1].from: edges stay within a body, and `a` is nodes[0]",
    ] {
        assert!(told.contains(expected), "{told}");
    }
    assert_eq!(told.lines().count(), 3, "{told}");
}

/// So many blocks in each other, and a task in the last.
fn deep(levels: usize) -> Value {
    one(&(0..levels).fold(task("x"), |inner, level| {
        json!({"id": format!("b{level}"), "type": "switch", "cases": [{"when": "true", "body": {"nodes": [inner]}}]})
    }))
}

/// The same built in Rust.
fn deep_built(levels: usize) -> Definition {
    let node = (0..levels).fold(NodeDefinition::task("x", "h"), |inner, level| {
        let body = BodyDefinition { nodes: vec![inner], ..BodyDefinition::default() };
        let kind = BlockType::Switch { cases: vec![("true".to_owned(), body)], default: None };
        let block = BlockDefinition { kind, timeout: None, retry: None };
        NodeDefinition { kind: NodeType::Block(Box::new(block)), ..NodeDefinition::task(&format!("b{level}"), "h") }
    });
    let mut definition = Definition::from_json(&one(&task("x"))).unwrap();
    definition.nodes = vec![node];
    definition
}

#[test]
fn blocks_nest_so_deep_and_no_deeper() {
    let run = || {
        let deepest = Definition::from_json(&deep(MAX_DEPTH)).unwrap();
        assert_eq!(deepest, deep_built(MAX_DEPTH));
        assert_eq!(Definition::from_json(&deepest.to_value()).unwrap(), deepest);
        assert_eq!(deepest.size(), Size { nodes: MAX_DEPTH + 1, edges: 0 });
        let path = format!("nodes[0].{}", "cases[0].body.nodes[0].".repeat(MAX_DEPTH));
        for told in [MAX_DEPTH + 1, MAX_DEPTH + 4].map(|levels| problems(&deep(levels))) {
            assert_eq!(told.0.len(), 1, "{told}");
            assert_eq!(told.0[0].path, path.trim_end_matches('.'));
            assert_eq!(told.0[0].message, "blocks are nested more than 16 levels deep");
        }
        let Err(told) = check(&deep_built(500)) else { panic!("it was accepted") };
        assert_eq!((told.0.len(), told.0[0].path.as_str()), (1, path.trim_end_matches('.')), "{told}");
    };
    std::thread::Builder::new().stack_size(2 * 1024 * 1024).spawn(run).unwrap().join().unwrap();
}

#[test]
fn nodes_and_edges_are_counted_in_all_bodies() {
    let ids = |body: usize, count: usize| (0..count).map(move |n| format!("n{body}-{n}"));
    let body = |place: usize, count: usize| {
        let nodes = ids(place, count).map(|id| NodeDefinition::task(&id, "h")).collect();
        let pairs = ids(place, count).zip(ids(place, count).skip(1));
        let edges = pairs.map(|(from, to)| EdgeDefinition::success(&from, &to)).collect();
        (format!("branch-{place}"), BodyDefinition { nodes, edges, output: None })
    };
    let built = |counts: &[usize]| {
        let branches = counts.iter().enumerate().map(|(place, count)| body(place, *count)).collect();
        let kind = BlockType::Parallel { branches, ends: JoinRule::All, fail_fast: true, concurrency: None };
        let block = BlockDefinition { kind, timeout: None, retry: None };
        let mut definition = Definition::from_json(&one(&task("b"))).unwrap();
        definition.nodes[0].kind = NodeType::Block(Box::new(block));
        definition
    };
    let half = MAX_NODES / 2;
    let most = built(&[half, half - 1]);
    assert_eq!(most.size(), Size { nodes: MAX_NODES, edges: MAX_NODES - 3 });
    assert_eq!(Definition::from_json(&most.to_value()).unwrap(), most);
    let large = built(&[half, half]);
    let Err(told) = check(&large) else { panic!("it was accepted") };
    assert_eq!(told.0[0].message, "there are 20001 of them, those of all bodies included");
    let told = problems(&large.to_value()).0.remove(0);
    assert_eq!(
        (told.path.as_str(), told.message.as_str()),
        ("nodes[0].branches[1].nodes", "there are 10000 of them, and 10001 before them")
    );
    // Edges are counted as they are written, whatever they are.
    let mut edges = nested();
    edges["nodes"][1]["body"]["edges"] = json!(vec![["x", "w"]; MAX_EDGES - 1]);
    let told = problems(&edges).0.remove(0);
    assert_eq!(told.message, format!("there are {} of them, and 3 before them", MAX_EDGES - 1));
    let branches: Vec<_> =
        (0..=MAX_BODIES).map(|n| json!({"id": format!("n{n}"), "nodes": [task(&format!("x{n}"))]})).collect();
    let told = problems(&parallel(&json!({ "branches": branches })));
    assert_eq!(told.to_string(), "nodes[0].branches: there are 1001 of them: use at most 1000; split the workflow");
}

#[test]
fn a_million_empty_bodies_are_refused_as_one() {
    let branches = vec![json!({}); MAX_BODIES];
    let nodes: Vec<_> =
        (0..1_000).map(|n| json!({"id": format!("b{n}"), "type": "parallel", "branches": branches})).collect();
    let told = problems(&json!({"name": "w", "nodes": nodes}));
    assert!(told.iter().any(|problem| problem.message.ends_with("before them")));
    assert!(told.iter().count() < 50_000, "{}", told.iter().count());
}
