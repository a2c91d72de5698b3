//! Pausing and resuming through a real fleet: nothing starts while a run is paused, and nothing is lost by it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

use std::time::Duration;

use longshore_core::state::RunState;
use longshore_enqueuer::Switched;
use longshore_tests::TestFleet;
use longshore_tests::fleet::{Gate, TestHandlers};
use longshore_tests::lane::{ManualLane, reap};
use longshore_worker::Slots;
use serde_json::{Value, json};
use uuid::Uuid;

async fn fleet(definition: Value, gate: &Gate) -> TestFleet {
    let mut fleet = TestFleet::publish([definition]).await;
    let worker = fleet.worker().queue("default", Slots(16));
    fleet.add(worker.gate(gate)).await;
    fleet
}

async fn until_parked(fleet: &TestFleet, run: Uuid, count: usize) {
    let sql = format!(
        "select count(*) = {count} and not exists (select from longshore.step_leases where run_id = '{run}')
             and not exists (select from longshore.step_ready where run_id = '{run}')
         from longshore.step_delayed where run_id = '{run}' and parked"
    );
    fleet.until(&sql).await;
}

async fn explained(fleet: &TestFleet, run: Uuid) -> String {
    let mut connection = fleet.database.pool.acquire().await.unwrap();
    longshore_core::explain::explain(&mut connection, run).await.unwrap().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_ends_and_what_follows_waits_until_the_run_is_resumed() {
    let gate = Gate::default();
    let definition = json!({"name": "w", "nodes": [
        {"id": "a", "type": "task", "handler": "gate", "input": 1}, {"id": "b", "type": "set", "output": "{{ nodes.a.output + 1 }}"},
        {"id": "c", "type": "task", "handler": "echo"}], "edges": [["a", "b"], ["b", "c"]]});
    let fleet = fleet(definition, &gate).await;
    let run = fleet.start("w", json!({})).await;
    gate.entered(1).await;
    assert_eq!(fleet.enqueuer.pause(run, "wait for ann").await.unwrap(), Switched::Changed);
    assert_eq!(fleet.enqueuer.pause(run, "again").await.unwrap(), Switched::Already);
    gate.open(1);
    until_parked(&fleet, run, 1).await;
    assert_eq!(fleet.outcomes(run).await, json!({"completed": ["a"], "delayed": ["b"]}));
    let told = explained(&fleet, run).await;
    assert!(told.contains("paused") && told.contains("wait for ann") && told.contains('b'), "{told}");
    assert_eq!(fleet.enqueuer.get(run).await.unwrap().unwrap().state, RunState::Paused);
    assert_eq!(fleet.enqueuer.resume(run).await.unwrap(), Switched::Changed);
    assert_eq!(fleet.ended(run).await, ("completed".to_owned(), json!(2)));
    assert_eq!(fleet.enqueuer.resume(run).await.unwrap(), Switched::AlreadyEnded(RunState::Completed));
    assert_eq!(fleet.enqueuer.pause(run, "late").await.unwrap(), Switched::AlreadyEnded(RunState::Completed));
    assert_eq!(fleet.enqueuer.pause(Uuid::nil(), "none").await.unwrap(), Switched::NotFound);
    // a run that was never claimed is parked when it is
    let run = fleet.start("w", json!({})).await;
    fleet.enqueuer.pause(run, "early").await.unwrap();
    gate.open(1);
    fleet.until(&format!("select not exists (select from longshore.step_leases where run_id = '{run}') and not exists (select from longshore.step_ready where run_id = '{run}')")).await;
    fleet.enqueuer.resume(run).await.unwrap();
    assert_eq!(fleet.ended(run).await.0, "completed");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_has_no_attempt_left_may_pause_its_run() {
    let definition = json!({"name": "w", "nodes": [
        {"id": "other", "type": "task", "handler": "echo", "input": "fine"},
        {"id": "each", "type": "foreach", "items": [0, 3, 0], "concurrency": 3, "body": {"nodes": [
            {"id": "t", "type": "task", "handler": "flaky", "input": {"fail": "{{ item }}", "output": "{{ index }}"},
             "retry": {"max_attempts": 2, "initial": "1ms", "give_up": "pause"}, "on_error": "skip"}]}}]});
    let mut fleet = TestFleet::publish([definition]).await;
    fleet.work(8).await;
    let run = fleet.start("w", json!({})).await;
    until_parked(&fleet, run, 1).await;
    let told = explained(&fleet, run).await;
    assert!(told.contains("paused") && told.contains("t, attempt 2"), "{told}");
    assert_eq!(fleet.enqueuer.get(run).await.unwrap().unwrap().state, RunState::Paused);
    fleet.enqueuer.resume(run).await.unwrap();
    let (state, output) = fleet.ended(run).await;
    assert_eq!((state.as_str(), output), ("completed", json!({"other": "fine", "each": [0, 1, 2]})));
    let attempts: Vec<i32> = sqlx::query_scalar(
        "select a.attempt from longshore.execution_step_attempts a join longshore.frames f on f.run_id = a.run_id and f.frame = a.frame
         where a.run_id = $1 and f.iteration = 1 order by 1",
    )
    .bind(run)
    .fetch_all(&fleet.database.pool)
    .await
    .unwrap();
    assert_eq!(attempts, [1, 2, 3, 4], "attempts go on counting, and the policy begins anew");
    fleet.finish().await;
}

/// Its policies begin anew with all that they count: also the time since the first attempt.
#[tokio::test(flavor = "multi_thread")]
async fn the_total_of_a_policy_begins_anew_with_it() {
    let retry = json!({"max_attempts": 3, "initial": "1ms", "total": "1h", "give_up": "pause"});
    let flaky = |id: &str, more: Value| {
        let mut task = json!({"id": id, "type": "task", "handler": "flaky", "input": {"fail": 99}, "retry": retry});
        task.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        task
    };
    let body = json!({"nodes": [flaky("in", json!({"retry": {"max_attempts": 1}}))]});
    let block = json!({"id": "if", "type": "if", "when": "true", "retry": retry, "then": body});
    let [alone, block] =
        [("alone", flaky("t", json!({}))), ("block", block)].map(|(name, node)| json!({"name": name, "nodes": [node]}));
    let mut fleet = TestFleet::publish([alone, block]).await;
    fleet.work(8).await;
    for (name, node) in [("alone", "t"), ("block", "if")] {
        let run = fleet.start(name, json!({})).await;
        until_parked(&fleet, run, 1).await;
        assert_eq!(fleet.tries(run, node).await.len(), 3);
        // the pause lasts longer than the total
        fleet
            .database
            .execute("update longshore.execution_step_attempts set claimed_at = claimed_at - interval '1 day'")
            .await;
        fleet.enqueuer.resume(run).await.unwrap();
        until_parked(&fleet, run, 1).await;
        assert_eq!(fleet.tries(run, node).await.len(), 6, "{node}: as often as before the pause");
        fleet.enqueuer.cancel(run).await.unwrap();
    }
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_completes_while_it_is_paused_leaves_nothing_parked() {
    let gate = Gate::default();
    let definition = json!({"name": "w", "nodes": [{"id": "a", "type": "task", "handler": "gate"}, {"id": "w", "type": "wait", "signal": "go"}],
        "edges": [{"from": "a", "to": "w", "when": "false"}]});
    let mut fleet = TestFleet::publish([definition]).await;
    fleet.add(fleet.worker().queue("default", Slots(5)).gate(&gate)).await;
    let run = fleet.start("w", json!({})).await;
    gate.entered(1).await;
    assert_eq!(fleet.enqueuer.pause(run, "wait").await.unwrap(), Switched::Changed);
    // a step job of it is parked, and its last step completes it
    fleet.enqueuer.signal(run, "go", &json!(1)).await.unwrap();
    fleet.until("select exists (select from longshore.step_delayed where parked)").await;
    gate.open(1);
    assert_eq!(fleet.ended(run).await.0, "completed");
    fleet
        .until("select not exists (select from longshore.step_delayed) and not exists (select from longshore.pauses)")
        .await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_step_that_paused_its_run_is_tried_again_when_that_is_resumed() {
    let task = json!({"id": "t", "type": "task", "handler": "echo", "input": "at last", "retry": {"give_up": "pause"}});
    let mut fleet = TestFleet::publish([json!({"name": "w", "nodes": [task]})]).await;
    let run = fleet.start("w", json!({})).await;
    for lost in 0..5 {
        let pool = &fleet.database.pool;
        let mut lane = if lost == 0 { ManualLane::new(pool) } else { ManualLane::alone(pool) };
        lane.claim_node("t").await;
        lane.expire().await;
        reap(pool).await.unwrap();
        lane.forget();
    }
    fleet.work(8).await;
    until_parked(&fleet, run, 1).await;
    fleet.enqueuer.resume(run).await.unwrap();
    assert_eq!(fleet.ended(run).await, ("completed".to_owned(), json!("at last")));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreach_and_a_while_are_paused_in_their_middle() {
    let definition = json!({"name": "w", "nodes": [
        {"id": "each", "type": "foreach", "items": "{{ run.input }}", "concurrency": 20, "body": {"nodes": [{"id": "t", "type": "task", "handler": "echo", "input": "{{ item }}"}]}},
        {"id": "again", "type": "while", "when": "input < 100", "input": 0, "max_iterations": 1000, "body": {"nodes": [{"id": "n", "type": "task", "handler": "echo", "input": "{{ frame.input + 1 }}"}]}}],
        "output": ["{{ nodes.each.output|sum }}", "{{ nodes.again.output }}"]});
    let mut fleet = TestFleet::publish([definition]).await;
    fleet.work(8).await;
    let items: Vec<i64> = (0..400).collect();
    let run = fleet.start("w", json!(items)).await;
    let mut paused = 0;
    for _ in 0..40 {
        if fleet.enqueuer.pause(run, "now").await.unwrap() != Switched::Changed {
            break;
        }
        fleet.until(&format!("select state <> 2 or not exists (select from longshore.step_leases where run_id = '{run}') and not exists (select from longshore.step_ready where run_id = '{run}') from longshore.workflow_runs where run_id = '{run}'")).await;
        let sql = "select count(*) from longshore.execution_step_attempts where run_id = $1";
        let before: i64 = fleet.ask(sql, run).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert_eq!(fleet.ask::<i64>(sql, run).await, before, "nothing happens while it is paused");
        paused += 1;
        fleet.enqueuer.resume(run).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(paused > 2, "{paused}");
    assert_eq!(fleet.ended(run).await, ("completed".to_owned(), json!([79_800, 100])));
    fleet.finish().await;
}

/// Pauses, resumes and cancels at any moment: every run ends, and every attempt is there once.
#[tokio::test(flavor = "multi_thread")]
async fn no_step_is_lost_between_a_pause_and_a_resume() {
    let definition = json!({"name": "w", "nodes": [
        {"id": "a", "type": "task", "handler": "echo"}, {"id": "b", "type": "task", "handler": "echo"}, {"id": "c", "type": "wait", "signal": "go"},
        {"id": "d", "type": "task", "handler": "echo"}, {"id": "e", "type": "delay", "duration": "5ms"}, {"id": "f", "type": "set", "output": 1}],
        "edges": [["a", "b"], ["a", "c"], ["b", "d"], ["c", "d"], ["d", "e"], ["e", "f"]]});
    let mut fleet = TestFleet::publish([definition]).await;
    fleet.work(8).await;
    fleet.work(8).await;
    let mut tasks = Vec::new();
    for number in 0..150_u64 {
        let (run, enqueuer) = (fleet.start("w", json!({})).await, fleet.enqueuer.clone());
        tasks.push(tokio::spawn(async move {
            for turn in 0..6_u64 {
                tokio::time::sleep(Duration::from_micros((number * 7919 + turn * 104_729) % 9000)).await;
                if turn == 3 {
                    enqueuer.signal(run, "go", &1).key("go").await.ok();
                }
                if turn % 2 == 0 {
                    enqueuer.pause(run, "test").await.unwrap();
                } else {
                    enqueuer.resume(run).await.unwrap();
                }
            }
            if number % 10 == 0 {
                enqueuer.pause(run, "last").await.unwrap();
                enqueuer.cancel(run).await.unwrap();
            }
            run
        }));
    }
    for (number, task) in tasks.into_iter().enumerate() {
        let (state, _) = fleet.ended(task.await.unwrap()).await;
        assert!(state == "completed" || number % 10 == 0 && state == "canceled", "{number}: {state}");
    }
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_run_that_is_canceled_leaves_nothing() {
    let gate = Gate::default();
    let definition = json!({"name": "w", "nodes": [{"id": "a", "type": "task", "handler": "gate"}, {"id": "b", "type": "task", "handler": "gate"}], "edges": [["a", "b"]]});
    let fleet = fleet(definition, &gate).await;
    let run = fleet.start("w", json!({})).await;
    gate.entered(1).await;
    fleet.enqueuer.pause(run, "test").await.unwrap();
    gate.open(1);
    until_parked(&fleet, run, 1).await;
    fleet.enqueuer.cancel(run).await.unwrap();
    fleet.until("select not exists (select from longshore.closed)").await;
    let left: i64 = fleet.ask("select (select count(*) from longshore.step_delayed where run_id = $1) + (select count(*) from longshore.pauses where run_id = $1)", run).await;
    assert_eq!(left, 0);
    fleet.finish().await;
}
