//! Going on within blocks: what completed in them stays, and what failed or was canceled there runs again where it stood.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use longshore_enqueuer::Plan;
use longshore_tests::TestFleet;
use longshore_tests::fleet::{Gate, TestHandlers, nested};
use longshore_worker::{Failure, Slots, Step};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{attempts, failing, fleet, retry, words};

/// A task that fails for good in its first attempt where the expression holds; gives `output`.
fn failing_where(id: &str, when: &str, output: Value) -> Value {
    json!({"id": id, "type": "task", "handler": "flaky",
        "input": {"fail": format!("{{{{ 1 if {when} else 0 }}}}"), "permanent": true, "output": output}})
}

fn has(among: &[String], place: &str) -> bool {
    among.iter().any(|one| one == place)
}

/// The frames of a block's iterations, and what became of a node in each: iteration, attempts, how many of them completed.
async fn in_iterations(fleet: &TestFleet, run: Uuid, node: &str) -> Vec<(i32, i64, i64)> {
    sqlx::query_as(
        "select f.iteration, count(a.attempt), count(*) filter (where a.outcome = 1)
         from longshore.execution_step_attempts a
         join longshore.frames f on f.run_id = a.run_id and f.frame = a.frame
         join longshore.workflow_runs r on r.run_id = a.run_id
         join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node
         where a.run_id = $1 and n.id = $2 group by f.frame, f.iteration order by f.iteration, f.frame",
    )
    .bind(run)
    .bind(node)
    .fetch_all(&fleet.database.pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn iterations_that_completed_stay_and_the_failed_one_goes_on_where_it_stood() {
    let body = json!({"nodes": [failing("first", 0), failing_where("t", "item == 1", json!("{{ item * 10 }}")), failing("last", 0)],
        "edges": [["first", "t"], ["t", "last"]], "output": "{{ nodes.t.output }}"});
    let each = json!({"id": "each", "type": "foreach", "items": [0, 1, 2, 3, 4], "concurrency": 1, "body": body});
    let fleet = fleet(
        json!({"name": "w", "nodes": [failing("a", 0), each, failing("z", 0)], "edges": [["a", "each"], ["each", "z"]],
            "output": "{{ nodes.each.output }}"}),
    )
    .await;
    let run = fleet.start("w", json!({})).await;
    assert_eq!(fleet.ended(run).await.0, "failed");
    let done = retry(&fleet, run).await;
    assert_eq!((&done.taken_up, &done.whole), (&words(&["each"]), &words(&[])));
    for place in ["a", "each[0]", "each[1]/first"] {
        assert!(has(&done.reused, place), "{place}: {done:?}");
    }
    assert_eq!(done.ready, words(&["each[1]/t"]));
    for place in ["each[1]/last", "each[2-4]", "z"] {
        assert!(has(&done.later, place), "{place}: {done:?}");
    }
    assert_eq!(fleet.ended(run).await, ("completed".to_owned(), json!([0, 10, 20, 30, 40])));
    let tried = attempts(&fleet, run).await;
    let each: Vec<(i32, i16)> =
        tried.iter().filter(|(id, ..)| id == "each").map(|(_, n, outcome)| (*n, *outcome)).collect();
    assert_eq!(each, [(1, 2), (2, 1)], "an attempt of the block for each time");
    let wholes: i64 = fleet.ask("select count(*) from longshore.frames where run_id = $1 and whole", run).await;
    assert_eq!(wholes, 1, "the block's instance goes on");
    let completed = |node: &'static str| {
        let fleet = &fleet;
        async move {
            let found = in_iterations(fleet, run, node).await;
            found.into_iter().filter(|(_, _, good)| *good > 0).collect::<Vec<_>>()
        }
    };
    assert_eq!(completed("t").await, [(0, 1, 1), (1, 2, 1), (2, 1, 1), (3, 1, 1), (4, 1, 1)]);
    assert_eq!(completed("first").await.len(), 5, "nothing that completed ran again");
    fleet.finish().await;
}

/// A `parallel` of which each branch goes on by its own rules.
#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_block_goes_on_within() {
    let one = |id: &str, node: Value| json!({"id": id, "nodes": [node]});
    let passes = json!({"id": "again", "type": "while", "when": "input.n < 3", "input": {"n": 0}, "body": {"nodes": [
        failing_where("w", "frame.input.n == 1", json!({"n": "{{ frame.input.n + 1 }}"}))]}});
    let chosen = json!({"id": "if", "type": "if", "when": "true", "then": {"nodes": [failing("yes", 0), failing("i", 1)], "edges": [["yes", "i"]]}});
    let switch = json!({"id": "by", "type": "switch", "cases": [{"when": "false", "body": {"nodes": [failing("none", 0)]}}],
        "default": {"nodes": [failing("d", 1)]}});
    let tried = json!({"id": "try", "type": "try", "body": {"nodes": [failing("b", 1)]},
        "catch": [{"on": ["never"], "body": {"nodes": [failing("c", 0)]}}]});
    let inner = json!({"id": "all", "type": "parallel", "fail_fast": false, "branches": [one("l", failing("l1", 1)), one("r", failing("r1", 0))]});
    let definition = json!({"name": "w", "nodes": [{"id": "p", "type": "parallel", "fail_fast": false, "branches": [
        one("while", passes), one("if", chosen), one("switch", switch), one("try", tried), one("inner", inner)]}]});
    let fleet = fleet(definition).await;
    let run = fleet.start("w", json!({})).await;
    assert_eq!(fleet.ended(run).await.0, "failed");
    let done = retry(&fleet, run).await;
    let mut ready = done.ready.clone();
    ready.sort();
    let expected = [
        "p[if]/if[then]/i",
        "p[inner]/all[l]/l1",
        "p[switch]/by[default]/d",
        "p[try]/try[body]/b",
        "p[while]/again[1]/w",
    ];
    assert_eq!(ready, words(&expected), "{done:?}");
    for place in ["p[while]/again[0]", "p[if]/if[then]/yes", "p[inner]/all[r]"] {
        assert!(has(&done.reused, place), "{place}: {done:?}");
    }
    let (state, output) = fleet.ended(run).await;
    let given = json!({"while": {"n": 3}, "if": "i", "switch": "d", "try": "b", "inner": {"l": "l1", "r": "r1"}});
    assert_eq!((state.as_str(), output), ("completed", given));
    for (node, tries) in [
        ("w", vec![(0, 1, 1), (1, 2, 1), (2, 1, 1)]),
        ("r1", vec![(1, 1, 1)]),
        ("yes", vec![(0, 1, 1)]),
        ("b", vec![(0, 2, 1)]),
    ] {
        assert_eq!(in_iterations(&fleet, run, node).await, tries, "{node}");
    }
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parallel_that_ends_with_some_of_its_branches_needs_as_many_as_before() {
    let branch = |id: &str, node: Value| json!({"id": id, "nodes": [node]});
    let some = json!({"id": "some", "type": "parallel", "ends": 2, "branches": [
        branch("x", failing("tx", 1)), branch("y", failing("ty", 0)), branch("z", failing("tz", 1))]});
    let fleet = fleet(json!({"name": "w", "nodes": [some]})).await;
    let run = fleet.start("w", json!({})).await;
    assert_eq!(fleet.ended(run).await.1["name"], "too_few_branches");
    let done = retry(&fleet, run).await;
    let y = in_iterations(&fleet, run, "ty").await;
    assert_eq!(has(&done.reused, "some[y]"), y == [(1, 1, 1)], "{done:?}");
    let (state, output) = fleet.ended(run).await;
    assert!(state == "completed" && output.as_object().unwrap().len() >= 2, "{output}");
    let refused = fleet.enqueuer.rerun(run, "some/tx").plan().await.unwrap_err().to_string();
    assert!(refused.starts_with("some[x]: some ends with some of its branches"), "{refused}");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_whose_catch_had_begun_is_run_again_as_a_whole() {
    let caught = json!({"id": "t", "type": "try", "body": {"nodes": [failing("b", 9)]}, "catch": [{"body": {"nodes": [
        json!({"id": "c", "type": "task", "handler": "gate"})]}}]});
    let gate = Gate::default();
    let mut fleet = TestFleet::publish([json!({"name": "w", "nodes": [caught]})]).await;
    fleet.add(fleet.worker().gate(&gate).queue("default", Slots(8))).await;
    let run = fleet.start("w", json!({})).await;
    gate.entered(1).await;
    fleet.enqueuer.cancel(run).await.unwrap();
    let done = retry(&fleet, run).await;
    assert_eq!((done.ready, done.whole, done.taken_up), (words(&["t"]), words(&["t"]), words(&[])));
    gate.open(2);
    assert_eq!(fleet.ended(run).await.0, "completed");
    assert_eq!(in_iterations(&fleet, run, "b").await, [(0, 1, 0), (0, 1, 0)], "in another frame");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_failed_though_nothing_in_it_did_is_run_again_as_a_whole() {
    let again = json!({"id": "again", "type": "while", "when": "run.context.stop != 'yes'", "max_iterations": 2,
        "body": {"nodes": [failing("w", 0)]}});
    let fleet = fleet(json!({"name": "w", "context": {}, "nodes": [again]})).await;
    let run = fleet.start("w", json!({})).await;
    assert_eq!(fleet.ended(run).await.1["name"], "max_iterations");
    assert_eq!(retry(&fleet, run).await.whole, words(&["again"]));
    assert_eq!(fleet.ended(run).await.1["name"], "max_iterations");
    assert_eq!(in_iterations(&fleet, run, "w").await.len(), 4, "two passes more");
    fleet.finish().await;
}

/// Three levels deep, canceled while a step of each item runs, several times.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_canceled_within_nested_blocks_goes_on_there() {
    let gate = Gate::default();
    let mut fleet = TestFleet::publish([nested("w")]).await;
    fleet.add(fleet.worker().gate(&gate).queue("default", Slots(8))).await;
    let run = fleet.start("w", json!({})).await;
    gate.entered(3).await;
    gate.open(2);
    gate.entered(5).await;
    for round in 1..=2 {
        fleet.enqueuer.cancel(run).await.unwrap();
        let done = retry(&fleet, run).await;
        assert_eq!(done.ready.len(), 3, "{round}: {done:?}");
        assert!(done.reused.iter().any(|place| place.ends_with("/again[0]")), "{done:?}");
        let timers = "select count(*) from longshore.step_delayed where run_id = $1 and node = -6";
        assert_eq!(fleet.ask::<i64>(timers, run).await, 1, "the block has its time again");
        gate.entered(5 + round * 3).await;
    }
    gate.open(20);
    let (state, _) = fleet.ended(run).await;
    assert_eq!(state, "completed");
    let passes = in_iterations(&fleet, run, "charge").await;
    assert_eq!(passes.iter().map(|(_, _, good)| *good).sum::<i64>(), 6, "{passes:?}");
    let each: Value = fleet.ask("select output from longshore.execution_step_attempts where run_id = $1 and frame = 0 and outcome = 1 order by node limit 1", run).await;
    assert_eq!(each, json!([{"n": 2}, {"n": 2}, {"n": 2}]));
    fleet.finish().await;
}

/// No more iterations go on at a time than may, though more had failed; what failed and was tolerated is tried again, too.
#[tokio::test(flavor = "multi_thread")]
async fn the_window_holds_and_tolerated_failures_are_counted_anew() {
    let (now, most, rounds) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let count = {
        let (now, most, rounds) = (now.clone(), most.clone(), rounds.clone());
        move |_: Step, item: i64| {
            let (now, most, rounds) = (now.clone(), most.clone(), rounds.clone());
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                now.fetch_sub(1, Ordering::SeqCst);
                let bad = [0, 3, 5, 6, 7, 11].contains(&item) && rounds.load(Ordering::SeqCst) == 0;
                if bad { Err(Failure::permanent("bad")) } else { Ok(item * 2) }
            }
        }
    };
    for (window, tolerated) in [(1, 3), (2, 2), (2, 4), (3, 0), (20, 3)] {
        let items: Vec<i64> = (0..14).collect();
        let each = json!({"id": "each", "type": "foreach", "items": "{{ run.input }}", "concurrency": window, "tolerate": {"count": tolerated},
            "body": {"nodes": [{"id": "t", "type": "task", "handler": "count", "input": "{{ item }}"}]}});
        let mut fleet = TestFleet::publish([json!({"name": "w", "nodes": [each]})]).await;
        fleet.add(fleet.worker().handler("count", count.clone()).queue("default", Slots(20))).await;
        rounds.store(0, Ordering::SeqCst);
        let run = fleet.start("w", json!(items)).await;
        assert_eq!(fleet.ended(run).await.0, "failed");
        let first = retry(&fleet, run).await;
        assert_eq!(fleet.ended(run).await.0, "failed", "they fail again");
        rounds.store(1, Ordering::SeqCst);
        most.store(0, Ordering::SeqCst);
        retry(&fleet, run).await;
        let doubled: Vec<i64> = items.iter().map(|item| item * 2).collect();
        assert_eq!(fleet.ended(run).await, ("completed".to_owned(), json!(doubled)), "{window} {tolerated}: {first:?}");
        assert!(most.load(Ordering::SeqCst) <= window, "{} at a time of {window}", most.load(Ordering::SeqCst));
        let good: Vec<i64> = in_iterations(&fleet, run, "t").await.into_iter().map(|(_, _, good)| good).collect();
        assert_eq!(good.iter().sum::<i64>(), 14, "each item completes once");
        fleet.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_try_a_run_again_one_does_and_a_plan_writes_nothing() {
    let each = json!({"id": "each", "type": "foreach", "items": [0, 1, 2], "body": {"nodes": [failing_where("t", "item == 2", json!("{{ item }}"))]}});
    let fleet = fleet(json!({"name": "w", "nodes": [each]})).await;
    let run = fleet.start("w", json!({})).await;
    assert_eq!(fleet.ended(run).await.0, "failed");
    fleet.until(&format!("select not exists (select from longshore.closed where run_id = '{run}')")).await;
    let planned = fleet.enqueuer.plan_retry(run).await.unwrap();
    let live = "select count(*) from longshore.frames where run_id = $1 and state = 1";
    assert_eq!(fleet.ask::<i64>(live, run).await, 0);
    let both = tokio::join!(fleet.enqueuer.retry(run), fleet.enqueuer.retry(run));
    let done: Vec<&Plan> = [&both.0, &both.1].into_iter().filter_map(|done| done.as_ref().ok()).collect();
    assert_eq!(done, [&planned], "{both:?}");
    assert_eq!(fleet.ended(run).await, ("completed".to_owned(), json!([0, 1, 2])));
    fleet.finish().await;
}

/// Retries and a cancel at once, in every order: one of them is first, and what is left is a run like any other.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_meets_a_retry_leaves_nothing_half_done() {
    let each = json!({"id": "each", "type": "foreach", "items": [0, 1, 2, 3], "tolerate": {"count": 1}, "body": {"nodes": [
        failing("pre", 0), failing_where("t", "item > 1", json!("{{ item }}")), {"id": "g", "type": "wait", "signal": "go"}],
        "edges": [["pre", "t"], ["t", "g"]], "output": "{{ nodes.t.output }}"}});
    let fleet = fleet(json!({"name": "w", "nodes": [each]})).await;
    let one = async |_: i32| {
        let run = fleet.start("w", json!({})).await;
        assert_eq!(fleet.ended(run).await.0, "failed");
        fleet.until(&format!("select not exists (select from longshore.closed where run_id = '{run}')")).await;
        let both = tokio::join!(fleet.enqueuer.retry(run), fleet.enqueuer.cancel(run), fleet.enqueuer.retry(run));
        assert!(both.1.is_ok() && (both.0.is_ok() || both.2.is_ok()), "{both:?}");
        fleet.enqueuer.cancel(run).await.unwrap();
        retry(&fleet, run).await;
        for _ in 0..4 {
            fleet.enqueuer.signal(run, "go", &1).await.unwrap();
        }
        assert_eq!(fleet.ended(run).await, ("completed".to_owned(), json!([0, 1, 2, 3])));
        let good = in_iterations(&fleet, run, "pre").await.into_iter().map(|(_, _, good)| good).sum::<i64>();
        assert_eq!(good, 4, "what completed did not run again");
    };
    futures::future::join_all((0..12).map(one)).await;
    fleet.finish().await;
}

/// A new run that is made of one that goes on takes what there is at that moment.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_goes_on_can_be_run_anew_within_its_blocks() {
    let passes = json!({"id": "again", "type": "while", "when": "input < 6", "input": 0, "keep": 1, "body": {"nodes": [failing("p", 0),
        {"id": "s", "type": "set", "output": "{{ frame.input + 1 }}"}], "edges": [["p", "s"]]}});
    let each = json!({"id": "each", "type": "foreach", "items": "{{ run.input }}", "concurrency": 4, "body": {
        "nodes": [failing("first", 0), passes, {"id": "i", "type": "set", "output": "{{ item }}"}], "edges": [["first", "again"], ["again", "i"]]}});
    let fleet = fleet(json!({"name": "w", "nodes": [each]})).await;
    let items: Vec<i32> = (0..40).collect();
    let run = fleet.start("w", json!(items)).await;
    let mut made = Vec::new();
    while made.len() < 12 {
        let begun: i64 = fleet.ask("select count(*) from longshore.frames where run_id = $1 and path = (select array[w.frame] from longshore.frames w where w.run_id = $1 and w.parent = 0)", run).await;
        if begun > 0 {
            let from = format!("each[{}]/first", made.len() as i64 * begun / 13);
            made.push(fleet.enqueuer.rerun(run, &from).await.unwrap().run_id.unwrap());
        }
    }
    for run in made.into_iter().chain([run]) {
        assert_eq!(fleet.ended(run).await, ("completed".to_owned(), json!(items)), "{run}");
    }
    fleet.finish().await;
}
