//! What the fleet works on: a dozen small workflows with every kind of edge and join, and what must have become of each node when their runs end.

use serde_json::{Value, json};

/// The queue of nearly all of them.
pub(crate) const QUEUE: &str = "chaos";

/// The queue of what any worker can do, with the handlers it is built with.
pub(crate) const PLAIN: &str = "plain";

/// The largest `x` of a run's input, plus one; conditions divide it in the middle.
pub(crate) const X: i64 = 100;

/// A workflow and how its runs end.
#[derive(Clone, Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// How often it is chosen, against the others.
    pub(crate) weight: u32,
    /// Its runs fail.
    pub(crate) fails: bool,
    pub(crate) definition: Value,
}

/// A task on a handler of this crate, named after it.
fn task(id: &str, handler: &str) -> Value {
    json!({"id": id, "type": "task", "handler": handler, "retry": {"max_attempts": 3, "initial": "200ms", "factor": 2, "max": "2s", "jitter": 0.2}})
}

fn tasks(ids: &[&str]) -> Vec<Value> {
    ids.iter().map(|id| task(id, "ok")).collect()
}

fn chain(name: &'static str, handler: &str, length: usize, weight: u32) -> Kind {
    let nodes: Vec<Value> = (0..length).map(|n| task(&format!("n{n}"), handler)).collect();
    let edges: Vec<Value> = (1..length).map(|n| json!([format!("n{}", n - 1), format!("n{n}")])).collect();
    kind(name, weight, nodes, edges)
}

fn kind(name: &'static str, weight: u32, nodes: Vec<Value>, edges: Vec<Value>) -> Kind {
    let definition = json!({"name": name, "queue": QUEUE, "nodes": nodes, "edges": edges});
    Kind { name, weight, fails: false, definition }
}

fn fan(width: usize) -> Kind {
    let mut nodes = tasks(&["first", "join"]);
    let mut edges = Vec::new();
    for n in 0..width {
        let id = format!("w{n}");
        edges.extend([json!(["first", id]), json!([id, "join"])]);
        nodes.push(task(&id, "ok"));
    }
    kind("fan", 3, nodes, edges)
}

/// All workflows of the load.
pub(crate) fn kinds() -> Vec<Kind> {
    let choice = kind(
        "choice",
        8,
        tasks(&["a", "left", "right", "right2", "join", "last"]),
        vec![
            json!({"from": "a", "to": "left", "when": "run.input.x < 50"}),
            json!({"from": "a", "to": "right", "when": "run.input.x >= 50"}),
            json!(["right", "right2"]),
            json!(["left", "join"]),
            json!(["right2", "join"]),
            json!(["join", "last"]),
        ],
    );
    let mut early = tasks(&["a", "b", "c", "join", "last"]);
    early[3]["join"] = json!(2);
    let early = kind(
        "early",
        6,
        early,
        vec![json!(["a", "join"]), json!(["b", "join"]), json!(["c", "join"]), json!(["join", "last"])],
    );
    let flaky = kind(
        "flaky",
        8,
        vec![task("a", "ok"), task("f", "retried"), task("z", "ok")],
        vec![json!(["a", "f"]), json!(["f", "z"])],
    );
    let compensate = kind(
        "compensate",
        6,
        vec![task("a", "ok"), task("d", "doomed"), task("next", "ok"), task("refund", "ok"), task("z", "ok")],
        vec![
            json!(["a", "d"]),
            json!(["d", "next"]),
            json!({"from": "d", "to": "refund", "on": "failure"}),
            json!(["next", "z"]),
            json!(["refund", "z"]),
        ],
    );
    let mut plain = chain("plain", "echo", 5, 6);
    plain.definition["queue"] = json!(PLAIN);
    let mut failing = kind(
        "failing",
        4,
        vec![task("a", "ok"), task("d", "doomed"), task("z", "ok")],
        vec![json!(["a", "d"]), json!(["d", "z"])],
    );
    failing.fails = true;
    let delayed = kind(
        "delayed",
        6,
        vec![task("a", "ok"), json!({"id": "pause", "type": "delay", "duration": "300ms"}), task("z", "ok")],
        vec![json!(["a", "pause"]), json!(["pause", "z"])],
    );
    vec![
        chain("chain", "ok", 10, 30),
        chain("single", "ok", 1, 10),
        chain("slow", "slow", 4, 8),
        fan(40),
        choice,
        early,
        flaky,
        compensate,
        failing,
        delayed,
        plain,
    ]
}

/// The workflow whose handlers do harm: its runs end somehow, and nothing else suffers.
pub(crate) fn poison(handler: &'static str) -> Value {
    let retry = json!({"max_attempts": 2, "initial": "100ms", "factor": 1, "max": "1s", "jitter": 0});
    let poison = json!({"id": "p", "type": "task", "handler": handler, "timeout": "2s", "retry": retry});
    json!({"name": format!("poison-{handler}"), "queue": QUEUE, "nodes": [task("a", "ok"), poison], "edges": [["a", "p"]]})
}

/// One task on a queue of its own, to see in which order they are taken.
pub(crate) fn probe() -> Value {
    json!({"name": "probe", "queue": "probe", "nodes": [task("a", "ok")], "edges": []})
}

/// The nodes that must have been skipped when a run of this kind completed; every other one must have run.
pub(crate) fn skipped(kind: &str, x: i64) -> &'static [&'static str] {
    match kind {
        "choice" if x < X / 2 => &["right", "right2"],
        "choice" => &["left"],
        "compensate" => &["next"],
        _ => &[],
    }
}
