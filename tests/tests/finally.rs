//! A `finally` runs in any case: also where its `try` is cut off by the end of the run or of a frame around it. Once it has begun nothing around it
//! ends it but its time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use longshore_core::run::{self, Canceled};
use longshore_core::{doctor, explain, inspect};
use longshore_enqueuer::NewRun;
use longshore_tests::TestFleet;
use longshore_tests::fleet::{Gate, TestHandlers, task, with};
use longshore_tests::lane::{settle_all, until_blocked};
use longshore_worker::{Failure, Slots, Step};
use serde_json::{Value, json};
use uuid::Uuid;

/// A `try` around `body`, whose `finally` is the node `id` of the handler `log`, given `id`.
fn tried(id: &str, body: Value, last: Value) -> Value {
    json!({"id": id, "type": "try", "input": {"to": id}, "body": {"nodes": [body]}, "finally": {"nodes": [last]}})
}

fn work() -> Value {
    task("work", "gate")
}

/// A fleet of one worker whose handler `gate` is the gate, `last` another, and `flaky_last` fails once.
async fn fleet(definition: Value, gate: &Gate, last: &Gate) -> TestFleet {
    let mut fleet = TestFleet::publish([definition]).await;
    fleet.add(worker(&fleet, gate, last)).await;
    fleet
}

fn worker(fleet: &TestFleet, gate: &Gate, last: &Gate) -> longshore_worker::WorkerBuilder {
    let last = last.clone();
    fleet
        .worker()
        .gate(gate)
        .handler("last", move |step: Step, input: Value| last.clone().pass(step, input))
        .queue("default", Slots(20))
}

async fn cancel(fleet: &TestFleet, run: Uuid) {
    assert_eq!(run::cancel(&fleet.database.pool, run, "no longer wanted").await.unwrap(), Canceled::Canceled);
}

async fn settled(fleet: &TestFleet) {
    fleet.until("select not exists (select from longshore.closed) and not exists (select from longshore.lanes)").await;
}

/// The nodes of the run whose tries were recorded so, in the order in which these ended.
async fn recorded(fleet: &TestFleet, run: Uuid, outcome: i16) -> Vec<String> {
    let sql = "select n.id from longshore.execution_step_attempts a join longshore.workflow_runs r using (run_id)
        join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node
        where a.run_id = $1 and a.outcome = $2 order by a.finished_at, n.id";
    sqlx::query_scalar(sql).bind(run).bind(outcome).fetch_all(&fleet.database.pool).await.unwrap()
}

/// The same of those that were canceled, by name: steps that were held and what settling finds end in any order.
async fn canceled(fleet: &TestFleet, run: Uuid) -> Vec<String> {
    let mut nodes = recorded(fleet, run, 4).await;
    nodes.sort();
    nodes
}

/// Where a `finally` of the run stands: state and input of the frames whose iteration is the last of a `try`'s bodies.
async fn finallys(fleet: &TestFleet, run: Uuid) -> Vec<(String, Value)> {
    let sql = "select b.state, b.input from longshore.block_group_runs b
        join longshore.frames f on f.shard = b.shard and f.run_id = b.run_id and f.frame = b.frame
        where b.run_id = $1 and f.shield = f.frame order by f.created_at, f.frame";
    sqlx::query_as(sql).bind(run).fetch_all(&fleet.database.pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canceled_run_runs_the_finally_of_what_it_was_in() {
    let (gate, last) = Default::default();
    let definition = json!({"name": "w", "nodes": [tried("t", work(), task("undo", "echo")), task("z", "echo")], "edges": [["t", "z"]]});
    let fleet = fleet(definition, &gate, &last).await;
    let run = fleet.start("w", json!({})).await;
    gate.entered(1).await;
    cancel(&fleet, run).await;
    settled(&fleet).await;
    assert_eq!(fleet.ended(run).await.0, "canceled");
    assert_eq!(recorded(&fleet, run, 1).await, ["undo"]);
    assert_eq!(canceled(&fleet, run).await, ["t", "work"]);
    assert_eq!(finallys(&fleet, run).await, [("completed".to_owned(), json!({"to": "t"}))]);
    fleet.idle().await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finally_that_has_begun_goes_on_whatever_ends_around_it() {
    let (gate, last) = (Gate::default(), Gate::default());
    let two = json!({"nodes": [task("undo", "last"), task("told", "echo")], "edges": [["undo", "told"]]});
    let t =
        json!({"id": "t", "type": "try", "timeout": "1h", "body": {"nodes": [task("work", "echo")]}, "finally": two});
    let fleet = fleet(json!({"name": "w", "nodes": [t, task("z", "echo")], "edges": [["t", "z"]]}), &gate, &last).await;
    let run = fleet.start("w", json!({})).await;
    last.entered(1).await;
    cancel(&fleet, run).await;
    let mut connection = fleet.database.pool.acquire().await.unwrap();
    let answer = explain::explain(&mut connection, run).await.unwrap().unwrap();
    assert!(answer.cleans_up && answer.to_string().contains("held: t[1] > undo"), "{answer}");
    let steps = inspect::steps(&mut connection, run).await.unwrap();
    let undo = steps.iter().find(|step| step.node == "undo").unwrap();
    assert_eq!(undo.state.to_string(), "running");
    assert_eq!(inspect::counts(&mut connection, run).await.unwrap().unwrap().running, 1);
    drop(connection);
    // bounded from now on, and not told to stop
    fleet.until("select exists (select from longshore.closed where bounded)").await;
    fleet.until("select count(*) = 1 from longshore.step_delayed where node = -6").await;
    last.open(1);
    settled(&fleet).await;
    assert_eq!(recorded(&fleet, run, 1).await, ["work", "undo", "told"]);
    assert_eq!(canceled(&fleet, run).await, ["t"]);
    assert_eq!(last.count(), 1);
    assert_eq!(finallys(&fleet, run).await, [("completed".to_owned(), json!({}))]);
    fleet.idle().await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inner_finally_comes_before_the_outer() {
    let (gate, last) = (Gate::default(), Gate::default());
    let inner = tried("inner", work(), task("first", "last"));
    let each = json!({"id": "each", "type": "foreach", "items": [1, 2, 3], "body": {"nodes": [inner]}});
    let fleet = fleet(json!({"name": "w", "nodes": [tried("outer", each, task("then", "echo"))]}), &gate, &last).await;
    let run = fleet.start("w", json!({})).await;
    gate.entered(3).await;
    cancel(&fleet, run).await;
    last.entered(3).await;
    last.open(2);
    fleet.until("select count(*) = 2 from longshore.execution_step_attempts where outcome = 1").await;
    assert_eq!(finallys(&fleet, run).await.len(), 3, "the outer waits for the last of the inner");
    last.open(1);
    settled(&fleet).await;
    assert_eq!(recorded(&fleet, run, 1).await, ["first", "first", "first", "then"]);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_a_frame_around_it_runs_its_finally_and_goes_on() {
    let (gate, last) = (Gate::default(), Gate::default());
    let slow = tried("slow", work(), task("undo", "last"));
    let race = json!({"id": "race", "type": "parallel", "ends": "any", "branches": [
        {"id": "fast", "nodes": [task("quick", "echo")]}, {"id": "slow", "nodes": [slow]}]});
    let fleet =
        fleet(json!({"name": "w", "nodes": [race, task("z", "echo")], "edges": [["race", "z"]]}), &gate, &last).await;
    let (run, _) = fleet.complete("w", json!({})).await;
    last.entered(1).await;
    last.open(1);
    settled(&fleet).await;
    assert_eq!(recorded(&fleet, run, 1).await.last().map(String::as_str), Some("undo"), "the run did not wait for it");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_fails_elsewhere_and_a_block_whose_time_is_over_run_theirs() {
    let (gate, last) = (Gate::default(), Gate::default());
    let bad = with(task("bad", "gate"), json!({"timeout": "1s", "retry": {"max_attempts": 1}}));
    let timed = with(
        tried("timed", task("slow", "gate"), task("late", "echo")),
        json!({"timeout": "300ms", "retry": {"max_attempts": 1}}),
    );
    let catch = json!({"id": "c", "type": "try", "body": {"nodes": [timed]}, "catch": [{"body": {"nodes": [task("caught", "echo")]}}]});
    let definition = json!({"name": "w", "nodes": [task("a", "echo"), bad, tried("t", work(), task("undo", "echo")), catch],
        "edges": [["a", "bad"], ["a", "t"], ["a", "c"]]});
    let fleet = fleet(definition, &gate, &last).await;
    let run = fleet.start("w", json!({})).await;
    assert_eq!(fleet.ended(run).await.0, "failed");
    settled(&fleet).await;
    let done = recorded(&fleet, run, 1).await;
    for node in ["late", "caught", "undo"] {
        assert_eq!(done.iter().filter(|done| *done == node).count(), 1, "{node} of {done:?}");
    }
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finally_that_is_at_work_when_its_run_completes_hears_of_it() {
    let never = with(
        task("never", "flaky"),
        json!({"input": {"fail": 9}, "on_error": "continue", "retry": {"max_attempts": 1, "give_up": "pause"}}),
    );
    // neither ends or pauses a run that has ended
    for next in [json!({"id": "stop", "type": "terminate", "state": "completed"}), never] {
        let (gate, last) = (Gate::default(), Gate::default());
        let id = next["id"].as_str().unwrap().to_owned();
        let finally = json!({"nodes": [task("undo", "last"), next], "edges": [["undo", id]]});
        let t = json!({"id": "t", "type": "try", "timeout": "1h", "on_error": "continue", "retry": {"max_attempts": 1},
            "body": {"nodes": [work()]}, "finally": finally});
        let definition = json!({"name": "w", "nodes": [t, task("hold", "gate")], "edges": [["t", "hold"]]});
        let fleet = fleet(definition, &gate, &last).await;
        let run = fleet.start("w", json!({})).await;
        gate.entered(1).await;
        fleet.database.execute("update longshore.step_delayed set due_at = now() where node = -6").await;
        last.entered(1).await;
        gate.entered(2).await;
        gate.open(1);
        assert_eq!(fleet.ended(run).await.0, "completed");
        last.open(1);
        settled(&fleet).await;
        assert_eq!(finallys(&fleet, run).await, [("completed".to_owned(), json!({}))], "{id}");
        fleet.idle().await;
        fleet.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_them_at_work_keep_no_other_run_from_being_settled() {
    let mut fleet = TestFleet::publish([
        json!({"name": "slow", "nodes": [{"id": "t", "type": "try", "body": {"nodes": [{"id": "rest", "type": "delay", "duration": "1h"}]},
            "finally": {"nodes": [{"id": "long", "type": "delay", "duration": "1h"}]}}]}),
        json!({"name": "plain", "nodes": [{"id": "rest", "type": "delay", "duration": "1h"}]}),
    ])
    .await;
    fleet.add(fleet.worker().queue("default", Slots(100))).await;
    let delayed = async |count: i64| {
        fleet.until(&format!("select count(*) = {count} from longshore.step_delayed where node >= 0")).await;
    };
    let many: Vec<_> = (0..1200).map(|_| NewRun::new("slow", &json!({}))).collect();
    let started = fleet.enqueuer.start_many(&many).await.unwrap();
    delayed(1200).await;
    for run in started {
        cancel(&fleet, run.id).await;
    }
    let plain = fleet.start("plain", json!({})).await;
    fleet.until(&format!("select exists (select from longshore.step_delayed where run_id = '{plain}')")).await;
    cancel(&fleet, plain).await;
    fleet.until(&format!("select not exists (select from longshore.closed where run_id = '{plain}')")).await;
    // and each of the others has begun its own
    fleet.until("select count(*) = 1200 from longshore.frames where shield = frame and state = 1").await;
    delayed(1200).await;
    fleet.database.execute("update longshore.step_delayed set due_at = now() where node >= 0").await;
    settled(&fleet).await;
    fleet.idle().await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_step_job_that_begins_one_is_nothing_left_over() {
    let (gate, last) = (Gate::default(), Gate::default());
    let t = tried("t", json!({"id": "rest", "type": "delay", "duration": "1h"}), task("undo", "echo"));
    let mut fleet = fleet(json!({"name": "w", "nodes": [t]}), &gate, &last).await;
    let run = fleet.start("w", json!({})).await;
    fleet.until("select count(*) = 1 from longshore.step_delayed").await;
    fleet.drain().await;
    cancel(&fleet, run).await;
    settle_all(&fleet.database).await;
    assert_eq!(fleet.database.number("select count(*) from longshore.step_ready where node = -11").await, 1);
    let report = doctor::examine(&mut fleet.database.pool.acquire().await.unwrap()).await.unwrap();
    let residue = report.checks.iter().find(|check| check.name == "residue").unwrap();
    assert!(report.is_clean() && residue.found == 0, "{report}");
    fleet.add(worker(&fleet, &gate, &last)).await;
    settled(&fleet).await;
    assert_eq!(recorded(&fleet, run, 1).await, ["undo"]);
    fleet.finish().await;
}

/// Two settle at once. What the first began to bound a `finally` sets its timer later, so the closing stays until that is gone, though the second looked around
/// before the first had committed.
#[tokio::test(flavor = "multi_thread")]
async fn what_bounds_one_is_seen_by_all_who_settle() {
    let (gate, last) = (Gate::default(), Gate::default());
    let t = tried("t", task("work", "echo"), task("last", "last"));
    let mut fleet = fleet(json!({"name": "w", "nodes": [t]}), &gate, &last).await;
    fleet.apply(json!({"name": "first", "nodes": [{"id": "wait", "type": "wait", "signal": "go"}]})).await;
    let (first, run) = (fleet.start("first", json!({})).await, fleet.start("w", json!({})).await);
    last.entered(1).await;
    fleet.until("select exists (select from longshore.step_waiting)").await;
    fleet.drain().await;
    cancel(&fleet, first).await;
    cancel(&fleet, run).await;
    let pool = &fleet.database.pool;
    let settle = "select longshore.settle(0::smallint, array_agg(c.run_id), array_agg(c.close_id), '{}', '{}') from longshore.closed c where c.run_id = any ($1)";
    // the first has begun it, and has not committed
    let mut one = pool.begin().await.unwrap();
    sqlx::query(settle).bind([run]).execute(&mut *one).await.unwrap();
    let mut holder = pool.begin().await.unwrap();
    sqlx::query("select from longshore.step_waiting for update").execute(&mut *holder).await.unwrap();
    let other = tokio::spawn({
        let pool = pool.clone();
        async move { sqlx::query_scalar::<_, Option<i32>>(settle).bind([first, run]).fetch_one(&pool).await.unwrap() }
    });
    until_blocked(pool, 1).await;
    one.commit().await.unwrap();
    // the `finally` ends
    fleet.database.execute("delete from longshore.step_ready where node >= 0").await;
    fleet
        .database
        .execute("update longshore.frames set state = 3, output = '1', finished_at = now() where shield = frame")
        .await;
    holder.rollback().await.unwrap();
    assert_eq!(other.await.unwrap(), Some(1));
    assert_eq!(fleet.database.number("select count(*) from longshore.step_ready where node = -11").await, 1);
    let left: Vec<Uuid> = sqlx::query_scalar("select run_id from longshore.closed").fetch_all(pool).await.unwrap();
    assert_eq!(left, [run], "what it will leave is not settled");
    fleet.add(worker(&fleet, &gate, &last)).await;
    settled(&fleet).await;
    assert_eq!(fleet.database.number("select count(*) from longshore.step_delayed").await, 0);
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_time_is_bounded() {
    let (gate, last) = (Gate::default(), Gate::default());
    let t = with(tried("t", work(), task("undo", "last")), json!({"timeout": "1h"}));
    let fleet = fleet(json!({"name": "w", "nodes": [t]}), &gate, &last).await;
    let run = fleet.start("w", json!({})).await;
    gate.entered(1).await;
    cancel(&fleet, run).await;
    last.entered(1).await;
    // the timeout of the try itself is settled with it
    fleet.until("select count(*) = 1 from longshore.step_delayed where node = -6").await;
    fleet.database.execute("update longshore.step_delayed set due_at = now() where node = -6").await;
    last.told(1).await;
    settled(&fleet).await;
    assert_eq!(finallys(&fleet, run).await, [("failed".to_owned(), json!({"to": "t"}))]);
    assert_eq!(canceled(&fleet, run).await, ["t", "undo", "work"]);
    let error: Value = sqlx::query_scalar("select error from longshore.frames where run_id = $1 and shield = frame")
        .bind(run)
        .fetch_one(&fleet.database.pool)
        .await
        .unwrap();
    assert_eq!(error["message"], "the finally did not end within 1h of when its try was cut off");
    fleet.idle().await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finally_of_an_ended_run_retries_waits_for_child_runs_and_outlives_its_worker() {
    let (gate, last) = (Gate::default(), Gate::default());
    let child = json!({"name": "child", "nodes": [task("c", "last")]});
    let flaky = with(
        task("flaky", "flaky"),
        json!({"input": {"fail": 1}, "retry": {"max_attempts": 3, "initial": "1ms", "give_up": "pause"}}),
    );
    let never = with(
        task("never", "flaky"),
        json!({"input": {"fail": 9}, "on_error": "continue", "retry": {"max_attempts": 2, "initial": "1ms", "give_up": "pause"}}),
    );
    let calls = json!({"id": "calls", "type": "subflow", "workflow": "child"});
    let finally = json!({"nodes": [flaky, calls, never, task("end", "echo")], "edges": [["flaky", "calls"], ["calls", "never"], ["never", "end"]]});
    let t = json!({"id": "t", "type": "try", "body": {"nodes": [work()]}, "finally": finally});
    let mut fleet = TestFleet::publish([child, json!({"name": "w", "nodes": [t]})]).await;
    fleet.add(worker(&fleet, &gate, &last)).await;
    let run = fleet.start("w", json!({})).await;
    gate.entered(1).await;
    cancel(&fleet, run).await;
    last.entered(1).await;
    fleet.crash().await;
    last.open(9);
    fleet.add(worker(&fleet, &gate, &last)).await;
    settled(&fleet).await;
    assert_eq!(recorded(&fleet, run, 1).await, ["flaky", "calls", "never", "end"]);
    assert_eq!(fleet.tries(run, "flaky").await, ["failed", "completed"]);
    assert_eq!(fleet.ended(run).await.0, "canceled");
    fleet.forget_killed().await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_within_a_finally_has_its_own() {
    let (gate, last) = (Gate::default(), Gate::default());
    let stuck = |step: Step, _: Value| async move {
        step.cancellation().cancelled().await;
        Err::<Value, _>(Failure::canceled("told to stop"))
    };
    let inner = tried("inner", task("stuck", "stuck"), task("innermost", "echo"));
    let definition = json!({"name": "w", "nodes": [tried("outer", work(), inner)]});
    let mut fleet = TestFleet::publish([definition]).await;
    fleet.add(worker(&fleet, &gate, &last).handler("stuck", stuck)).await;
    let run = fleet.start("w", json!({})).await;
    gate.entered(1).await;
    cancel(&fleet, run).await;
    fleet
        .until("select exists (select from longshore.frames where cleanup > 0 and state = 1 and shield is not null)")
        .await;
    fleet.until("select count(*) = 1 from longshore.step_delayed where node = -6").await;
    fleet.database.execute("update longshore.step_delayed set due_at = now() where node = -6").await;
    settled(&fleet).await;
    assert_eq!(recorded(&fleet, run, 1).await, ["innermost"]);
    let states: Vec<String> = finallys(&fleet, run).await.into_iter().map(|(state, _)| state).collect();
    assert_eq!(states, ["failed", "completed"]);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_goes_on_after_its_finally_comes_to_it_again() {
    let (gate, last) = (Gate::default(), Gate::default());
    let body = json!({"nodes": [task("first", "echo"), work()], "edges": [["first", "work"]]});
    let t = json!({"id": "t", "type": "try", "body": body, "finally": {"nodes": [task("undo", "echo")]}});
    let fleet = fleet(json!({"name": "w", "nodes": [t]}), &gate, &last).await;
    let run = fleet.start("w", json!({})).await;
    gate.entered(1).await;
    cancel(&fleet, run).await;
    settled(&fleet).await;
    // what was undone is done again, all of it
    fleet.enqueuer.retry(run).await.unwrap();
    gate.entered(2).await;
    gate.open(1);
    assert_eq!(fleet.ended(run).await.0, "completed");
    assert_eq!(recorded(&fleet, run, 1).await, ["first", "undo", "first", "work", "undo", "t"]);
    // one that begins within the body takes no finally over
    let anew = fleet.enqueuer.rerun(run, "t[body]/work").await.unwrap().run_id.unwrap();
    gate.entered(3).await;
    cancel(&fleet, anew).await;
    settled(&fleet).await;
    assert_eq!(recorded(&fleet, anew, 1).await, ["first", "undo"]);
    let within = fleet.enqueuer.rerun(run, "t[finally]/undo").await.unwrap().run_id.unwrap();
    assert_eq!(fleet.ended(within).await.0, "completed");
    fleet.finish().await;
}

/// What still owes a `finally`, or is in one, is the other run's business.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_begins_anew_takes_over_no_finally_of_what_it_never_did() {
    let (gate, last) = (Gate::default(), Gate::default());
    // the outer one, cut off by its time, waits for the inner one, which is held
    let cut = json!({"timeout": "1h", "retry": {"max_attempts": 1}, "on_error": "continue"});
    let outer = with(tried("outer", tried("inner", work(), task("first", "last")), task("then", "echo")), cut);
    let body = json!({"nodes": [outer, task("x", "echo")], "edges": [["outer", "x"]]});
    let each = json!({"id": "each", "type": "foreach", "items": [0, 1], "body": body});
    let hold = json!({"id": "hold", "type": "wait", "signal": "go"});
    let fleet = fleet(json!({"name": "w", "nodes": [each, hold], "edges": [["each", "hold"]]}), &gate, &last).await;
    let holds = |run: Uuid| format!("select exists (select from longshore.step_waiting where run_id = '{run}')");
    let run = fleet.start("w", json!({})).await;
    gate.entered(2).await;
    fleet.database.execute("update longshore.step_delayed set due_at = now() where node = -6").await;
    last.entered(2).await;
    fleet.until(&holds(run)).await;
    let anew = fleet.enqueuer.rerun(run, "each[1]/x").await.unwrap().run_id.unwrap();
    fleet.until(&holds(anew)).await;
    let frames = "select count(*) from longshore.frames where run_id = $1";
    assert!(
        fleet.ask::<i64>(&format!("{frames} and shield = frame"), anew).await > 0,
        "the first iteration is taken over"
    );
    let open = format!("{frames} and (state = 1 or cleanup is not null)");
    assert_eq!(fleet.ask::<i64>(&open, anew).await, 0);
    cancel(&fleet, anew).await;
    fleet.until(&format!("select not exists (select from longshore.closed where run_id = '{anew}')")).await;
    last.open(2);
    fleet.enqueuer.signal(run, "go", &1).await.unwrap();
    assert_eq!(fleet.ended(run).await.0, "completed");
    settled(&fleet).await;
    let done = recorded(&fleet, run, 1).await;
    for node in ["first", "then"] {
        assert_eq!(done.iter().filter(|done| *done == node).count(), 2, "{node} of {done:?}");
    }
    assert_eq!(last.count(), 2, "the new run began none");
    fleet.idle().await;
    fleet.finish().await;
}
