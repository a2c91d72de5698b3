#![allow(clippy::expect_used, clippy::panic)]

use super::*;

#[test]
fn items_keep_their_spelling() {
    let items = split(&Payload::trusted("[1.50, {\"a\": [1,2]} , null,\"x\"]".into()).clone()).unwrap_or_default();
    let texts: Vec<&str> = items.iter().map(Payload::as_str).collect();
    assert_eq!(texts, ["1.50", "{\"a\": [1,2]}", "null", "\"x\""]);
    assert_eq!(list(items.iter()).as_str(), "[1.50,{\"a\": [1,2]},null,\"x\"]");
    assert!(split(&Payload::null()).is_none());
}

/// Both counts are full when the last iteration to end is one too many that failed, and any of the two may be heard first.
#[test]
fn a_foreach_of_which_the_last_iteration_failed_fails_whichever_count_is_heard() {
    let body = json!({"nodes": [{"id": "t", "type": "task", "handler": "h"}]});
    let each = json!({"name": "w", "nodes": [{"id": "f", "type": "foreach", "items": [1, 2], "tolerate": {"count": 1}, "body": body}]});
    let definition = crate::definition::Definition::from_json(&each).unwrap_or_else(|problems| panic!("{problems}"));
    let graph = Graph::compile(&definition).expect("a graph");
    let child = |iteration: i32, result: Result<Payload, StepError>| Child {
        frame: 2 + iteration,
        iteration,
        result: Some(result),
        input: None,
        before: Vec::new(),
        finished_at: None,
    };
    let failed = |iteration| child(iteration, Err(StepError::permanent("bad", "")));
    let whole = |tolerated| FrameFacts {
        frame: 1,
        parent: 0,
        block: 0,
        attempt: 1,
        iteration: NO_BODY,
        whole: true,
        failed: 0,
        bounds: Some(Bounds { count: 2, chunk: 2, ahead: 1, tolerated, need: 0 }),
        input: Payload::null(),
        before: Vec::new(),
        live: true,
        finally: false,
        created_at: None,
    };
    let name = |tolerated, children: &[Child]| graph.collect(&whole(tolerated), children).map_err(|error| error.name);
    let one = [child(0, Ok(Payload::null())), failed(1)];
    assert_eq!(name(0, &one), Err("bad".to_owned()));
    assert!(name(1, &one).is_ok());
    assert_eq!(name(1, &[failed(0), failed(1)]), Err(TOLERANCE_EXCEEDED.to_owned()));
}
