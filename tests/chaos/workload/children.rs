//! The workflows that start runs of others, and those others: two levels that are waited for, some of which fail, detached ones, some that race the time
//! they are given, some that are asked to end, and attempts of which each starts another.

use serde_json::{Value, json};

use super::{Kind, attempt, block, body, few, kind, task, wait};

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
    let mut once = task("c", "moody");
    once["retry"]["max_attempts"] = json!(1);
    vec![
        define("leaf", &[of_run("pick", "odd"), of_run("keep", "ok")]),
        define("limb", &[block("items", "foreach", &each), of_run("z", "odd")]),
        define("drift", &[task("s1", "slow"), task("s2", "slow"), task("s3", "slow")]),
        define("sprint", &[task("s", "slow"), task("f", "ok")]),
        // goes on until it is asked to end
        define(
            "patient",
            &[task("s", "ok"), wait("asked", &json!({"signal": "cancel_requested"})), task("tidy", "ok")],
        ),
        // the same, but not for ever
        define(
            "restless",
            &[
                task("s", "slow"),
                wait("asked", &json!({"signal": "cancel_requested", "timeout": "3s", "on_error": "continue"})),
                task("tidy", "ok"),
            ],
        ),
        define("toss", &[task("s", "ok"), once]),
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
    let polite = kind(
        "polite",
        3,
        vec![
            task("a", "ok"),
            call("leave", "patient", &json!({"mode": "detached", "close_policy": "request_cancel", "input": {}})),
            task("z", "slow"),
        ],
        vec![json!(["a", "leave"]), json!(["leave", "z"])],
    );
    let asks = |workflow| {
        call(workflow, workflow, &json!({"input": {}, "timeout": "400ms", "close_policy": "request_cancel"}))
    };
    let begged = kind(
        "begged",
        3,
        vec![asks("restless"), asks("sprint"), task("next", "ok"), task("late", "ok")],
        vec![
            json!({"from": "restless", "to": "late", "on": "failure"}),
            json!(["sprint", "next"]),
            json!({"from": "sprint", "to": "late", "on": "failure"}),
        ],
    );
    // chance decides which attempt completes, if any
    let again = json!({"input": {}, "retry": {"max_attempts": 3, "initial": "50ms", "jitter": 0.2}});
    let persistent = attempt("tried", &[call("call", "toss", &again)], json!({"name": "{{ error.name }}"}));
    let persistent = kind("persistent", 3, vec![persistent], vec![]);
    vec![parents, strays, hurried, polite, begged, persistent]
}

/// How many iterations each completed block of such a workflow makes.
pub(super) fn iterations(kind: &str, x: i64) -> Vec<(&'static str, i64)> {
    if kind == "parents" { vec![("items", few(x))] } else { vec![] }
}
