//! The workflows that start runs of others, and those others: two levels that are waited for, some of which fail, detached ones, and one that races the
//! time it is given.

use serde_json::{Value, json};

use super::{Kind, attempt, block, body, few, kind, task};

/// A task that is told which item its run is for.
fn of_run(id: &str, handler: &str) -> Value {
    let mut task = task(id, handler);
    task["input"] = json!({"item": "{{ run.input.item }}"});
    task
}

/// A child run.
fn call(id: &str, workflow: &str, fields: &Value) -> Value {
    let mut node = block(id, "subflow", fields);
    node["workflow"] = json!(workflow);
    node
}

/// A child run for the item at hand.
fn of_each(id: &str, workflow: &str) -> Value {
    call(id, workflow, &json!({"input": {"item": "{{ item }}"}}))
}

/// What only other runs start, each before those that start it.
pub(crate) fn definitions() -> Vec<Value> {
    let define = |name: &'static str, nodes: &[Value]| {
        let graph = body(nodes);
        let edges = graph["edges"].as_array().cloned().unwrap_or_default();
        kind(name, 0, nodes.to_vec(), edges).definition
    };
    let each = json!({"items": [0, 1, 2, 3], "concurrency": 2,
        "body": body(&[attempt("tried", &[of_each("call", "leaf")], json!({"item": "{{ item }}"}))])});
    vec![
        define("leaf", &[of_run("pick", "odd"), of_run("keep", "ok")]),
        define("limb", &[block("items", "foreach", &each), of_run("z", "odd")]),
        define("drift", &[task("s1", "slow"), task("s2", "slow"), task("s3", "slow")]),
        define("sprint", &[task("s", "slow"), task("f", "ok")]),
    ]
}

/// The workflows that start them.
pub(super) fn kinds() -> Vec<Kind> {
    let each = json!({"items": "{{ run.input.few }}", "concurrency": 2,
        "body": body(&[attempt("tried", &[of_each("call", "limb")], json!({"item": "{{ item }}"}))])});
    let parents =
        kind("parents", 3, vec![block("items", "foreach", &each), task("z", "ok")], vec![json!(["items", "z"])]);
    let strays = kind(
        "strays",
        4,
        vec![
            task("a", "ok"),
            call("leave", "drift", &json!({"mode": "detached", "input": {}})),
            call("keep", "drift", &json!({"mode": "detached", "close_policy": "terminate", "input": {}})),
            task("z", "slow"),
        ],
        vec![json!(["a", "leave"]), json!(["a", "keep"]), json!(["leave", "z"]), json!(["keep", "z"])],
    );
    // the time is over in a part of the runs
    let hurried = kind(
        "hurried",
        5,
        vec![call("call", "sprint", &json!({"input": {}, "timeout": "400ms"})), task("next", "ok"), task("late", "ok")],
        vec![json!(["call", "next"]), json!({"from": "call", "to": "late", "on": "failure"})],
    );
    vec![parents, strays, hurried]
}

/// How many iterations each completed block of such a workflow makes.
pub(super) fn iterations(kind: &str, x: i64) -> Vec<(&'static str, i64)> {
    if kind == "parents" { vec![("items", few(x))] } else { vec![] }
}
