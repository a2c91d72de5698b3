//! Child runs through a real fleet: what a step gives that waits for one, which version begins, what ends with what, and that nothing is doubled or lost
//! whoever dies when.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

use std::time::Duration;

use longshore_core::definition::Definition;
use longshore_core::{explain, inspect, workflow};
use longshore_tests::TestFleet;
use longshore_tests::fleet::{Gate, TestHandlers, set, task, with};
use longshore_tests::lane::until_blocked;
use longshore_worker::{Failure, Slots, Step, WorkerBuilder};
use serde_json::{Value, json};
use uuid::Uuid;

/// A node that starts a run of this workflow.
fn sub(id: &str, workflow: &str, fields: Value) -> Value {
    with(json!({"id": id, "type": "subflow", "workflow": workflow}), fields)
}

/// A workflow of one node.
fn one(name: &str, node: Value) -> Value {
    json!({"name": name, "nodes": [node]})
}

async fn fleet(definitions: impl IntoIterator<Item = Value>) -> TestFleet {
    TestFleet::working(definitions).await
}

async fn gated(gate: &Gate, definitions: impl IntoIterator<Item = Value>) -> TestFleet {
    let mut fleet = TestFleet::publish(definitions).await;
    let worker = fleet.worker().gate(gate).queue("default", Slots(400));
    fleet.add(worker).await;
    fleet
}

/// The runs that a run started, in order: id and state.
async fn children(fleet: &TestFleet, run: Uuid) -> Vec<(Uuid, i16)> {
    sqlx::query_as("select run_id, state from longshore.workflow_runs where parent_run_id = $1 order by run_id")
        .bind(run)
        .fetch_all(&fleet.database.pool)
        .await
        .unwrap()
}

async fn settled(fleet: &TestFleet) {
    fleet.until("select not exists (select from longshore.closed)").await;
}

/// A worker with a short lease, so that what it leaves is taken back soon.
fn quick(fleet: &TestFleet, queues: &[&str]) -> WorkerBuilder {
    let worker = fleet.worker().lease(Duration::from_secs(1));
    queues.iter().fold(worker, |worker, queue| worker.queue(queue, Slots(16)))
}

/// Nothing of any run is left but timers of child runs' own.
async fn quiet(fleet: &TestFleet) {
    fleet
        .until("select not exists (select from longshore.step_ready) and not exists (select from longshore.lanes)")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_gives_what_its_run_gives() {
    let child = json!({"name": "child", "nodes": [task("a", "echo"), set("b", json!({"twice": "{{ nodes.a.output.n * 2 }}", "parent": "{{ run.parent.run_id }}"}))],
        "edges": [["a", "b"]]});
    let parent = json!({"name": "parent", "nodes": [sub("call", "child", json!({"input": {"n": "{{ run.input.n }}"}})),
        set("s", json!({"got": "{{ input.twice }}", "by": "{{ input.parent }}", "own": "{{ run.parent }}"}))], "edges": [["call", "s"]]});
    let fleet = fleet([child, parent]).await;
    let (run, output) = fleet.complete("parent", json!({"n": 21})).await;
    assert_eq!(output, json!({"got": 42, "by": run.to_string(), "own": null}));
    assert_eq!(children(&fleet, run).await.len(), 1);
    let mut connection = fleet.database.pool.acquire().await.unwrap();
    let shown = inspect::show(&mut connection, run).await.unwrap().unwrap();
    assert_eq!(
        (shown.children[0].node.as_str(), shown.children[0].attempt, shown.children[0].awaited),
        ("call", 1, true)
    );
    let shown = inspect::show(&mut connection, shown.children[0].run_id).await.unwrap().unwrap();
    assert_eq!((shown.parent_run_id, shown.children), (Some(run), Vec::new()));
    drop(connection);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_knows_its_parent_and_may_signal_it() {
    let child = one("child", task("tell", "tell"));
    let parent = json!({"name": "parent", "nodes": [sub("call", "child", json!({})), {"id": "w", "type": "wait", "signal": "told"}]});
    let mut fleet = TestFleet::publish([child, parent]).await;
    let enqueuer = fleet.enqueuer.clone();
    let worker = fleet.worker().queue("default", Slots(4)).handler("tell", move |step: Step, _: Value| {
        let enqueuer = enqueuer.clone();
        async move {
            let parent = step.parent().ok_or_else(|| Failure::permanent("no parent"))?;
            enqueuer.signal(parent, "told", &step.run_id()).await.map_err(Failure::retryable)?;
            Ok::<_, Failure>(json!("told"))
        }
    });
    fleet.add(worker).await;
    let (run, output) = fleet.complete("parent", json!({})).await;
    let (child, _) = children(&fleet, run).await[0];
    assert_eq!((&output["call"], &output["w"]["payload"]), (&json!("told"), &json!(child)));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_failure_of_a_run_is_its_steps_failure() {
    let child = one("child", json!({"id": "f", "type": "fail", "name": "{{ run.input.name }}", "message": "so it is"}));
    let parent = one("parent", sub("call", "child", json!({})));
    let tried = one(
        "tried",
        json!({"id": "t", "type": "try", "body": {"nodes": [sub("call", "child", json!({"input": {"name": "no_stock"}}))]},
        "catch": [{"on": ["no_money"], "body": {"nodes": [set("m", json!("money"))]}}, {"on": ["no_stock"], "body": {"nodes": [set("s", json!("stock"))]}}]}),
    );
    let ended = one("ended", json!({"id": "t", "type": "terminate", "state": "canceled"}));
    let canceled = one("canceled", sub("call", "ended", json!({})));
    let fleet = fleet([child, parent, tried, ended, canceled]).await;
    let run = fleet.start("parent", json!({"name": "no_money"})).await;
    let (state, error) = fleet.ended(run).await;
    let (child, code) = children(&fleet, run).await[0];
    assert_eq!(
        (state.as_str(), &error["name"], &error["node"], code),
        ("failed", &json!("no_money"), &json!("call"), 4)
    );
    assert_eq!(error["message"], json!(format!("run {child} of workflow child failed: so it is")));
    assert_eq!(fleet.complete("tried", json!({})).await.1, json!("stock"));
    assert_eq!(fleet.run("canceled", json!({})).await.1["name"], json!("subflow_canceled"));
    // an input that breaks the child's schema fails the child, and so the step
    fleet.apply(json!({"name": "child", "input_schema": {"required": ["x"]}, "nodes": [set("a", json!(1))]})).await;
    fleet.apply(one("parent", sub("call", "child", json!({"version": "latest"})))).await;
    assert_eq!(fleet.run("parent", json!({})).await.1["name"], json!("input_invalid"));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_attempt_starts_a_run_of_its_own() {
    let child = one("child", with(task("a", "flaky"), json!({"retry": {"max_attempts": 1}, "input": {"fail": 1}})));
    let parent =
        one("parent", sub("call", "child", json!({"retry": {"max_attempts": 3, "initial": "1ms", "jitter": 0}})));
    let once = one("once", sub("call", "child", json!({})));
    let fleet = fleet([child, parent, once]).await;
    let run = fleet.start("parent", json!({})).await;
    let (state, error) = fleet.ended(run).await;
    assert_eq!((state.as_str(), &error["name"], &error["attempt"]), ("failed", &json!("flaky"), &json!(3)));
    assert_eq!(children(&fleet, run).await.iter().map(|child| child.1).collect::<Vec<_>>(), [4, 4, 4]);
    assert_eq!(fleet.tries(run, "call").await, ["failed", "failed", "failed"]);
    let run = fleet.start("once", json!({})).await;
    assert_eq!(fleet.ended(run).await.0, "failed");
    assert_eq!(children(&fleet, run).await.len(), 1, "the steps of the run were tried again already");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_pinned_when_the_parents_is_published_or_is_the_latest() {
    let child = |n: i32| one("child", set("a", json!(n)));
    let pinned = one("pinned", sub("call", "child", json!({})));
    let latest = one("latest", sub("call", "child", json!({"version": "latest"})));
    let fleet = fleet([child(1), pinned.clone(), latest.clone()]).await;
    assert_eq!(fleet.apply(child(2)).await, 2);
    assert_eq!(
        (fleet.complete("pinned", json!({})).await.1, fleet.complete("latest", json!({})).await.1),
        (json!(1), json!(2))
    );
    // with a newer child the same definition is another version, and without one it is not
    assert_eq!([fleet.apply(pinned.clone()).await, fleet.apply(pinned).await, fleet.apply(latest).await], [2, 2, 1]);
    assert_eq!(fleet.complete("pinned", json!({})).await.1, json!(2));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_that_nobody_published_is_refused_by_name() {
    let fleet = TestFleet::publish([]).await;
    let mut connection = fleet.database.pool.acquire().await.unwrap();
    let inner =
        json!({"id": "i", "type": "if", "when": "true", "then": {"nodes": [sub("deep", "nowhere", json!({}))]}});
    let definition = json!({"name": "w", "nodes": [sub("a", "w", json!({})), sub("b", "gone", json!({"version": "latest"})), inner]});
    let definition = Definition::from_json(&definition).unwrap();
    let refused = workflow::publish(&mut connection, &definition).await.unwrap_err().to_string();
    for part in [
        "nodes[1].workflow: no workflow `gone` is published",
        "nodes[2].then.nodes[0].workflow: no workflow `nowhere` is published",
    ] {
        assert!(refused.contains(part), "{part} is not in: {refused}");
    }
    assert!(!refused.starts_with("nodes[0]"), "its own name is known: {refused}");
    drop(connection);
    assert_eq!(fleet.database.number("select count(*) from longshore.workflow_versions").await, 0);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_may_start_itself_to_the_depth_of_32() {
    let call = sub("again", "down", json!({"input": "{{ run.input - 1 }}"}));
    let down = one(
        "down",
        json!({"id": "more", "type": "if", "when": "run.input > 0", "then": {"nodes": [call, set("count", json!("{{ input + 1 }}"))], "edges": [["again", "count"]]},
        "else": {"nodes": [set("bottom", json!(0))]}}),
    );
    let fleet = fleet([down]).await;
    assert_eq!(fleet.complete("down", json!(32)).await.1, json!(32));
    let (state, error) = fleet.run("down", json!(33)).await;
    assert_eq!((state.as_str(), &error["name"]), ("failed", &json!("subflow_too_deep")));
    assert_eq!(fleet.database.number("select max(depth)::bigint from longshore.workflow_runs").await, 32);
    settled(&fleet).await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_goes_down_all_the_levels() {
    let gate = Gate::default();
    let leaf = one("leaf", task("a", "gate"));
    let middle = one(
        "middle",
        json!({"id": "p", "type": "parallel", "branches": [
        {"id": "x", "nodes": [sub("cx", "leaf", json!({}))]}, {"id": "y", "nodes": [sub("cy", "leaf", json!({"timeout": "1h"}))]}]}),
    );
    let top = one("top", sub("call", "middle", json!({})));
    let root = one("root", sub("call", "top", json!({"timeout": "1h"})));
    let fleet = gated(&gate, [leaf, middle, top, root]).await;
    let run = fleet.start("root", json!({})).await;
    gate.entered(2).await;
    let mut connection = fleet.database.pool.acquire().await.unwrap();
    let said = explain::explain(&mut connection, run).await.unwrap().unwrap().to_string();
    let (child, _) = children(&fleet, run).await[0];
    assert!(said.contains(&format!("for run {child} of top, which is running; its time is over at")), "{said}");
    drop(connection);
    fleet.enqueuer.cancel(run).await.unwrap();
    assert_eq!(
        fleet.database.number("select count(*) from longshore.workflow_runs where state = 5").await,
        5,
        "at once"
    );
    gate.told(2).await;
    settled(&fleet).await;
    let left = "select (select count(*) from longshore.step_waiting) + (select count(*) from longshore.step_delayed)";
    assert_eq!(fleet.database.number(left).await, 0);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_canceled_itself_fails_the_step_that_waits_for_it() {
    let gate = Gate::default();
    let fleet = gated(&gate, [one("leaf", task("a", "gate")), one("root", sub("call", "leaf", json!({})))]).await;
    let run = fleet.start("root", json!({})).await;
    gate.entered(1).await;
    let (child, _) = children(&fleet, run).await[0];
    fleet.enqueuer.cancel(child).reason("by hand").await.unwrap();
    let (state, error) = fleet.ended(run).await;
    assert_eq!((state.as_str(), &error["name"]), ("failed", &json!("subflow_canceled")));
    assert!(error["message"].as_str().unwrap().ends_with("was canceled: by hand"), "{error}");
    settled(&fleet).await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_whose_time_is_over_ends_its_run_as_its_policy_says() {
    let gate = Gate::default();
    let late =
        |name: &str, policy: &str| one(name, sub("call", "leaf", json!({"timeout": "50ms", "close_policy": policy})));
    let fleet = gated(
        &gate,
        [
            one("leaf", task("a", "gate")),
            late("terminate", "terminate"),
            late("abandon", "abandon"),
            late("request_cancel", "request_cancel"),
        ],
    )
    .await;
    for (entered, (name, code)) in [("terminate", 5), ("abandon", 1), ("request_cancel", 1)].into_iter().enumerate() {
        let run = fleet.start(name, json!({})).await;
        let (state, error) = fleet.ended(run).await;
        assert_eq!((state.as_str(), &error["name"], &error["kind"]), ("failed", &json!("timeout"), &json!("timeout")));
        let (child, state) = children(&fleet, run).await[0];
        assert_eq!(state, code, "{name}");
        let asked: i64 = fleet
            .ask("select count(*) from longshore.signals where run_id = $1 and name = 'cancel_requested'", child)
            .await;
        assert_eq!(asked, i64::from(name == "request_cancel"));
        gate.entered(entered + 1).await;
    }
    gate.open(100);
    fleet.all_ended().await;
    settled(&fleet).await;
    quiet(&fleet).await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreach_waits_for_fifty_runs() {
    let fleet = fleet([
        one("child", set("a", json!("{{ run.input * 2 }}"))),
        one("parent", json!({"id": "f", "type": "foreach", "items": "{{ run.input }}", "body": {"nodes": [sub("call", "child", json!({"input": "{{ item }}"}))]}})),
    ])
    .await;
    let items: Vec<i32> = (0..50).collect();
    let (run, output) = fleet.complete("parent", json!(items)).await;
    assert_eq!(output, json!(items.iter().map(|item| item * 2).collect::<Vec<_>>()));
    assert_eq!(children(&fleet, run).await.len(), 50);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_ends_cancels_the_runs_it_waits_for_and_no_others() {
    let gate = Gate::default();
    let child = one(
        "child",
        json!({"id": "i", "type": "if", "when": "run.input == 47", "then": {"nodes": [{"id": "go", "type": "wait", "signal": "go"}, {"id": "no", "type": "fail", "name": "no"}], "edges": [["go", "no"]]},
        "else": {"nodes": [task("a", "gate")]}}),
    );
    let each = json!({"id": "f", "type": "foreach", "items": "{{ run.input }}", "concurrency": 64, "on_error": "continue", "body": {"nodes": [
        sub("call", "child", json!({"input": "{{ item }}"})), sub("loose", "child", json!({"input": 1, "mode": "detached", "close_policy": "terminate"}))]}});
    let parent = json!({"name": "parent", "nodes": [each, sub("other", "child", json!({"input": 1}))]});
    let fleet = gated(&gate, [child, parent]).await;
    let items: Vec<i32> = (0..48).collect();
    let run = fleet.start("parent", json!(items)).await;
    gate.entered(47 + 48 + 1).await;
    fleet.until("select exists (select from longshore.step_waiting where child_run_id is null)").await;
    let failing: Uuid = fleet
        .ask("select run_id from longshore.step_waiting where child_run_id is null and $1::uuid is not null", run)
        .await;
    fleet.enqueuer.signal(failing, "go", &1).await.unwrap();
    // the 47 others are canceled; the run that another step waits for, and those that nobody waits for, go on
    fleet
        .until(&format!(
            "select count(*) = 47 from longshore.workflow_runs where parent_run_id = '{run}' and state = 5 and awaited"
        ))
        .await;
    settled(&fleet).await;
    let live = format!("select count(*) from longshore.workflow_runs where parent_run_id = '{run}' and state = 1");
    assert_eq!(fleet.database.number(&live).await, 1 + 48);
    fleet.enqueuer.cancel(run).await.unwrap();
    assert_eq!(fleet.database.number(&live).await, 0);
    settled(&fleet).await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_run_goes_on_by_itself_unless_its_policy_says_otherwise() {
    let gate = Gate::default();
    let child = json!({"name": "child", "nodes": [task("a", "gate"), {"id": "w", "type": "wait", "signal": "cancel_requested"}]});
    let detached = |name: &str, policy: &str| json!({"name": name, "nodes": [sub("call", "child", json!({"mode": "detached", "close_policy": policy})), set("s", json!("{{ input.run_id }}"))], "edges": [["call", "s"]]});
    let usual = one("usual", sub("call", "child", json!({"mode": "detached"})));
    let fleet =
        gated(&gate, [child, detached("terminate", "terminate"), detached("ask", "request_cancel"), usual]).await;
    let (run, output) = fleet.complete("usual", json!({})).await;
    assert_eq!(output, json!({"run_id": children(&fleet, run).await[0].0}));
    assert_eq!(fleet.database.number("select count(*) from longshore.closed").await, 0, "there is nothing to settle");
    let (run, output) = fleet.complete("terminate", json!({})).await;
    let (child, _) = children(&fleet, run).await[0];
    assert_eq!((output, fleet.ended(child).await.0.as_str()), (json!(child), "canceled"));
    let (run, _) = fleet.complete("ask", json!({})).await;
    let (asked, _) = children(&fleet, run).await[0];
    settled(&fleet).await;
    gate.open(10);
    let (state, output) = fleet.ended(asked).await;
    assert_eq!((state.as_str(), &output["w"]["payload"]["run_id"]), ("completed", &json!(run)));
    let count = "select count(*) from longshore.signals";
    assert_eq!(fleet.database.number(count).await, 1, "it is asked once");
    let rest = "select run_id from longshore.workflow_runs where state = 1";
    let rest: Uuid = sqlx::query_scalar(rest).fetch_one(&fleet.database.pool).await.unwrap();
    fleet.enqueuer.cancel(rest).await.unwrap();
    settled(&fleet).await;
    quiet(&fleet).await;
    fleet.finish().await;
}

/// The parent is canceled at the moment in which a lane asks the child: neither sees what the other writes.
#[tokio::test(flavor = "multi_thread")]
async fn two_who_ask_a_child_to_end_at_once_ask_it_once() {
    let child = one("child", json!({"id": "w", "type": "wait", "signal": "cancel_requested"}));
    let fleet = fleet([child, one("parent", sub("call", "child", json!({"close_policy": "request_cancel"})))]).await;
    let run = fleet.start("parent", json!({})).await;
    fleet.until("select count(*) = 2 from longshore.step_waiting").await;
    let (child, _) = children(&fleet, run).await[0];
    let pool = &fleet.database.pool;
    let mut lane = pool.acquire().await.unwrap();
    let ask = format!("begin; select longshore.ask_child(0::smallint, '{child}', '{run}')");
    sqlx::raw_sql(&ask).execute(&mut *lane).await.unwrap();
    let enqueuer = fleet.enqueuer.clone();
    let canceling = tokio::spawn(async move { enqueuer.cancel(run).await.unwrap() });
    until_blocked(pool, 1).await;
    sqlx::raw_sql("commit").execute(&mut *lane).await.unwrap();
    canceling.await.unwrap();
    assert_eq!(fleet.ended(child).await.0, "completed");
    settled(&fleet).await;
    let asked: i64 = fleet.ask("select count(*) from longshore.signals where run_id = $1", child).await;
    assert_eq!(asked, 1);
    drop(lane);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_canceled_while_it_waits_leaves_a_run_that_is_not_to_end_with_it() {
    let gate = Gate::default();
    let parent = |name: &str, policy: &str| one(name, sub("call", "leaf", json!({"close_policy": policy})));
    let fleet =
        gated(&gate, [one("leaf", task("a", "gate")), parent("abandon", "abandon"), parent("ask", "request_cancel")])
            .await;
    let runs = [fleet.start("abandon", json!({})).await, fleet.start("ask", json!({})).await];
    gate.entered(2).await;
    for run in runs {
        fleet.enqueuer.cancel(run).await.unwrap();
    }
    settled(&fleet).await;
    fleet.until("select count(*) = 1 from longshore.signals where name = 'cancel_requested'").await;
    gate.open(2);
    for run in runs {
        assert_eq!(fleet.ended(children(&fleet, run).await[0].0).await.0, "completed");
    }
    quiet(&fleet).await;
    fleet.finish().await;
}

/// The worker dies in each stage: announced, with the run at work, with the news that it has ended, with the step that was woken by it.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_dies_between_two_stages_costs_nothing_but_time() {
    let parent = one("parent", sub("call", "child", json!({"timeout": "1h"})));
    let child = json!({"name": "child", "queue": "children", "nodes": [task("a", "gate")]});
    let gate = Gate::default();
    let mut fleet = TestFleet::publish([child, parent]).await;
    let pool = fleet.database.pool.clone();
    let lock = async |table: &str| {
        let mut tx = pool.begin().await.unwrap();
        sqlx::query(&format!("lock table longshore.{table} in access exclusive mode")).execute(&mut *tx).await.unwrap();
        tx
    };
    let both = |fleet: &TestFleet| quick(fleet, &["default", "children"]).gate(&gate);
    let held = |run: Uuid, what: &str| {
        format!("select exists (select from longshore.step_leases where run_id = '{run}' and {what})")
    };

    let run = fleet.start("parent", json!(7)).await;
    fleet.add(quick(&fleet, &["default"])).await;
    fleet.until(&format!("select exists (select from longshore.step_waiting where run_id = '{run}')")).await;
    fleet.crash().await;

    fleet.add(both(&fleet)).await;
    gate.entered(1).await;
    let (child, _) = children(&fleet, run).await[0];
    fleet.crash_holder(child).await;

    fleet.add(both(&fleet)).await;
    gate.entered(2).await;
    let waits = lock("step_waiting").await;
    // of the dead worker, too
    gate.open(2);
    fleet.until(&held(run, "node = -10")).await;
    fleet.crash_holder(run).await;

    let last = fleet.add(both(&fleet)).await.id();
    fleet.until(&held(run, &format!("node = -10 and worker_id = '{last}'"))).await;
    let attempts = lock("execution_step_attempts").await;
    waits.rollback().await.unwrap();
    fleet.until(&held(run, "kind = 3")).await;
    fleet.crash_holder(run).await;
    attempts.rollback().await.unwrap();

    fleet.add(both(&fleet)).await;
    assert_eq!(fleet.ended(run).await, ("completed".to_owned(), json!(7)));
    assert_eq!(children(&fleet, run).await.len(), 1);
    let tries = fleet.tries(run, "call").await;
    assert!(tries == ["completed"] || tries == ["lost", "completed"], "{tries:?}");
    quiet(&fleet).await;
    fleet.forget_killed().await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_and_those_that_wait_for_them_outlive_workers_that_die_at_any_moment() {
    let leaf = one("leaf", task("a", "echo"));
    let middle = json!({"name": "middle", "nodes": [sub("x", "leaf", json!({})), sub("y", "leaf", json!({"mode": "detached"})), task("z", "echo")], "edges": [["x", "z"], ["y", "z"]]});
    let top = json!({"name": "top", "nodes": [{"id": "f", "type": "foreach", "items": [1, 2, 3], "body": {"nodes": [sub("call", "middle", json!({"timeout": "1h"}))], "output": "{{ item }}"}}]});
    let mut fleet = TestFleet::publish([leaf, middle, top]).await;
    let mut runs = Vec::new();
    for round in 0..6_u64 {
        fleet.add(quick(&fleet, &["default"])).await;
        for _ in 0..6 {
            runs.push(fleet.start("top", json!({})).await);
        }
        tokio::time::sleep(Duration::from_millis(17 * (round + 1))).await;
        fleet.crash().await;
    }
    fleet.add(quick(&fleet, &["default"])).await;
    for run in &runs {
        assert_eq!(fleet.ended(*run).await, ("completed".to_owned(), json!([1, 2, 3])));
    }
    fleet.all_ended().await;
    let count = |workflow: &str| {
        format!(
            "select count(*) from longshore.workflow_runs r join longshore.workflows w using (workflow_id) where w.name = '{workflow}' and state = 3"
        )
    };
    let each = runs.len() as i64;
    assert_eq!(
        (fleet.database.number(&count("middle")).await, fleet.database.number(&count("leaf")).await),
        (3 * each, 6 * each)
    );
    quiet(&fleet).await;
    fleet.forget_killed().await;
    fleet.finish().await;
}

/// Runs that end while the step that waits for them runs out of time, or is canceled.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_ends_meets_the_timeout_and_the_cancel_of_its_parent() {
    const RUNS: u64 = 300;
    let child = one("child", json!({"id": "d", "type": "delay", "duration": "{{ run.input }}ms"}));
    let call = |timeout: Value| sub("call", "child", with(json!({"input": "{{ run.input }}"}), timeout));
    let timed = json!({"name": "timed", "nodes": [call(json!({"timeout": "25ms"}))]});
    let free = json!({"name": "free", "nodes": [call(json!({}))]});
    let mut fleet = TestFleet::publish([child, timed, free]).await;
    for _ in 0..2 {
        fleet.work(32).await;
    }
    let mut runs = Vec::new();
    let mut canceling = tokio::task::JoinSet::new();
    for number in 0..RUNS {
        let timed = number % 2 == 0;
        let run = fleet.start(if timed { "timed" } else { "free" }, json!(number % 50)).await;
        runs.push((run, timed));
        if !timed {
            let enqueuer = fleet.enqueuer.clone();
            canceling.spawn(async move {
                tokio::time::sleep(Duration::from_micros(number * 7_919 % 300_000)).await;
                enqueuer.cancel(run).await.unwrap();
            });
        }
    }
    canceling.join_all().await;
    let mut ended = std::collections::BTreeMap::new();
    for (run, timed) in runs {
        let (state, output) = fleet.ended(run).await;
        assert!(
            state == "completed" || if timed { output["name"] == "timeout" } else { state == "canceled" },
            "{state}: {output}"
        );
        *ended.entry((timed, state)).or_insert(0) += 1;
    }
    eprintln!("{ended:?}");
    settled(&fleet).await;
    // what was canceled, and what completed while its step ran out of time
    fleet.all_ended().await;
    fleet.idle().await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_leaves_hands_on_what_waits() {
    let gate = Gate::default();
    let child = one("child", task("a", "gate"));
    let parent = one(
        "parent",
        json!({"id": "f", "type": "foreach", "items": [1, 2, 3, 4, 5], "body": {"nodes": [sub("call", "child", json!({"input": "{{ item }}"}))]}}),
    );
    let mut fleet = TestFleet::publish([child, parent]).await;
    let worker =
        |fleet: &TestFleet| fleet.worker().grace(Duration::from_millis(100)).gate(&gate).queue("default", Slots(40));
    fleet.add(worker(&fleet)).await;
    let run = fleet.start("parent", json!({})).await;
    gate.entered(5).await;
    fleet.add(worker(&fleet)).await;
    fleet.leave_first().await;
    gate.open(10);
    assert_eq!(fleet.ended(run).await, ("completed".to_owned(), json!([1, 2, 3, 4, 5])));
    assert_eq!(fleet.tries(run, "call").await, ["completed"; 5], "nothing is charged to what waits");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edge_on_timeout_is_for_the_nodes_own_time_and_not_for_that_of_a_step_in_the_child() {
    let gate = Gate::default();
    let slow = one("slow", with(task("t", "gate"), json!({"timeout": "50ms", "retry": {"max_attempts": 1}})));
    let parent = |name: &str, workflow: &str, timeout: &str| {
        json!({"name": name, "nodes": [sub("call", workflow, json!({"timeout": timeout, "on_error": "skip"})), set("late", json!("late")),
            set("failed", json!("{{ error.name }} of a step: {{ error.from_child }}"))],
          "edges": [{"from": "call", "to": "late", "on": "timeout"}, {"from": "call", "to": "failed", "on": "failure"}]})
    };
    let own = json!({"name": "own", "nodes": [with(task("t", "gate"), json!({"timeout": "50ms", "retry": {"max_attempts": 1}})),
            set("late", json!("{{ error.name }}")), set("failed", json!(1))],
        "edges": [{"from": "t", "to": "late", "on": "timeout"}, {"from": "t", "to": "failed", "on": "failure"}]});
    let mut routed = parent("child_late", "slow", "1h");
    routed["nodes"][0].as_object_mut().unwrap().remove("on_error");
    let waits = one("waits", json!({"id": "w", "type": "wait", "signal": "never"}));
    let fleet = gated(&gate, [slow, waits, routed, parent("late", "waits", "60ms"), own]).await;
    assert_eq!(fleet.complete("child_late", json!({})).await.1, json!({"failed": "timeout of a step: true"}));
    let (run, output) = fleet.complete("late", json!({})).await;
    assert_eq!(output, json!({"late": "late"}), "and the policy on errors was not asked");
    assert_eq!(children(&fleet, run).await.iter().map(|child| child.1).collect::<Vec<_>>(), [5]);
    // of a task it is the time of its last attempt
    assert_eq!(fleet.complete("own", json!({})).await.1, json!({"late": "timeout"}));
    settled(&fleet).await;
    fleet.finish().await;
}
