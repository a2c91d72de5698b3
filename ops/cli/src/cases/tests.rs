//! What a test file may say, and what is not as expected.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use longshore_core::error::StepError;
use longshore_core::state::Outcome;
use longshore_worker::testing::Coverage;
use uuid::Uuid;

use super::*;

fn problems(value: Value) -> Vec<String> {
    TestFile::from_json(&value).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn every_mistake_is_named_with_its_place() {
    let found = problems(
        json!({"definition": 7, "mokcs": {}, "mocks": {"a": [], "b": {"output": 1, "x": 2}}, "cases": [
        {"name": "one", "mocks": {"c": [{"error": {"message": "m", "kind": "odd"}}], "d": {"output": 1, "error": {"name": "e"}}}},
        {"name": "one", "bound": "soon", "signals": [{"payload": 1}], "expect": {"state": "done", "attempts": {"a": "2"}, "path": [1], "wat": 1}},
        3]}),
    );
    let starts = [
        "mokcs: there is no such field: remove it; the fields here are `definition`, `workflows`, `mocks`, `cases`",
        "mocks.a: it has no answer",
        "mocks.b: it has `x` beside the fields of an answer",
        "cases[0].mocks.c[0].error.name: it is missing",
        "cases[0].mocks.c[0].error.kind: `odd` is no kind",
        "cases[0].mocks.d: it has an output and an error",
        "cases[1].signals[0].name: it is missing",
        "cases[1].bound: ",
        "cases[1].expect.wat: there is no such field",
        "cases[1].expect.state: `done` is no way in which a run ends",
        "cases[1].expect.attempts.a: it is no whole number",
        "cases[1].expect.path: it is no list of texts",
        "cases[2]: it is no object",
        "cases: several are named `one`",
        "definition: it is no text",
    ];
    for start in starts {
        assert!(found.iter().any(|problem| problem.starts_with(start)), "{start}\n{found:#?}");
    }
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    assert_eq!(problems(json!({"cases": []})).len(), 1);
    assert_eq!(problems(json!([])).len(), 1);
}

#[test]
fn the_mocks_of_a_case_come_before_those_of_the_file_and_plain_values_are_outputs() {
    let file = json!({"mocks": {"a": 1, "b": {"x": 1}, "c": [{"output": [1]}, 2]}, "cases": [
        {"name": "n", "mocks": {"a": [{"error": {"name": "e", "message": "m", "kind": "permanent"}, "input": {"i": 1}}]}}]});
    let file = TestFile::from_json(&file).unwrap();
    let mocks = &file.cases[0].mocks;
    assert_eq!(mocks["a"], [Answer::permanent("e", "m").given(json!({"i": 1}))]);
    assert_eq!(mocks["b"], [Answer::output(json!({"x": 1}))]);
    assert_eq!(mocks["c"], [Answer::output(json!([1])), Answer::output(2)]);
    assert_eq!(file.definition_at(Path::new("w/order.test.json")), Path::new("w/order.json"));
    let other = TestFile { definition: Some("../x.json".into()), ..file };
    assert_eq!(other.definition_at(Path::new("w/order.test.json")), Path::new("w/../x.json"));
}

#[test]
fn what_the_cases_name_must_be_in_the_definitions() {
    let definition = |value: Value| Definition::from_json(&value).unwrap();
    let pack = definition(json!({"name": "pack", "nodes": [{"id": "box", "type": "task", "handler": "h"}]}));
    let order = definition(json!({"name": "order", "nodes": [
        {"id": "a", "type": "task", "handler": "g"}, {"id": "s", "type": "set", "output": 1}, {"id": "call", "type": "subflow", "workflow": "pack"}]}));
    let file = json!({"mocks": {"a": 1, "call": 1, "pack/box": 1, "handler:h": 1, "s": 1, "pack/no": 1, "no/box": 1, "handler:no": 1}, "cases": [
        {"name": "n", "signals": [{"name": "x", "after": "q"}], "expect": {"path": ["a", "p"], "skipped": ["k"], "attempts": {"t": 1}}}]});
    let file = TestFile::from_json(&file).unwrap();
    let problems = file.check(&[order.clone(), pack]);
    let mut paths: Vec<_> = problems.iter().map(|problem| problem.path.as_str()).collect();
    paths.sort_unstable();
    let expected = [
        "cases[0].expect.attempts",
        "cases[0].expect.path",
        "cases[0].expect.skipped",
        "cases[0].signals[0].after",
        "mocks.handler:no",
        "mocks.no/box",
        "mocks.pack/no",
        "mocks.s",
    ];
    assert_eq!(paths, expected);
    let alone = TestFile::from_json(&json!({"cases": [{"name": "n"}, {"name": "m", "mocks": {"call": 1}}]})).unwrap();
    let problems: Vec<_> = alone.check(&[order]).iter().map(ToString::to_string).collect();
    let expected = "cases[0].mocks: `call` starts `pack`, which is not known here: give it a mock, or its definition in `workflows`";
    assert_eq!(problems, [expected]);
}

#[test]
fn what_is_not_as_expected_is_said_with_both() {
    let tested = Tested {
        run_id: Uuid::nil(),
        state: RunState::Failed,
        output: None,
        error: Some(StepError::permanent("declined", "no")),
        context: None,
        path: vec!["a".to_owned(), "b".to_owned()],
        outcomes: BTreeMap::from([
            ("a".to_owned(), vec![Outcome::Failed, Outcome::Completed]),
            ("c".to_owned(), vec![Outcome::Skipped]),
        ]),
        coverage: Coverage::default(),
        complaints: Vec::new(),
    };
    let failures = |expect: Value| {
        let file = json!({"cases": [{"name": "n", "expect": expect}]});
        TestFile::from_json(&file).unwrap().cases[0].failures(&tested)
    };
    let good = json!({"error": {"name": "declined"}, "path": ["b"], "skipped": ["c"], "attempts": {"a": 2, "c": 0}});
    assert_eq!(failures(good), [""; 0]);
    assert_eq!(failures(json!({})), ["state: expected completed, came failed (declined: no)"]);
    let bad = json!({"error": {"name": "odd"}, "output": {"x": 1}, "path": ["b", "a"], "skipped": ["a"], "attempts": {"a": 1}});
    let expected = [
        "output: expected {\"x\":1}, came null",
        "error.name: expected \"odd\", came \"declined\"",
        "path: expected [\"b\",\"a\"], came [\"a\",\"b\"]: `a` is not in it, or not there",
        "skipped: expected `a`, came [\"c\"]",
        "attempts.a: expected 1, came 2",
    ];
    assert_eq!(failures(bad), expected);
}
