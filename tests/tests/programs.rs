//! Random programs of all kinds of nodes on a fleet of worker processes, some of which are killed: what comes of each is what the interpreter in
//! `longshore_tests::programs` reads off the reference. `longshore-model --cases 10000` does many more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

use std::process::Command;

use chrono::Utc;
use longshore_tests::programs::interpreter::check;
use longshore_tests::programs::program::{Body, Edge, Giving, Kind, Node, On, OnError, Path, Root};
use longshore_tests::programs::record::{Attempt, Frame, Record};
use longshore_tests::programs::script::output;
use serde_json::{Value, json};

/// Seeds of 250 cases each: one that stays, and one that does not.
fn agree(seed: u64) {
    let command = ["--cases", "250", "--workers", "3", "--seed", &seed.to_string()];
    let ended = Command::new(env!("CARGO_BIN_EXE_longshore-model")).args(command).output().unwrap();
    let (said, complained) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    eprintln!("{said}");
    assert!(ended.status.success(), "{said}{complained}");
    assert!(said.contains("250 cases agree"), "{said}");
}

#[test]
fn random_programs_come_to_what_they_mean_whoever_is_killed() {
    agree(1);
    agree(rand::random::<u32>().into());
}

fn node(id: &str, kind: Kind) -> Node {
    Node { id: id.to_owned(), kind, input: None, need: 0, on_error: OnError::Fail, retry: Vec::new(), timeout: None }
}

fn attempt(number: i32, outcome: i16, output: Option<Value>, error: Option<Value>) -> Vec<Attempt> {
    vec![Attempt { number, outcome, output, error, took_ms: 1 }]
}

/// `foreach` over 3 and 4, each a task, then a `set` that reads what came of it.
fn program() -> Body {
    let each = Kind::Foreach {
        items: Giving::Const(json!([3, 4])),
        body: Body { nodes: vec![node("t", Kind::Task)], ..Body::default() },
        concurrency: None,
        tolerate: None,
    };
    let last = Kind::Set(Giving::Of(Path { root: Root::Output("each".to_owned()), field: None }));
    let edges = vec![Edge { from: 0, to: 1, on: On::Success, when: None }];
    Body { nodes: vec![node("each", each), node("last", last)], edges, output: None }
}

/// What Postgres has of a run of it.
fn record() -> Record {
    let (three, four) = (output(&json!(3)), output(&json!(4)));
    let both = json!([three, four]);
    let now = Utc::now();
    let frame = |frame, iteration, whole, input, output: &Value| Frame {
        frame,
        iteration,
        whole,
        state: 3,
        input,
        output: Some(output.clone()),
        error: None,
        created_at: now,
        finished_at: Some(now),
    };
    let step = |frame: i32, node: &str| (frame, node.to_owned());
    let mut record = Record { state: 3, output: Some(both.clone()), known: vec![1, 2, 3], ..Record::default() };
    record.attempts.insert(step(0, "each"), attempt(1, 1, Some(both.clone()), None));
    record.attempts.insert(step(2, "t"), attempt(1, 1, Some(three.clone()), None));
    record.attempts.insert(step(3, "t"), attempt(1, 1, Some(four.clone()), None));
    record.attempts.insert(step(0, "last"), attempt(1, 1, Some(both.clone()), None));
    let bodies = vec![frame(2, 0, false, Some(json!(3)), &three), frame(3, 1, false, Some(json!(4)), &four)];
    record.frames.insert((0, "each".to_owned(), 1), vec![frame(1, -1, true, None, &both)]);
    record.frames.insert((1, "each".to_owned(), 1), bodies);
    record
}

#[test]
fn the_interpreter_agrees_with_a_record_that_is_right() {
    check(&program(), &json!({}), false, &record()).unwrap();
    // what was lost to a crash says nothing
    let mut lost = record();
    let tries = lost.attempts.get_mut(&(2, "t".to_owned())).unwrap();
    tries[0].number = 2;
    tries.splice(0..0, attempt(1, 3, None, None));
    check(&program(), &json!({}), false, &lost).unwrap();
}

#[test]
fn the_interpreter_finds_whatever_is_altered_in_a_record() {
    let each = (0, "each".to_owned());
    let finds = |what: &str, change: &dyn Fn(&mut Record)| {
        let mut altered = record();
        change(&mut altered);
        let found = check(&program(), &json!({}), false, &altered);
        assert!(found.is_err(), "{what}");
    };
    finds("a run that failed", &|record| {
        (record.state, record.error) = (4, Some(json!({"name": "x", "kind": "permanent"})))
    });
    finds("a run that nobody canceled", &|record| record.state = 5);
    finds("another output", &|record| record.output = Some(json!([])));
    finds("an item that never ran", &|record| _ = record.attempts.remove(&(3, "t".to_owned())));
    finds("an item that ran and should not have", &|record| {
        _ = record.attempts.insert((9, "t".to_owned()), attempt(1, 1, None, None))
    });
    finds("a frame too many", &|record| record.known.push(4));
    finds("another item", &|record| {
        record.frames.get_mut(&(1, "each".to_owned(), 1)).unwrap()[0].input = Some(json!(7))
    });
    finds("a canceled item of a block that completed", &|record| {
        let frames = record.frames.get_mut(&(1, "each".to_owned(), 1)).unwrap();
        (frames[1].state, frames[1].output) = (5, None);
        record.attempts.insert((3, "t".to_owned()), attempt(1, 4, None, None));
    });
    finds("an attempt after the one that completed", &|record| {
        let more = attempt(2, 1, record.output.clone(), None);
        record.attempts.get_mut(&each).unwrap().extend(more);
    });
    finds("a number left out", &|record| record.attempts.get_mut(&each).unwrap()[0].number = 2);
    finds("a failure that the script does not know", &|record| {
        let error = json!({"name": "flop", "kind": "retryable"});
        record.attempts.get_mut(&(2, "t".to_owned())).unwrap()[0].number = 2;
        record.attempts.get_mut(&(2, "t".to_owned())).unwrap().splice(0..0, attempt(1, 2, None, Some(error)));
    });
    finds("a skip of what was to run", &|record| {
        _ = record.attempts.insert((0, "last".to_owned()), attempt(0, 5, None, None))
    });
}
