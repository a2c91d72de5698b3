//! What is fuzzed: one function for each reader of outside input, shared by the test `fuzz` (stable Rust, random and mutated input) and by
//! `ops/fuzz` (coverage-guided). A target takes any bytes and panics when a promise of the reader is broken; it never judges time or memory,
//! which whoever calls it does.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use chrono::DateTime;
use longshore::{asl, wfcommons};
use longshore_core::definition::{Definition, Problems};
use longshore_core::duration;
use longshore_core::error::{DELAY_INVALID, EXPRESSION_FAILED, ErrorKind, MAX_MESSAGE, StepError};
use longshore_core::expression::{Expression, Found, Reference, Scope};
use longshore_core::graph::{Graph, NodeKind, NodeResult, RunFacts, Signal, Values};
use longshore_core::payload::Payload;
use serde_json::{Value, json};
use uuid::Uuid;

/// The most bytes that a template may give.
const MOST_OUTPUT: usize = 1024 * 1024;

/// A reader of outside input and what is true of it.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is that of its corpus too.
    pub name: &'static str,
    /// Panics if this input breaks a promise.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 7] = [
    Target { name: "definition", run: definition },
    Target { name: "expression", run: expression },
    Target { name: "template", run: template },
    Target { name: "duration", run: duration_text },
    Target { name: "wfformat", run: wfformat },
    Target { name: "asl", run: asl },
    Target { name: "payload", run: payload },
];

/// The JSON text of a definition: it is refused with problems that say where and how, or it compiles, its canonical form is the same version,
/// and whatever its nodes evaluate gives storable values or permanent errors.
pub fn definition(input: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(input) else { return };
    let read = match Definition::from_json(&value) {
        Ok(read) => read,
        Err(problems) => return refused(&problems),
    };
    let graph = Graph::compile(&read).expect("what is accepted compiles");
    let canonical = read.to_value();
    let again = Definition::from_json(&canonical).unwrap_or_else(|problems| panic!("the canonical form: {problems}"));
    assert_eq!(again.to_value(), canonical, "the canonical form of a canonical form is itself");
    assert_eq!(again.content_hash(), read.content_hash(), "the same content has the same hash");
    let text = Payload::of(&canonical).expect("what is accepted can be stored");
    assert_eq!(Definition::from_json(&text.value()).expect("stored").content_hash(), read.content_hash());
    evaluate(&graph, &json!({"a": [1, "b", null, {"c": true}], "text": "x", "n": 5}));
}

fn refused(problems: &Problems) {
    assert!(!problems.0.is_empty(), "a refusal names a problem");
    let mut seen = HashSet::new();
    for problem in problems {
        assert!(!problem.message.is_empty() && !problem.fix.is_empty(), "{problem:?} says what and how");
        assert!(problem.path.len() < 2_000 && problem.message.len() < 5_000, "{problem} is short");
        assert!(seen.insert(problem), "{problem:?} is named once");
    }
    // a field without a name is at no place either
    let whole = problems
        .0
        .iter()
        .filter(|problem| problem.path.is_empty() && problem.message != "there is no such field")
        .count();
    assert!(whole == 0 || problems.0.len() == 1, "only a definition that cannot be read has no place: {problems}");
    assert!(!problems.to_string().is_empty());
}

/// Evaluates all there is in a version, each node but the last having completed.
fn evaluate(graph: &Graph, input: &Value) {
    let facts = RunFacts {
        run_id: Uuid::nil(),
        workflow: Arc::clone(graph.name()),
        version: 1,
        key: Some("key".to_owned()),
        parent: None,
        input: Payload::of(input).expect("input"),
        mocks: None,
    };
    let output = Payload::of(&json!({"x": 1, "text": "y", "list": [3, 1, 2]})).expect("output");
    let results: BTreeMap<_, _> =
        graph.nodes().iter().map(|node| (node.number, NodeResult::Completed(output.clone()))).collect();
    let values = Values { results, ..Values::new(Arc::new(facts)) };
    if let Err(error) = graph.check_input(&values.run.input) {
        permanent(&error);
    }
    for node in graph.nodes() {
        given(graph.input(node.number, &values));
        match node.kind {
            NodeKind::Task { .. } | NodeKind::Block(_) | NodeKind::Subflow(_) => {}
            NodeKind::Set => given(graph.set_output(node.number, &values, &output)),
            NodeKind::Delay => {
                graph.delay(node.number, &values).map_or_else(|error| permanent(&error), |_| ());
            }
            NodeKind::Context => {
                graph.changes(node.number, &values, &output).map_or_else(|error| permanent(&error), |_| ());
            }
            NodeKind::Wait(_) => {
                graph.announcement(node.number, &values).map_or_else(|error| permanent(&error), |_| ());
                let sent_at = DateTime::default();
                let signal = Signal { id: 1, name: "s".to_owned(), payload: output.clone(), sent_at };
                given(Ok(graph.taken(node.number, &signal)));
                let verdicts = graph.judge(node.number, &values, &[signal]).expect("it is a wait");
                assert!(verdicts.iter().all(|verdict| verdict.signal == 1));
            }
            NodeKind::Fail => match graph.failure(node.number, &values) {
                // that of a node which says that it may be tried again
                Ok(told) if told.kind == ErrorKind::Retryable => {
                    permanent(&StepError { kind: ErrorKind::Permanent, ..told })
                }
                Ok(told) | Err(told) => permanent(&told),
            },
            NodeKind::Terminate => {
                graph.termination(node.number, &values).map_or_else(|error| permanent(&error), |_| ());
            }
        }
    }
    given(graph.body_output(0, &values));
}

/// A value can be stored and read, and is bounded; an error is permanent.
fn given(rendered: Result<Payload, StepError>) {
    match rendered {
        Ok(payload) => {
            assert!(payload.len() <= MOST_OUTPUT, "{} bytes", payload.len());
            Payload::from_text(payload.as_str()).expect("a value that can be stored");
            payload.parse::<Value>().expect("a value that can be read");
        }
        Err(error) => permanent(&error),
    }
}

fn permanent(error: &StepError) {
    assert_eq!(error.kind, ErrorKind::Permanent, "{error:?}");
    assert!(!error.name.is_empty(), "{error:?}");
    assert!(error.message.len() <= MAX_MESSAGE, "{} bytes of message", error.message.len());
    if [EXPRESSION_FAILED, DELAY_INVALID].contains(&error.name.as_str()) {
        assert!(!error.message.is_empty(), "{error:?} says why");
    }
}

/// Two texts in one input: up to the first line break, and what follows; that is the JSON of a run's input where it is any.
fn halves(input: &[u8]) -> Option<(&str, Payload)> {
    let text = std::str::from_utf8(input).ok()?;
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let other = json!({"a": [3, "x", null, 1.5, {"b": {"c": [1, 2]}}], "text": "a,b c", "n": 7, "yes": true, "none": null, "empty": []});
    let input = Payload::from_text(rest).unwrap_or_else(|_| Payload::of(&other).expect("input"));
    Some((first, input))
}

/// A bare expression and an input: it is refused with a reason, or is true, false or a permanent error; its own text says the same again.
pub fn expression(input: &[u8]) {
    let Some((text, input)) = halves(input) else { return };
    let compiled = match Expression::compile(text) {
        Ok(compiled) => compiled,
        Err(why) => return assert!(!why.is_empty() && why.len() < 10_000, "{why}"),
    };
    let find = |reference: &Reference| match reference {
        Reference::RunId
        | Reference::RunWorkflow
        | Reference::RunKey
        | Reference::RunState
        | Reference::State(_)
        | Reference::SignalName => Found::Text("text".to_owned()),
        Reference::RunVersion | Reference::Index | Reference::FrameIndex(_) => Found::Number(3),
        Reference::Failure(_) | Reference::Error => Found::Null,
        Reference::RunInput
        | Reference::RunContext
        | Reference::Output(_)
        | Reference::Input
        | Reference::Item
        | Reference::FrameInput(_)
        | Reference::SignalPayload
        | Reference::RunParent => Found::Json(input.clone()),
    };
    let again = Expression::compile(compiled.text()).expect("its own text compiles");
    assert_eq!(again.references(), compiled.references());
    let mut results = [&compiled, &again].into_iter().map(|expression| expression.is_true(&Scope::new(&find)));
    let (first, second) = (results.next().expect("two"), results.next().expect("two"));
    if let Err(error) = &first {
        permanent(error);
    }
    assert_eq!(first, second, "it is pure");
}

/// A template and an input: it is refused with problems, or gives a value that can be stored, or a permanent error.
pub fn template(input: &[u8]) {
    let Some((text, input)) = halves(input) else { return };
    let template = serde_json::from_str(text).unwrap_or_else(|_| json!(text));
    let written = json!({"name": "w", "nodes": [{"id": "a", "type": "task", "handler": "h"}, {"id": "n", "type": "set", "output": template}],
        "edges": [["a", "n"]], "output": template});
    let graph = match Definition::from_json(&written) {
        Ok(read) => Graph::compile(&read).expect("what is accepted compiles"),
        Err(problems) => return refused(&problems),
    };
    let facts = RunFacts {
        run_id: Uuid::nil(),
        workflow: "w".into(),
        version: 1,
        key: None,
        parent: None,
        input: input.clone(),
        mocks: None,
    };
    let mut values = Values::new(Arc::new(facts));
    values.results.insert(0, NodeResult::Completed(input.clone()));
    given(graph.set_output(1, &values, &input));
    given(graph.body_output(0, &values));
}

/// The text of a duration: it is refused with its text and a reason, or the shortest text for it says the same.
pub fn duration_text(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match duration::parse(text) {
        Ok(read) => {
            assert!(read <= duration::MAX, "{text}");
            let shortest = duration::format(read);
            assert_eq!(duration::parse(&shortest), Ok(read), "{text}: {shortest}");
            assert_eq!(duration::format(read), shortest);
        }
        Err(error) => {
            let said = error.to_string();
            let cut: String = text.chars().take(60).collect();
            assert!(said.contains(&cut) && said.contains("is no duration: ") && said.len() < 500, "{said}");
        }
    }
}

/// A file in WfFormat, plain or gzip: it is refused with a reason, or it is a definition that passes the check.
pub fn wfformat(input: &[u8]) {
    let graph = match wfcommons::Graph::parse(input) {
        Ok(graph) => graph,
        Err(error) => return assert!(!format!("{error:#}").is_empty()),
    };
    for scale in [0.0, 1.0, graph.scale_to(5.0), f64::MAX] {
        let written = graph.definition("imported", scale);
        let read = Definition::from_json(&written).unwrap_or_else(|problems| panic!("imported: {problems}"));
        assert_eq!((read.nodes.len(), read.edges.len()), (graph.tasks(), graph.edges()));
        for node in &read.nodes {
            let seconds = node.input.as_ref().and_then(|input| input["seconds"].as_f64());
            assert!(seconds.is_some_and(|seconds| seconds >= 0.0), "{} sleeps for {:?}", node.id, node.input);
        }
        Graph::compile(&read).expect("what is imported compiles");
    }
}

/// A state machine: it is refused with reasons, or it is a definition that passes the check.
pub fn asl(input: &[u8]) {
    let Ok(machine) = serde_json::from_slice::<Value>(input) else { return };
    match asl::definition(&machine, "imported") {
        Ok(written) => {
            let read = Definition::from_json(&written).unwrap_or_else(|problems| panic!("imported: {problems}"));
            let graph = Graph::compile(&read).expect("what is imported compiles");
            evaluate(&graph, &json!({"a": [1, "b", null, {"c": true}], "text": "x", "n": 5}));
        }
        Err(refused) => {
            assert!(!refused.0.is_empty(), "a refusal says why");
            assert!(refused.0.iter().all(|refusal| !refusal.reason.is_empty()), "{refused}");
        }
    }
}

/// JSON text on its way to Postgres: it is accepted exactly when `serde_json` reads it and it holds no U+0000, and then stays as it was.
pub fn payload(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let read = serde_json::from_str::<Value>(text);
    match Payload::from_text(text) {
        Ok(payload) => {
            assert_eq!(payload.as_str(), text);
            let value = read.expect("what is accepted can be read");
            assert!(!holds_nul(&value), "{text}");
            let again = Payload::of(&value).expect("its value is accepted too");
            // Numbers of many digits lose some on the way through a tree, once.
            assert_eq!(Payload::of(&again.value()).expect("and again"), again);
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let fine = read.is_ok_and(|value| !holds_nul(&value)) && !has_long_number(text);
            assert!(!fine, "{text}: {error}");
        }
    }
}

/// Numbers beyond these bounds are refused whatever their value; the text may be inside a string too.
fn has_long_number(text: &str) -> bool {
    let mut run = 0;
    text.contains(['e', 'E'])
        || text.bytes().any(|byte| {
            run = if byte.is_ascii_digit() || byte == b'.' { run + 1 } else { 0 };
            run > 300
        })
}

fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(map) => map.iter().any(|(key, item)| key.contains('\0') || holds_nul(item)),
        _ => false,
    }
}
