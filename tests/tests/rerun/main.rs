//! Going on with runs that failed, and running part of one anew, through a real fleet.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

mod blocks;
mod children;
mod from;
mod programs;

use longshore_core::state::RunState;
use longshore_enqueuer::{Plan, RerunError, Version};
use longshore_tests::TestFleet;
use longshore_tests::fleet::{Gate, TestHandlers};
use longshore_tests::lane::{ManualLane, reap};
use longshore_worker::Slots;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use uuid::Uuid;

/// A task that fails for good in its first `times` attempts.
fn failing(id: &str, times: u32) -> Value {
    json!({"id": id, "type": "task", "handler": "flaky", "input": {"fail": times, "permanent": true, "output": id}})
}

async fn fleet(definition: Value) -> TestFleet {
    let mut fleet = TestFleet::publish([definition]).await;
    fleet.work(8).await;
    fleet
}

/// Try again as soon as the run's end is settled.
async fn retry(fleet: &TestFleet, run: Uuid) -> Plan {
    loop {
        match fleet.enqueuer.retry(run).await {
            Err(RerunError::Settling { .. }) => {
                fleet.until(&format!("select not exists (select from longshore.closed where run_id = '{run}')")).await;
                fleet
                    .until(&format!("select not exists (select from longshore.step_leases where run_id = '{run}')"))
                    .await;
            }
            done => return done.unwrap(),
        }
    }
}

async fn attempts(fleet: &TestFleet, run: Uuid) -> Vec<(String, i32, i16)> {
    sqlx::query_as(
        "select n.id, a.attempt, a.outcome from longshore.execution_step_attempts a
         join longshore.workflow_runs r on r.run_id = a.run_id
         join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node
         where a.run_id = $1 and a.frame = 0 order by n.id, a.attempt",
    )
    .bind(run)
    .fetch_all(&fleet.database.pool)
    .await
    .unwrap()
}

fn words(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_run_goes_on_from_what_failed() {
    let definition = json!({"name": "w", "nodes": [failing("a", 0), failing("b", 2), failing("c", 0)], "edges": [["a", "b"], ["b", "c"]]});
    let fleet = fleet(definition).await;
    let (run, other) = (fleet.start("w", json!({})).await, fleet.start("w", json!({})).await);
    for count in 1..=2 {
        assert_eq!(fleet.ended(run).await.0, "failed");
        let planned = fleet.enqueuer.plan_retry(run).await.unwrap();
        let done = retry(&fleet, run).await;
        assert_eq!(done, planned);
        assert_eq!((done.reused, done.ready, done.later), (words(&["a"]), words(&["b"]), words(&["c"])), "{count}");
    }
    assert_eq!(fleet.ended(run).await, ("completed".to_owned(), json!("c")));
    let kept = [("a", 1, 1), ("b", 1, 2), ("b", 2, 2), ("b", 3, 1), ("c", 1, 1)];
    assert_eq!(attempts(&fleet, run).await, kept.map(|(id, number, outcome)| (id.to_owned(), number, outcome)));
    let refused = |run| fleet.enqueuer.retry(run);
    assert!(matches!(refused(run).await, Err(RerunError::NotFailed { state: RunState::Completed, .. })));
    assert!(matches!(refused(Uuid::nil()).await, Err(RerunError::NotFound { .. })));
    assert_eq!(fleet.ended(other).await.0, "failed", "nobody tried it again");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_after_the_retry_takes_none_of_the_new_rounds_attempts() {
    let retry_policy = json!({"max_attempts": 3, "initial": "1ms", "total": "1h"});
    let flaky = json!({"id": "a", "type": "task", "handler": "flaky", "input": {"fail": 6}, "retry": retry_policy});
    let mut fleet = fleet(json!({"name": "w", "nodes": [flaky]})).await;
    let run = fleet.start("w", json!({})).await;
    assert_eq!(fleet.ended(run).await.0, "failed");
    fleet.drain().await;
    retry(&fleet, run).await;
    let pool = fleet.database.pool.clone();
    let mut lane = ManualLane::new(&pool);
    assert_eq!(lane.claim_node("a").await.attempt, 4);
    let held = "select r.failed, r.lost from longshore.lanes l, longshore.recover(0::smallint, l.lane_id, l.cycle) r";
    assert_eq!(sqlx::query_as::<_, (i16, i16)>(held).fetch_one(&pool).await.unwrap(), (0, 0));
    lane.expire().await;
    reap(&pool).await.unwrap();
    lane.forget();
    let put_back = "select failed, lost from longshore.step_ready";
    assert_eq!(sqlx::query_as::<_, (i16, i16)>(put_back).fetch_one(&pool).await.unwrap(), (0, 1));
    fleet.work(8).await;
    assert_eq!(fleet.ended(run).await.0, "completed");
    let ended: Vec<i16> = attempts(&fleet, run).await.into_iter().map(|(_, _, outcome)| outcome).collect();
    assert_eq!(ended, [2, 2, 2, 3, 2, 2, 1]);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_failed_while_it_was_paused_goes_on_unpaused() {
    let gate = Gate::default();
    let definition = json!({"name": "w", "nodes": [{"id": "g", "type": "task", "handler": "gate"}, failing("b", 0), failing("c", 0)],
        "edges": [["g", "b"], ["b", "c"]], "output": "{{ nodes.c.output }}"});
    let mut fleet = TestFleet::publish([definition]).await;
    fleet.add(fleet.worker().gate(&gate).queue("default", Slots(8))).await;
    let run = fleet.start("w", json!({})).await;
    gate.entered(1).await;
    fleet.enqueuer.pause(run, "test").await.unwrap();
    // as a chain whose last step fails: its end is announced to nobody, and nothing settles it
    let ends = format!(
        "update longshore.workflow_runs set state = 4, finished_at = now(), error = '{{}}' where run_id = '{run}'"
    );
    fleet.database.execute(&ends).await;
    gate.open(1);
    fleet.until(&format!("select not exists (select from longshore.step_leases where run_id = '{run}')")).await;
    retry(&fleet, run).await;
    assert_eq!(fleet.ended(run).await, ("completed".to_owned(), json!("c")));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_was_refused_is_refused_again() {
    let definition =
        json!({"name": "w", "input_schema": {"type": "object"}, "nodes": [failing("a", 0), failing("b", 0)]});
    let fleet = fleet(definition).await;
    let started: Uuid =
        sqlx::query_scalar("select longshore.start_run('w', '7')").fetch_one(&fleet.database.pool).await.unwrap();
    assert_eq!(fleet.ended(started).await.1["name"], "input_invalid");
    fleet.until("select not exists (select from longshore.closed)").await;
    let refused = fleet.enqueuer.retry(started).await;
    assert!(matches!(refused, Err(RerunError::Input(_))), "{refused:?}");
    assert!(!attempts(&fleet, started).await.iter().any(|(id, ..)| id == "a"));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_completed_beside_the_failure_is_taken_as_it_is() {
    let gate = Gate::default();
    let definition = json!({"name": "w", "nodes": [
        failing("a", 0), failing("ok", 0), failing("bad", 1), {"id": "slow", "type": "task", "handler": "gate"},
        {"id": "seen", "type": "set", "output": 1}, {"id": "not", "type": "set", "output": 1},
        {"id": "taken", "type": "set", "output": "{{ error.name }}"}, failing("lost", 9),
        {"id": "early", "type": "set", "join": "any", "output": "early"}, {"id": "all", "type": "set", "output": "{{ input }}"}],
        "edges": [["a", "ok"], ["a", "bad"], ["a", "slow"], {"from": "ok", "to": "seen", "when": "nodes.ok.output == 'ok'"},
            {"from": "ok", "to": "not", "when": "nodes.ok.output == 'no'"}, ["a", "lost"], {"from": "lost", "to": "taken", "on": "failure"},
            ["ok", "early"], ["slow", "early"], ["ok", "all"], ["bad", "all"], ["slow", "all"]]});
    let mut fleet = TestFleet::publish([definition]).await;
    fleet.add(fleet.worker().gate(&gate).queue("default", Slots(8))).await;
    let run = fleet.start("w", json!({})).await;
    gate.entered(1).await;
    assert_eq!(fleet.ended(run).await.0, "failed");
    let first = fleet.enqueuer.retry(run).await;
    assert!(matches!(first, Err(RerunError::Settling { .. })) || first.is_ok(), "{first:?}");
    let done = if let Ok(done) = first { done } else { retry(&fleet, run).await };
    for (node, among) in [
        ("ok", &done.reused),
        ("lost", &done.reused),
        ("bad", &done.ready),
        ("slow", &done.ready),
        ("not", &done.skipped),
    ] {
        assert!(among.iter().any(|id| id == node), "{node}: {done:?}");
    }
    gate.open(1);
    let (state, output) = fleet.ended(run).await;
    assert_eq!(
        (state.as_str(), &output["all"]["bad"], &output["taken"]),
        ("completed", &json!("bad"), &json!("flaky"))
    );
    let kept = attempts(&fleet, run).await;
    let count = |id: &str| kept.iter().filter(|(node, _, outcome)| node == id && *outcome == 1).count();
    for id in ["a", "ok", "seen", "early", "all", "bad", "slow", "taken"] {
        assert_eq!(count(id), 1, "{id}: {kept:?}");
    }
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canceled_run_goes_on() {
    let fleet = fleet(json!({"name": "w", "nodes": [failing("a", 0)]})).await;
    let wait = json!({"name": "c", "nodes": [failing("a", 0), {"id": "w", "type": "wait", "signal": "go"}], "edges": [["a", "w"]]});
    fleet.apply(wait).await;
    let run = fleet.start("c", json!({})).await;
    fleet
        .until(&format!(
            "select exists (select from longshore.execution_steps where run_id = '{run}' and state = 'waiting')"
        ))
        .await;
    fleet.enqueuer.cancel(run).await.unwrap();
    retry(&fleet, run).await;
    fleet.enqueuer.signal(run, "go", &7).await.unwrap();
    let (state, output) = fleet.ended(run).await;
    assert_eq!((state.as_str(), &output["payload"]), ("completed", &json!(7)));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_run_anew_from_a_node_on() {
    let task = |id: &str, input: Value| json!({"id": id, "type": "task", "handler": "echo", "input": input});
    let count = |id: &str| json!({"id": id, "type": "context", "increment": {"n": 1}, "append": {"by": id}});
    let definition = |more: bool| {
        let mut definition = json!({"name": "w", "context": {"n": 0}, "nodes": [
            task("a", json!("{{ run.input.x }}")), count("one"), task("b", json!("{{ nodes.a.output + run.input.x }}")), count("two"), task("side", json!("side")),
            {"id": "end", "type": "set", "output": ["{{ nodes.b.output }}", "{{ nodes.side.output }}", "{{ run.context }}"]}],
            "edges": [["a", "one"], ["one", "b"], ["b", "two"], ["two", "end"], ["a", "side"], ["side", "end"]]});
        if more {
            definition["nodes"].as_array_mut().unwrap().insert(0, task("new", json!("new")));
            definition["edges"].as_array_mut().unwrap().extend([json!(["b", "new"]), json!(["new", "end"])]);
        }
        definition
    };
    let fleet = fleet(definition(false)).await;
    let (run, output) = fleet.complete("w", json!({"x": 1})).await;
    assert_eq!(output, json!([2, "side", {"n": 2, "by": ["one", "two"]}]));
    let before: i64 = fleet.database.number("select count(*) from longshore.workflow_runs").await;
    let planned = fleet.enqueuer.rerun(run, "b").plan().await.unwrap();
    assert_eq!(
        (&planned.run_id, &planned.reused, &planned.ready, &planned.later),
        (&None, &words(&["a", "one", "side"]), &words(&["b"]), &words(&["two", "end"]))
    );
    assert_eq!(
        fleet.database.number("select count(*) from longshore.workflow_runs").await,
        before,
        "a plan writes nothing"
    );
    let done = fleet.enqueuer.rerun(run, "b").input(&json!({"x": 10})).await.unwrap();
    let anew = done.run_id.unwrap();
    assert_eq!(
        fleet.ended(anew).await,
        ("completed".to_owned(), json!([11, "side", {"n": 2, "by": ["one", "two"]}])),
        "a stays 1, b sees the new input"
    );
    let of: Uuid = fleet.ask("select rerun_of from longshore.workflow_runs where run_id = $1", anew).await;
    assert_eq!(of, run);
    // one that began late is run anew from further on: its context is what it was there
    let late = fleet.enqueuer.rerun(run, "end").await.unwrap().run_id.unwrap();
    assert_eq!(fleet.ended(late).await.0, "completed");
    for from in ["two", "one"] {
        let again = fleet.enqueuer.rerun(late, from).await.unwrap().run_id.unwrap();
        assert_eq!(fleet.ended(again).await.1, json!([2, "side", {"n": 2, "by": ["one", "two"]}]), "from {from}");
        let changes = "select count(*) from longshore.execution_context_snapshots where run_id = $1 and reason < 3";
        assert_eq!(fleet.ask::<i64>(changes, again).await, 3, "from {from}");
    }
    // in another version nodes have other numbers; the new one runs
    fleet.apply(definition(true)).await;
    let done = fleet.enqueuer.rerun(run, "two").version(Version::Latest).await.unwrap();
    assert_eq!((done.version, &done.reused), (2, &words(&["a", "one", "b", "side"])));
    assert_eq!(done.ready, words(&["new", "two"]));
    assert_eq!(fleet.ended(done.run_id.unwrap()).await.1, json!([2, "side", {"n": 2, "by": ["one", "two"]}]));
    let rerun = |from: &'static str| fleet.enqueuer.rerun(run, from);
    assert!(matches!(rerun("none").await, Err(RerunError::UnknownNode { .. })));
    assert!(matches!(rerun("b").version(Version::Number(9)).await, Err(RerunError::UnknownVersion { .. })));
    assert!(matches!(rerun("b").input("\0").await, Err(RerunError::Input(_))));
    assert!(matches!(fleet.enqueuer.rerun(Uuid::nil(), "b").await, Err(RerunError::NotFound { .. })));
    fleet.finish().await;
}

/// Conditions hold as they did when they were decided, whatever became of the context since.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_by_the_context_stays_decided() {
    let change = json!({"id": "change", "type": "context", "set": {"mode": "y"}});
    let when = |from: &str, to: &str, mode: &str| json!({"from": from, "to": to, "when": format!("run.context.mode == '{mode}'")});
    let definition = |more: &str| {
        json!({"name": "w", "context": {"mode": "x"}, "nodes": [failing("a", 0), failing("b", 1), failing("c", 0), change, failing("m", 0),
            failing("n", 0), failing("later", 1), failing("end", 0), failing(more, 0)],
        "edges": [when("a", "b", "x"), when("a", "c", "y"), ["b", "change"], ["change", "m"], when("m", "later", "y"), when("m", "n", "x"),
            ["later", "end"], ["end", more]]})
    };
    let fleet = fleet(definition("one")).await;
    let (run, unchanged) = (fleet.start("w", json!({})).await, fleet.start("w", json!({})).await);
    let fails_and_goes_on = async |run| {
        assert_eq!(fleet.ended(run).await.0, "failed");
        retry(&fleet, run).await
    };
    assert_eq!(fails_and_goes_on(run).await.ready, words(&["b"]));
    let same = |plan: &Plan| {
        let sorted = |ids: &[String]| ids.iter().cloned().collect::<std::collections::BTreeSet<_>>();
        assert_eq!(sorted(&plan.reused), sorted(&words(&["a", "b", "change", "m"])), "{plan:?}");
        assert_eq!((&plan.ready, sorted(&plan.skipped)), (&words(&["later"]), sorted(&words(&["c", "n"]))), "{plan:?}");
    };
    same(&fails_and_goes_on(run).await);
    assert_eq!(fleet.ended(run).await.0, "completed");
    same(&fleet.enqueuer.rerun(run, "later").plan().await.unwrap());
    fleet.apply(definition("two")).await;
    same(&fleet.enqueuer.rerun(run, "later").version(Version::Latest).plan().await.unwrap());
    // from before the change on, with the context as it was then
    for of in [run, unchanged] {
        let anew = fleet.enqueuer.rerun(of, "b").await.unwrap();
        assert_eq!((&anew.reused, &anew.ready), (&words(&["a"]), &words(&["b"])));
        assert_eq!(fails_and_goes_on(anew.run_id.unwrap()).await.ready, words(&["b"]));
        same(&fails_and_goes_on(anew.run_id.unwrap()).await);
    }
    // in a run that took it over, too, and in one that took it over from that
    let (mut last, mut runs) = (run, Vec::new());
    for version in [Version::Number(1), Version::Latest] {
        last = fleet.enqueuer.rerun(last, "later").version(version).await.unwrap().run_id.unwrap();
        runs.push(last);
    }
    for run in runs {
        same(&fails_and_goes_on(run).await);
    }
    fleet.finish().await;
}

/// What follows a block, or a step that waits, is decided when that ends.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_when_a_block_or_a_wait_ended_stays_decided() {
    let add = json!({"id": "add", "type": "context", "increment": {"n": 1}});
    let when =
        |from: &str, to: &str, says: &str| json!({"from": from, "to": to, "when": format!("run.context.n {says}")});
    let branch = |id: &str| {
        [failing(&format!("{id}_yes"), 0), failing(&format!("{id}_no"), 0), failing(&format!("{id}_late"), 1)]
    };
    let edges = |id: &str| {
        let (yes, no) = (format!("{id}_yes"), format!("{id}_no"));
        [when(id, &yes, ">= 1"), when(id, &no, "== 0"), json!([yes, format!("{id}_late")])]
    };
    let each = json!({"id": "each", "type": "foreach", "items": [1], "body": {"nodes": [add]}});
    let nodes = [json!({"id": "m", "type": "milestone", "when": "run.context.n >= 1"}), each].into_iter();
    let nodes: Vec<Value> = nodes.chain(["m", "each"].into_iter().flat_map(branch)).collect();
    let edges: Vec<Value> = ["m", "each"].into_iter().flat_map(edges).collect();
    let fleet = fleet(json!({"name": "w", "context": {"n": 0}, "nodes": nodes, "edges": edges})).await;
    let run = fleet.start("w", json!({})).await;
    let mut done = Vec::new();
    while fleet.ended(run).await.0 == "failed" {
        done = retry(&fleet, run).await.skipped;
        assert!(!done.iter().any(|id| id.ends_with("late")), "{done:?}");
    }
    assert!(done.contains(&"m_no".to_owned()) && done.contains(&"each_no".to_owned()), "{done:?}");
    let planned = fleet.enqueuer.rerun(run, "m_late").plan().await.unwrap();
    assert_eq!(planned.ready, words(&["m_late"]));
    assert!(planned.reused.contains(&"m_yes".to_owned()), "{planned:?}");
    fleet.finish().await;
}

/// A new run has no key, and may have another input; what was decided by them before the place stays.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_by_the_key_or_the_input_stays_decided() {
    let definition = json!({"name": "w", "nodes": [failing("a", 0), failing("b", 0), failing("c", 0), failing("d", 0), failing("late", 0)], "edges": [
        {"from": "a", "to": "b", "when": "run.key == 'k' and run.input == 1"}, {"from": "a", "to": "c", "when": "run.key != 'k' or run.input != 1"},
        ["b", "d"], ["d", "late"]]});
    let fleet = fleet(definition).await;
    let mut run = fleet.enqueuer.start("w", &1).key("k").await.unwrap().id;
    assert_eq!(fleet.ended(run).await.0, "completed");
    for from in ["late", "d", "late"] {
        let done = fleet.enqueuer.rerun(run, from).input(&2).await.unwrap();
        assert_eq!((done.skipped, done.ready), (words(&["c"]), words(&[from])));
        run = done.run_id.unwrap();
        assert_eq!(fleet.ended(run).await.0, "completed");
    }
    fleet.finish().await;
}

/// Random graphs whose nodes fail at their first attempt now and then, tried again until they complete: each node ends as if nothing had failed.
#[tokio::test(flavor = "multi_thread")]
async fn however_often_a_run_fails_it_goes_on_as_its_graph_says() {
    let mut random = StdRng::seed_from_u64(7);
    let mut fleet = TestFleet::publish([]).await;
    let mut names = Vec::new();
    for number in 0..25 {
        let count = random.random_range(3..12);
        let nodes: Vec<Value> = (0..count)
            .map(|node| {
                let mut node = failing(&format!("n{node}"), u32::from(random.random_bool(0.3)));
                match random.random_range(0..6) {
                    0 => node["join"] = json!("any"),
                    1 => node["on_error"] = json!("skip"),
                    _ => {}
                }
                node
            })
            .collect();
        let mut edges = Vec::new();
        for to in 1..count {
            for from in 0..to {
                if random.random_bool(0.3) {
                    match random.random_range(0..6) {
                        0 => edges.push(json!({"from": format!("n{from}"), "to": format!("n{to}"), "on": "failure"})),
                        1 => edges.push(json!({"from": format!("n{from}"), "to": format!("n{to}"), "on": "always"})),
                        2 => {
                            edges.push(json!({"from": format!("n{from}"), "to": format!("n{to}"), "when": "run.input"}))
                        }
                        _ => edges.push(json!([format!("n{from}"), format!("n{to}")])),
                    }
                }
            }
        }
        let name = format!("w{number}");
        fleet.apply(json!({"name": name, "nodes": nodes, "edges": edges})).await;
        names.push(name);
    }
    fleet.work(8).await;
    let all = names.iter().flat_map(|name| [true, false].map(|input| (name, input)));
    let each = all.map(async |(name, input)| {
        let run = fleet.start(name, json!(input)).await;
        let mut times = 0;
        while fleet.ended(run).await.0 == "failed" {
            times += 1;
            assert!(times < 20, "{name} fails again and again");
            retry(&fleet, run).await;
        }
        times
    });
    let times: Vec<i32> = futures::future::join_all(each).await;
    assert!(times.iter().sum::<i32>() > 20, "{times:?}");
    fleet.finish().await;
}
