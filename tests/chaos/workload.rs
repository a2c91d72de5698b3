//! What the fleet works on: small workflows of many kinds of nodes, edges, joins and blocks, and what must have become of each node when their runs end.

mod children;
mod memory;

use serde_json::{Value, json};

pub(crate) use self::children::definitions as children;
pub(crate) use self::memory::{paid, sums};

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

/// What a run is given: items for a `foreach` and passes for a `while` follow from `x`.
pub(crate) fn input(x: i64) -> Value {
    let numbers = |count: i64| (0..count).collect::<Vec<_>>();
    json!({"x": x, "items": numbers(items(x)), "few": numbers(few(x)), "passes": passes(x), "target": sums(x).0})
}

/// How many child runs.
fn few(x: i64) -> i64 {
    2 + x % 3
}

fn items(x: i64) -> i64 {
    2 + x % 8
}

fn passes(x: i64) -> i64 {
    x % 6
}

/// The handler `odd` fails for this item.
pub(crate) fn is_bad(item: i64) -> bool {
    item % 4 == 3
}

/// A block with these fields.
fn block(id: &str, kind: &str, fields: &Value) -> Value {
    let mut node = json!({"id": id, "type": kind});
    for (name, value) in fields.as_object().into_iter().flatten() {
        node[name] = value.clone();
    }
    node
}

/// A task of a body that is told of its item.
fn of_item(id: &str, handler: &str) -> Value {
    let mut task = task(id, handler);
    task["input"] = json!({"item": "{{ item }}"});
    task
}

/// A body whose nodes follow each other.
fn body(nodes: &[Value]) -> Value {
    let edges: Vec<Value> = nodes.windows(2).map(|pair| json!([pair[0]["id"], pair[1]["id"]])).collect();
    json!({"nodes": nodes, "edges": edges})
}

/// A branch of a `parallel`.
fn branch(id: &str, nodes: &[Value]) -> Value {
    let mut branch = body(nodes);
    branch["id"] = json!(id);
    branch
}

/// A `try` with a `finally`; the catch takes every error and is told of what `given` is.
fn attempt(id: &str, nodes: &[Value], given: Value) -> Value {
    let mut caught = task(&format!("{id}-caught"), "ok");
    caught["input"] = given;
    let last = task(&format!("{id}-last"), "ok");
    block(id, "try", &json!({"body": body(nodes), "catch": [{"body": body(&[caught])}], "finally": body(&[last])}))
}

/// A `while` of as many passes as the run was given.
fn passes_of(id: &str) -> Value {
    let turn = task(&format!("{id}-turn"), "ok");
    block(id, "while", &json!({"when": "input.n < run.input.passes", "input": {"n": 0}, "body": body(&[turn])}))
}

/// The workflows with blocks.
fn blocks() -> Vec<Kind> {
    let mut keep = of_item("keep", "ok");
    keep["input"]["before"] = json!("{{ nodes.pick.output }}");
    let each = json!({"items": "{{ run.input.items }}", "concurrency": 3, "tolerate": {"count": 2}, "body": body(&[of_item("pick", "odd"), keep])});
    let each = kind(
        "each",
        4,
        vec![task("a", "ok"), block("items", "foreach", &each), task("z", "ok")],
        vec![json!(["a", "items"]), json!(["items", "z"])],
    );
    let many: Vec<i64> = (0..40).collect();
    let wide = json!({"items": many, "concurrency": 20, "body": body(&[of_item("one", "ok")])});
    let wide = kind("wide", 1, vec![block("items", "foreach", &wide)], vec![]);
    let spent =
        json!({"items": [0, 1, 2, 3, 4, 5, 6, 7], "tolerate": {"count": 1}, "body": body(&[of_item("pick", "odd")])});
    let mut spent = kind("spent", 2, vec![block("items", "foreach", &spent)], vec![]);
    spent.fails = true;
    let passes = kind("passes", 4, vec![passes_of("loop"), task("z", "ok")], vec![json!(["loop", "z"])]);
    let race = json!({"branches": [
        branch("bad", &[task("b", "ok"), task("d", "doomed")]),
        branch("slow", &[task("s", "slow"), task("never", "ok")]),
        branch("deep", &[block("within", "foreach", &json!({"items": [0, 1, 2], "body": body(&[of_item("deep-s", "slow"), of_item("deep-never", "ok")])}))])]});
    let race = kind(
        "race",
        4,
        vec![block("p", "parallel", &race), task("next", "ok"), task("after", "ok")],
        vec![json!(["p", "next"]), json!({"from": "p", "to": "after", "on": "failure"})],
    );
    let first = json!({"ends": "any", "branches": [
        branch("slow", &[task("s", "slow")]), branch("fast", &[task("f1", "ok"), task("f2", "ok")]), branch("bad", &[task("b", "doomed")])]});
    let first = kind("first", 4, vec![block("p", "parallel", &first), task("z", "ok")], vec![json!(["p", "z"])]);
    let caught = attempt("tried", &tasks_and_doom(), json!({"name": "{{ error.name }}"}));
    let caught = kind("caught", 4, vec![caught], vec![]);
    // the time is over in about half of the runs
    let bounded = json!({"timeout": "250ms", "branches": [branch("slow", &[task("s", "slow")]), branch("fast", &[task("f", "ok")])]});
    let bounded = kind(
        "bounded",
        4,
        vec![block("p", "parallel", &bounded), task("next", "ok"), task("late", "ok")],
        vec![json!(["p", "next"]), json!({"from": "p", "to": "late", "on": "failure"})],
    );
    // one item fails, and with it all others, each in a block of its own
    let part = json!({"branches": [branch("one", &[of_item("one", "odd")]), branch("two", &[of_item("two", "slow")])]});
    let all = json!({"items": [0, 1, 2, 3, 4], "body": body(&[block("part", "parallel", &part), of_item("after-part", "ok")])});
    let rescue = attempt("tried", &[block("items", "foreach", &all)], json!({"name": "{{ error.name }}"}));
    let rescue = kind("rescue", 2, vec![rescue], vec![]);
    let choice = json!({"when": "item % 2 == 0", "then": body(&[task("even", "doomed")]), "else": body(&[of_item("uneven", "ok")])});
    let both = json!({"branches": [branch("loop", &[passes_of("loop")]), branch("choice", &[block("choice", "if", &choice)])]});
    let each_of = json!({"items": "{{ run.input.items }}", "concurrency": 4,
        "body": body(&[attempt("tried", &[block("both", "parallel", &both)], json!({"item": "{{ item }}"}))])});
    let nested =
        kind("nested", 3, vec![block("items", "foreach", &each_of), task("z", "ok")], vec![json!(["items", "z"])]);
    // chance decides which attempt of the block completes, if any
    let coins = json!({"retry": {"max_attempts": 3, "initial": "50ms", "jitter": 0.2}, "branches": [
        branch("coin", &[task("c", "coin"), task("then", "ok")]), branch("deep", &[block("some", "foreach", &json!({
            "items": [0, 1, 2, 3], "concurrency": 2, "body": body(&[of_item("s", "slow"), of_item("c2", "ok")])}))])]});
    let again = attempt("tried", &[block("coins", "parallel", &coins)], json!({"name": "{{ error.name }}"}));
    let again = kind("again", 3, vec![again], vec![]);
    let mut kept = passes_of("loop");
    kept["keep"] = json!(2);
    let kept = kind("kept", 2, vec![kept, task("z", "ok")], vec![json!(["loop", "z"])]);
    vec![each, wide, spent, passes, race, first, caught, bounded, rescue, nested, again, kept]
}

/// A node that waits for signals.
fn wait(id: &str, fields: &Value) -> Value {
    block(id, "wait", fields)
}

/// The workflows that wait for signals; what they are sent follows from [`signals`].
fn waits() -> Vec<Kind> {
    let steps =
        |nodes: Vec<Value>| body(&nodes)["edges"].as_array().cloned().map(|edges| (nodes, edges)).unwrap_or_default();
    let (nodes, edges) = steps(vec![task("a", "ok"), wait("w", &json!({"signals": ["go", "other"]})), task("z", "ok")]);
    let asked = kind("asked", 5, nodes, edges);
    // signal and time race each other
    let raced = kind(
        "raced",
        5,
        vec![wait("w", &json!({"signal": "go", "timeout": "250ms"})), task("next", "ok"), task("late", "ok")],
        vec![json!(["w", "next"]), json!({"from": "w", "to": "late", "on": "timeout"})],
    );
    let approval = json!({"id": "boss", "type": "approval", "approvers": ["ann"], "schema": {"type": "string"}});
    let (nodes, edges) = steps(vec![approval, task("z", "ok")]);
    let approved = kind("approved", 4, nodes, edges);
    let each = json!({"items": "{{ run.input.items }}", "concurrency": 3, "body":
        body(&[wait("w", &json!({"signal": "item", "match": "signal.payload.item == item"})), of_item("one", "ok")])});
    let (nodes, edges) = steps(vec![block("items", "foreach", &each), task("z", "ok")]);
    let answered = kind("answered", 3, nodes, edges);
    // whoever is first gets the first
    let each = json!({"items": "{{ run.input.items }}", "body": body(&[wait("w", &json!({"signal": "any"})), of_item("one", "ok")])});
    let shared = kind("shared", 3, vec![block("items", "foreach", &each)], vec![]);
    vec![asked, raced, approved, answered, shared]
}

/// What a run of this kind is sent: names, and payloads beside the token. Each of them may be sent twice, and in any order.
pub(crate) fn signals(kind: &str, x: i64) -> Vec<(&'static str, Value)> {
    match kind {
        "asked" | "raced" => vec![(if x % 3 == 0 && kind == "asked" { "other" } else { "go" }, json!({}))],
        "approved" => vec![("approval:boss", json!({"by": "ann"})), ("approval:boss", json!({"by": "eve"}))],
        "answered" => (0..items(x)).map(|item| ("item", json!({"item": item}))).collect(),
        "shared" => (0..items(x)).map(|_| ("any", json!({}))).collect(),
        _ => vec![],
    }
}

/// The workflow whose runs fail until they are tried again often enough.
pub(crate) const STUBBORN: &str = "stubborn";

/// The workflows whose runs go on because somebody says so: one pauses itself, one is tried again after it failed.
fn resumed() -> Vec<Kind> {
    let mut parking = task("g", "retried");
    parking["retry"]["max_attempts"] = json!(1);
    parking["retry"]["give_up"] = json!("pause");
    let parks =
        kind("parks", 4, vec![task("a", "ok"), parking, task("z", "ok")], vec![json!(["a", "g"]), json!(["g", "z"])]);
    let stubborn = kind(
        STUBBORN,
        4,
        vec![task("a", "ok"), task("s", "stubborn"), task("b", "slow"), task("c", "ok"), task("z", "ok")],
        vec![json!(["a", "s"]), json!(["a", "b"]), json!(["b", "c"]), json!(["s", "z"]), json!(["c", "z"])],
    );
    vec![parks, stubborn]
}

fn tasks_and_doom() -> [Value; 3] {
    [task("b", "ok"), task("d", "doomed"), task("never", "ok")]
}

/// The workflows of these names; all of them where none is named.
pub(crate) fn chosen(names: Option<&[String]>) -> anyhow::Result<Vec<Kind>> {
    let all = kinds();
    let Some(names) = names else { return Ok(all) };
    if let Some(unknown) = names.iter().find(|name| all.iter().all(|kind| kind.name != **name)) {
        let known: Vec<&str> = all.iter().map(|kind| kind.name).collect();
        anyhow::bail!("there is no workflow {unknown}: name some of {}", known.join(", "));
    }
    Ok(all.into_iter().filter(|kind| names.iter().any(|name| kind.name == name)).collect())
}

/// All workflows there are.
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
    let mut kinds = vec![
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
    ];
    kinds.extend(blocks());
    kinds.extend(waits());
    kinds.extend(children::kinds());
    kinds.extend(memory::kinds());
    kinds.extend(resumed());
    kinds
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

/// The nodes outside of blocks that must have been skipped when a run of this kind completed; every other one must have run.
pub(crate) fn skipped(kind: &str, x: i64) -> &'static [&'static str] {
    match kind {
        "choice" if x < X / 2 => &["right", "right2"],
        "choice" => &["left"],
        "compensate" | "race" => &["next"],
        _ => &[],
    }
}

/// The nodes that give up in every run of this kind that completes.
pub(crate) fn gives_up(kind: &str) -> &'static [&'static str] {
    match kind {
        "compensate" => &["d"],
        "race" => &["p"],
        _ => &[],
    }
}

/// The nodes of this kind of which nobody can say beforehand what becomes of them.
pub(crate) fn open(kind: &str) -> &'static [&'static str] {
    match kind {
        "bounded" => &["p", "next", "late"],
        "raced" => &["w", "next", "late"],
        "hurried" => &["call", "next", "late"],
        "begged" => &["restless", "sprint", "next", "late"],
        _ => &[],
    }
}

/// How many iterations each completed block of this kind made.
pub(crate) fn iterations(kind: &str, x: i64) -> Vec<(&'static str, i64)> {
    match kind {
        "each" | "answered" | "shared" => vec![("items", items(x))],
        "wide" => vec![("items", 40)],
        "passes" | "kept" => vec![("loop", passes(x))],
        "nested" => vec![("items", items(x)), ("loop", passes(x))],
        _ => [children::iterations(kind, x), memory::iterations(kind, x)].concat(),
    }
}
