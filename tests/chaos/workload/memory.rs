//! The workflow whose branches, iterations and handlers change its run's context at once, and what the context must be at the end, by arithmetic alone.

use serde_json::{Value, json};

use super::{Kind, block, body, branch, items, kind, of_item, task};

/// What the lone node adds.
const LONE: i64 = 1000;

/// What a handler adds for an item, and what it appends.
pub(crate) fn paid(item: i64) -> (i64, i64) {
    (item * 10, item + 100)
}

/// The sum and the sorted list that a completed run leaves.
pub(crate) fn sums(x: i64) -> (i64, Vec<i64>) {
    let added = (0..items(x)).map(|item| (item, item));
    let mut all: Vec<(i64, i64)> = added.chain((0..items(x)).map(paid)).chain([(LONE, LONE)]).collect();
    all.sort_by_key(|(_, entry)| *entry);
    (all.iter().map(|(amount, _)| amount).sum(), all.iter().map(|(_, entry)| *entry).collect())
}

/// A `foreach` over the run's items.
fn each(id: &str, node: Value) -> Value {
    block(id, "foreach", &json!({"items": "{{ run.input.items }}", "concurrency": 3, "body": body(&[node])}))
}

/// The workflow.
pub(super) fn kinds() -> Vec<Kind> {
    let add = json!({"id": "add", "type": "context", "input": {"item": "{{ item }}"}, "increment": {"sum": "{{ item }}"}, "append": {"list": "{{ item }}"}});
    let lone = json!({"id": "lone", "type": "context", "input": {"item": LONE}, "increment": {"sum": LONE}, "append": {"list": LONE}});
    let all = json!({"branches": [
        branch("nodes", &[each("added", add)]),
        branch("handlers", &[each("paid", of_item("pay", "pays"))]),
        branch("alone", &[lone])]});
    let mut sums = kind(
        "sums",
        5,
        vec![
            json!({"id": "aim", "type": "context", "set": {"target": "{{ run.input.target }}"}}),
            block("p", "parallel", &all),
            json!({"id": "reached", "type": "milestone", "when": "run.context.sum >= run.context.target"}),
            task("z", "ok"),
        ],
        vec![json!(["aim", "p"]), json!(["aim", "reached"]), json!(["p", "z"]), json!(["reached", "z"])],
    );
    sums.definition["context"] = json!({"sum": 0, "list": [], "target": 0});
    vec![sums]
}

/// How many iterations each completed block of it makes.
pub(super) fn iterations(kind: &str, x: i64) -> Vec<(&'static str, i64)> {
    if kind == "sums" { vec![("added", items(x)), ("paid", items(x))] } else { vec![] }
}
