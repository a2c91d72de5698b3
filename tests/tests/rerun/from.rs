//! A new run that begins within blocks: what is not downstream is taken over, frames and records with it.

use longshore_enqueuer::{RerunError, Version};
use longshore_tests::TestFleet;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{failing, fleet, words};

fn task(id: &str, input: Value) -> Value {
    json!({"id": id, "type": "task", "handler": "echo", "input": input})
}

/// How many attempts of a node ran in a run, and were not taken over.
async fn ran(fleet: &TestFleet, run: Uuid, node: &str) -> i64 {
    sqlx::query_scalar(
        "select count(*) from longshore.execution_step_attempts a join longshore.workflow_runs r on r.run_id = a.run_id
         join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node
         where a.run_id = $1 and n.id = $2 and a.lane_id <> 0",
    )
    .bind(run)
    .bind(node)
    .fetch_one(&fleet.database.pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_begins_anew_within_a_loop_and_a_map() {
    let pass = json!({"nodes": [task("load", json!("{{ frame.input }}")), task("grow", json!({"n": "{{ nodes.load.output.n + run.input.step }}"}))],
        "edges": [["load", "grow"]]});
    let again = json!({"id": "again", "type": "while", "when": "input.n < 3", "input": {"n": 0}, "body": pass});
    let each = json!({"id": "each", "type": "foreach", "items": ["a", "b", "c"], "body": {
        "nodes": [task("get", json!("{{ item }}")), again, task("put", json!(["{{ nodes.get.output }}", "{{ nodes.again.output.n }}"]))],
        "edges": [["get", "again"], ["again", "put"]]}});
    let definition = json!({"name": "w", "nodes": [task("before", json!(1)), each, task("side", json!(2)), task("after", json!("{{ nodes.each.output }}"))],
        "edges": [["before", "each"], ["each", "after"], ["before", "side"]], "output": "{{ nodes.after.output }}"});
    let fleet = fleet(definition.clone()).await;
    let (run, output) = fleet.complete("w", json!({"step": 1})).await;
    assert_eq!(output, json!([["a", 3], ["b", 3], ["c", 3]]));
    let planned = fleet.enqueuer.rerun(run, "each[1]/again[1]/grow").input(&json!({"step": 10})).plan().await.unwrap();
    assert_eq!(planned.taken_up, words(&["each", "each[1]/again"]), "{planned:?}");
    assert_eq!(planned.ready, words(&["each[1]/again[1]/grow"]));
    for place in ["before", "side", "each[0]", "each[2]", "each[1]/get", "each[1]/again[0]", "each[1]/again[1]/load"] {
        assert!(planned.reused.iter().any(|one| one == place), "{place}: {planned:?}");
    }
    for place in ["after", "each[1]/put"] {
        assert!(planned.later.iter().any(|one| one == place), "{place}: {planned:?}");
    }
    let anew = fleet.enqueuer.rerun(run, "each[1]/again[1]/grow").input(&json!({"step": 10})).await.unwrap();
    let anew = anew.run_id.unwrap();
    assert_eq!(fleet.ended(anew).await, ("completed".to_owned(), json!([["a", 3], ["b", 11], ["c", 3]])));
    for (node, times) in [("before", 0), ("side", 0), ("get", 0), ("load", 0), ("grow", 1), ("put", 1), ("after", 1)] {
        assert_eq!(ran(&fleet, anew, node).await, times, "{node}");
    }
    assert_eq!(fleet.ended(run).await.1, output, "the other run stays as it was");
    // a body from its beginning, and a run that was itself one of these
    let third = fleet.enqueuer.rerun(anew, "each[2]").await.unwrap().run_id.unwrap();
    assert_eq!(fleet.ended(third).await.1, json!([["a", 3], ["b", 11], ["c", 10]]));
    assert_eq!(ran(&fleet, third, "get").await, 1);
    for (place, refused) in [
        ("each/get", "say which"),
        ("each[9]/get", "no such iteration"),
        ("each[1]/again[7]/grow", "no such iteration"),
        ("before[0]", "holds no nodes"),
        ("before/get", "holds no nodes"),
        ("each[x]/get", "say which"),
        ("each[1]/put/", "holds no nodes"),
    ] {
        let error = fleet.enqueuer.rerun(run, place).plan().await.unwrap_err();
        assert!(matches!(&error, RerunError::Place { why, .. } if why.contains(refused)), "{place}: {error:?}");
    }
    for place in ["get", "each[1]/nothing", "each[1", ""] {
        let error = fleet.enqueuer.rerun(run, place).plan().await.unwrap_err();
        assert!(matches!(error, RerunError::UnknownNode { .. }), "{place}: {error:?}");
    }
    let mut newer = definition;
    newer["queue"] = json!("other");
    fleet.apply(newer).await;
    let other = fleet.enqueuer.rerun(run, "each[1]/put").version(Version::Latest).plan().await;
    assert!(matches!(other, Err(RerunError::Place { .. })), "{other:?}");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_begins_anew_within_branches_cases_and_catches() {
    let bad = json!({"id": "bad", "type": "task", "handler": "flaky", "input": {"fail": 9, "permanent": true, "name": "oops"}});
    let tried = json!({"id": "t", "type": "try", "body": {"nodes": [task("ok", json!(1)), bad], "edges": [["ok", "bad"]]},
        "catch": [{"body": {"nodes": [task("sorry", json!("{{ run.input }}"))]}}], "finally": {"nodes": [task("log", json!(0))]}});
    let chosen = json!({"id": "if", "type": "if", "when": "true", "then": {"nodes": [task("yes", json!(7)), task("y2", json!(["{{ run.input }}", "{{ nodes.yes.output }}"]))],
        "edges": [["yes", "y2"]]}});
    let definition = json!({"name": "w", "nodes": [{"id": "p", "type": "parallel", "branches": [
        {"id": "l", "nodes": [tried]}, {"id": "r", "nodes": [chosen]}]}]});
    let fleet = fleet(definition).await;
    let (run, output) = fleet.complete("w", json!("x")).await;
    assert_eq!(output, json!({"l": "x", "r": ["x", 7]}));
    for (from, given, again) in [
        ("p[r]/if[then]/y2", json!({"l": "x", "r": ["y", 7]}), &["y2"][..]),
        ("p/if/yes", json!({"l": "x", "r": ["y", 7]}), &["yes", "y2"]),
        ("p/t/sorry", json!({"l": "y", "r": ["x", 7]}), &["sorry", "log"]),
        ("p/t[finally]/log", json!({"l": "x", "r": ["x", 7]}), &["log"]),
        ("p/t[body]/bad", json!({"l": "y", "r": ["x", 7]}), &["bad", "sorry", "log"]),
    ] {
        let anew = fleet.enqueuer.rerun(run, from).input("y").await.unwrap().run_id.unwrap();
        assert_eq!(fleet.ended(anew).await, ("completed".to_owned(), given), "{from}");
        for node in ["ok", "bad", "sorry", "log", "yes", "y2"] {
            assert_eq!(ran(&fleet, anew, node).await, i64::from(again.contains(&node)), "{from}: {node}");
        }
    }
    fleet.finish().await;
}

/// What of the other run had not completed beside the place in question goes on where it stood.
#[tokio::test(flavor = "multi_thread")]
async fn what_failed_elsewhere_goes_on_in_the_new_run() {
    let t = json!({"id": "t", "type": "task", "handler": "flaky",
        "input": {"fail": "{{ 9 if item == 1 and run.input == 'bad' else 0 }}", "permanent": true, "output": "{{ item }}"}});
    let each = json!({"id": "each", "type": "foreach", "items": "{{ nodes.a.output }}", "concurrency": 2, "tolerate": {"count": 0}, "body": {
        "nodes": [failing("pre", 0), t], "edges": [["pre", "t"]], "output": "{{ nodes.t.output }}"}});
    let count = json!({"id": "count", "type": "context", "increment": {"n": 1}});
    let fleet =
        fleet(json!({"name": "w", "context": {"n": 0}, "nodes": [task("a", json!([0, 1, 2, 3, 4, 5])), count, each],
        "edges": [["a", "count"], ["count", "each"]], "output": ["{{ nodes.each.output }}", "{{ run.context.n }}"]}))
        .await;
    let run = fleet.start("w", json!("bad")).await;
    assert_eq!(fleet.ended(run).await.0, "failed");
    let anew = fleet.enqueuer.rerun(run, "each[0]/t").input("good").await.unwrap();
    assert!(anew.later.iter().any(|place| place.starts_with("each[") && place.ends_with("-5]")), "{anew:?}");
    let anew = anew.run_id.unwrap();
    assert_eq!(fleet.ended(anew).await, ("completed".to_owned(), json!([[0, 1, 2, 3, 4, 5], 1])));
    assert_eq!((ran(&fleet, anew, "a").await, ran(&fleet, anew, "count").await), (0, 0));
    fleet.finish().await;
}

/// Whatever was taken over, and how often: a run made anew begins with the context as it was at the place, and counts what comes after it once.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_itself_made_anew_begins_with_the_context_of_then() {
    let count = |id: &str, amount: i32| json!({"id": id, "type": "context", "increment": {"n": amount}});
    let each = json!({"id": "each", "type": "while", "when": "input.pass < 3", "input": {"pass": 0}, "body": {
        "nodes": [count("one", 10), count("two", 10), {"id": "next", "type": "set", "output": {"pass": "{{ frame.input.pass + 1 }}"}}],
        "edges": [["one", "two"], ["two", "next"]], "output": "{{ nodes.next.output }}"}});
    let fleet = fleet(json!({"name": "w", "context": {"n": 0}, "nodes": [count("first", 1), each, count("last", 100), failing("end", 0)],
        "edges": [["first", "each"], ["each", "last"], ["last", "end"]], "output": "{{ run.context.n }}"}))
    .await;
    let (run, output) = fleet.complete("w", json!({})).await;
    assert_eq!(output, json!(161));
    let anew = async |of: Uuid, from: &str| {
        let anew = fleet.enqueuer.rerun(of, from).await.unwrap().run_id.unwrap();
        assert_eq!(fleet.ended(anew).await, ("completed".to_owned(), json!(161)), "from {from}");
        anew
    };
    let late = anew(run, "end").await;
    let within = anew(run, "each[1]/two").await;
    for (of, places) in [
        (late, &["last", "each", "first"][..]),
        (anew(late, "last").await, &["end", "each"]),
        (within, &["last", "each[2]/two", "each[1]/one", "each[0]/two", "each", "first"]),
        (anew(within, "each[2]/one").await, &["each[1]/two", "each[0]/one", "first"]),
    ] {
        for from in places {
            anew(of, from).await;
        }
    }
    fleet.finish().await;
}

/// What stays was changed once, whatever is done anew before it, and what nobody does again is not lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_context_is_taken_over_without_the_changes_of_what_is_done_anew() {
    let count =
        |id: &str, amount: i32| json!({"id": id, "type": "context", "increment": {"n": amount}, "append": {"by": id}});
    let fleet = fleet(json!({"name": "none", "nodes": [failing("a", 0)]})).await;
    let anew = async |of: Uuid, from: &str, version: Version| {
        let anew = fleet.enqueuer.rerun(of, from).version(version).await.unwrap().run_id.unwrap();
        let (state, output) = fleet.ended(anew).await;
        assert_eq!(state, "completed", "from {from}: {output}");
        (anew, output)
    };
    let own = Version::Number(1);
    let output = "{{ run.context.n }}";
    // items beside each other; a rerun of one of them leaves the others' changes
    let body = json!({"nodes": [count("one", 1), count("two", 10)], "edges": [["one", "two"]]});
    let each = json!({"id": "each", "type": "foreach", "items": [0, 1, 2], "concurrency": 1, "body": body});
    fleet.apply(json!({"name": "each", "context": {"n": 0}, "nodes": [each, count("last", 100)], "edges": [["each", "last"]], "output": output})).await;
    let (run, given) = fleet.complete("each", json!({})).await;
    assert_eq!(given, json!(133));
    for from in ["each[0]/one", "each[1]/two", "each[2]/one", "each", "last"] {
        let (again, given) = anew(run, from, own).await;
        assert_eq!(given, json!(133), "from {from}");
        for from in ["last", "each"] {
            assert_eq!(anew(again, from, own).await.1, json!(133), "from {from}");
        }
    }
    // passes that are forgotten
    let body = json!({"nodes": [count("one", 1), {"id": "next", "type": "set", "output": "{{ frame.input + 1 }}"}], "edges": [["one", "next"]], "output": "{{ nodes.next.output }}"});
    let again = json!({"id": "again", "type": "while", "when": "input < 5", "input": 0, "keep": 1, "body": body});
    fleet.apply(json!({"name": "keep", "context": {"n": 0}, "nodes": [again, failing("end", 0)], "edges": [["again", "end"]], "output": output})).await;
    let run = fleet.complete("keep", json!({})).await.0;
    for from in ["end", "again[4]/next", "again[4]/one", "again"] {
        let (late, given) = anew(run, from, own).await;
        assert_eq!(given, json!(5), "from {from}");
        assert_eq!(anew(late, "again", own).await.1, json!(5), "from {from}");
    }
    // an earlier attempt of a block counts as before
    let fails = json!({"id": "t", "type": "task", "handler": "flaky", "input": {"fail": "{{ 1 if item == 1 else 0 }}", "output": 0}});
    let body = json!({"nodes": [count("one", 1), fails], "edges": [["one", "t"]]});
    let each = json!({"id": "each", "type": "foreach", "items": [0, 1], "concurrency": 1, "retry": {"max_attempts": 2, "initial": "1ms"}, "body": body});
    fleet.apply(json!({"name": "retry", "context": {"n": 0}, "nodes": [each], "output": output})).await;
    let (run, given) = fleet.complete("retry", json!({})).await;
    for (from, n) in [("each[1]/t", given.as_i64().unwrap()), ("each[0]/one", given.as_i64().unwrap())] {
        assert_eq!(anew(run, from, own).await.1, json!(n), "from {from}");
    }
    // a node that the new version has not
    let version = |ids: &[(&str, i32)]| {
        let nodes: Vec<Value> = ids.iter().map(|(id, amount)| count(id, *amount)).collect();
        let edges: Vec<Value> = ids.windows(2).map(|pair| json!([pair[0].0, pair[1].0])).collect();
        json!({"name": "v", "context": {"n": 0}, "nodes": nodes, "edges": edges, "output": output})
    };
    fleet.apply(version(&[("a", 1), ("b", 10), ("c", 100), ("x", 1000), ("d", 10_000)])).await;
    let run = fleet.complete("v", json!({})).await.0;
    fleet.apply(version(&[("b", 10), ("c", 100), ("d", 10_000)])).await;
    let (_, given) = anew(run, "c", Version::Latest).await;
    assert_eq!(given, json!(10_111), "a was done, x is what came after c");
    fleet.finish().await;
}

/// What was changed cannot always be had without what is done anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_does_not_fit_without_what_is_done_anew_refuses_the_rerun() {
    let nodes = [
        json!({"id": "first", "type": "context", "set": {"v": "text"}}),
        json!({"id": "list", "type": "context", "set": {"v": []}}),
        json!({"id": "w", "type": "wait", "signal": "go"}),
        json!({"id": "add", "type": "context", "append": {"v": 1}}),
    ];
    let edges = [["first", "list"], ["first", "w"], ["w", "add"]];
    let fleet = fleet(json!({"name": "w", "context": {}, "nodes": nodes, "edges": edges})).await;
    let run = fleet.start("w", json!({})).await;
    fleet.until("select exists (select from longshore.execution_context_snapshots where n = 2)").await;
    fleet.enqueuer.signal(run, "go", &1).await.unwrap();
    assert_eq!(fleet.ended(run).await.0, "completed");
    let refused = fleet.enqueuer.rerun(run, "list").await.unwrap_err();
    assert!(refused.to_string().contains("has no list at v") && matches!(refused, RerunError::Context(_)), "{refused}");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_waits_for_its_next_attempt_has_not_failed() {
    let mut waiting = failing("f", 1);
    waiting["input"]["permanent"] = json!(false);
    waiting["retry"] = json!({"max_attempts": 3, "initial": "1h"});
    let definition = json!({"name": "w", "nodes": [waiting, {"id": "after", "type": "task", "handler": "echo"}, {"id": "other", "type": "task", "handler": "echo"}],
        "edges": [{"from": "f", "to": "after", "on": "failure"}]});
    let fleet = fleet(definition).await;
    let run = fleet.start("w", json!({})).await;
    fleet.until("select count(*) = 2 from longshore.execution_step_attempts where node >= 0").await;
    let plan = fleet.enqueuer.rerun(run, "other").plan().await.unwrap();
    assert!(!plan.reused.contains(&"f".to_owned()) && plan.ready.contains(&"f".to_owned()), "{plan:?}");
    fleet.enqueuer.cancel(run).await.unwrap();
    fleet.until("select not exists (select from longshore.closed)").await;
    fleet.finish().await;
}
