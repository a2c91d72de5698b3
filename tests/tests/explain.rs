//! `explain` names what a run waits for, whatever that is, from the rows a real fleet or a lane of the engine left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use longshore_core::attempt::Ending;
use longshore_core::error::{ErrorKind, StepError};
use longshore_core::explain::{self, Delay, Explanation, Predecessor, Work};
use longshore_core::fleet::{self, Registration};
use longshore_core::inspect::NodeState;
use longshore_core::state::{RunState, StepState};
use longshore_tests::fleet::{Gate, TestHandlers, chain, fan, nested, task, with};
use longshore_tests::lane::{dag, reap};
use longshore_tests::{ManualLane, TestFleet};
use longshore_worker::Slots;
use serde_json::json;
use uuid::Uuid;

async fn why(fleet: &TestFleet, run: Uuid) -> Explanation {
    let mut connection = fleet.database.pool.acquire().await.unwrap();
    let answer = explain::explain(&mut connection, run).await.unwrap().expect("the run is there");
    // what is counted is what is shown, and the answer reads as text and as JSON
    assert_eq!(answer.ready.len() as i64, answer.ready_total.min(explain::MAX_SHOWN));
    assert_eq!(answer.delayed.len() as i64, answer.delayed_total.min(explain::MAX_SHOWN));
    assert_eq!(answer.held.len() as i64, answer.held_total.min(explain::MAX_SHOWN));
    assert!(answer.to_string().starts_with(&format!("run {run} (")), "{answer}");
    assert_eq!(serde_json::to_value(&answer).unwrap()["run_id"], json!(run));
    answer
}

async fn register(fleet: &TestFleet, queue: &str, handler: &str) -> Uuid {
    let worker_id = Uuid::new_v4();
    let worker = Registration {
        worker_id,
        name: format!("{queue}-{handler}"),
        host: "host".to_owned(),
        pid: 7,
        queues: vec![queue.to_owned()],
        handlers: vec![handler.to_owned()],
        slots: 1,
    };
    fleet::register(&fleet.database.pool, &worker).await.unwrap();
    worker_id
}

fn says(answer: &Explanation, text: &str) {
    assert!(answer.to_string().contains(text), "{text:?} is not in:\n{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ready_step_says_since_when_and_who_could_take_it() {
    let fleet = TestFleet::publish([dag("w", "a b", "a>b")]).await;
    let run = fleet.start("w", json!({})).await;
    let answer = why(&fleet, run).await;
    assert_eq!((answer.state, answer.stuck, answer.pending), (RunState::Queued, false, 1));
    assert_eq!((answer.ready_total, answer.delayed_total, answer.held_total, answer.joins_total), (1, 0, 0, 0));
    let step = &answer.ready[0];
    assert_eq!((step.node.as_str(), step.queue.as_str(), step.handler.as_deref()), ("a", "default", Some("echo")));
    assert_eq!((step.work, step.attempt, step.priority, step.ahead, step.alone), (Work::Run, 1, 1, 0, false));
    assert!((step.since - answer.created_at).abs() < TimeDelta::seconds(5), "{answer:?}");
    assert!(step.since <= answer.now);
    let nobody = ["no live worker at all", "no live worker knows handler echo", "no live worker serves queue default"];
    assert_eq!((step.workers, answer.problems.as_slice()), (0, nobody.map(str::to_owned).as_slice()));
    says(&answer, "ready: a, attempt 1, in queue default, priority 1, for ");
    says(&answer, "problem: no live worker serves queue default");

    register(&fleet, "other", "echo").await;
    assert_eq!(why(&fleet, run).await.problems, ["no live worker serves queue default"]);
    let server = register(&fleet, "default", "print").await;
    assert_eq!(why(&fleet, run).await.problems, ["no live worker that serves queue default knows handler echo"]);
    fleet.database.execute("delete from longshore.workers where name = 'other-echo'").await;
    assert_eq!(why(&fleet, run).await.problems, ["no live worker knows handler echo"]);
    let right = register(&fleet, "default", "echo").await;
    let answer = why(&fleet, run).await;
    assert_eq!((answer.ready[0].workers, answer.problems.len()), (1, 0));
    says(&answer, "1 live worker can take it");

    fleet::drain(&fleet.database.pool, right).await.unwrap();
    assert_eq!(
        why(&fleet, run).await.problems,
        ["no live worker knows handler echo"],
        "one that drains does not count"
    );
    let silent =
        format!("update longshore.workers set heartbeat_at = now() - interval '31 s' where worker_id = '{server}'");
    fleet.database.execute(&silent).await;
    assert_eq!(why(&fleet, run).await.problems, nobody, "nor does one that is silent");
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ready_step_says_how_many_go_first() {
    let fleet = TestFleet::publish([dag("w", "a", "")]).await;
    let first = fleet.start("w", json!({})).await;
    let second = fleet.start("w", json!({})).await;
    let urgent = fleet.enqueuer.start("w", &json!({})).priority(0).await.unwrap().id;
    for (run, ahead, priority) in [(urgent, 0, 0), (first, 1, 1), (second, 2, 1)] {
        let answer = why(&fleet, run).await;
        assert_eq!((answer.ready[0].ahead, answer.ready[0].priority), (ahead, priority));
    }
    // the lane takes them in that order
    let mut lane = ManualLane::new(&fleet.database.pool);
    for run in [urgent, first, second] {
        assert_eq!(lane.claim(1).await[0].run_id, run);
    }
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_step_waits_for_its_backoff_and_says_what_went_wrong() {
    let fleet = TestFleet::publish([chain("w", 2)]).await;
    let run = fleet.start("w", json!({})).await;
    let mut lane = ManualLane::new(&fleet.database.pool);
    let a = lane.claim_node("n0").await;
    let error = StepError::new("declined", ErrorKind::Retryable, "no money").at("n0", 1);
    let failed = Ending::Failed { error, retry_after: Some(Duration::from_secs(40)) };
    lane.cycle(vec![(a, failed)], 0).await.passed();
    let answer = why(&fleet, run).await;
    assert_eq!((answer.state, answer.stuck), (RunState::Running, false));
    assert_eq!((answer.ready_total, answer.delayed_total, answer.held_total), (0, 1, 0));
    let step = &answer.delayed[0];
    assert_eq!((step.node.as_str(), step.attempt, step.work), ("n0", 2, Work::Run));
    let left = step.due_at - answer.now;
    assert!(left > TimeDelta::seconds(20) && left <= TimeDelta::seconds(40), "{left}");
    let Delay::Backoff { after_attempt: 1, failed_at, error: Some(error) } = &step.delay else {
        panic!("{:?}", step.delay);
    };
    assert!(*failed_at <= answer.now);
    assert_eq!((&error["name"], &error["message"]), (&json!("declined"), &json!("no money")));
    says(&answer, "backoff after attempt 1 failed ");
    says(&answer, "declined: no money");
    fleet.database.execute("update longshore.step_delayed set due_at = now() - interval '5 s'").await;
    says(&why(&fleet, run).await, " ago: any live worker makes it ready");
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_node_and_a_later_start_say_until_when() {
    let nap = json!({"name": "nap", "nodes": [{"id": "wait", "type": "delay", "duration": "1h"}]});
    let mut fleet = TestFleet::publish([nap, dag("w", "a", "")]).await;
    fleet.work(4).await;
    let run = fleet.start("nap", json!({})).await;
    fleet.until("select exists (select from longshore.step_delayed)").await;
    let answer = why(&fleet, run).await;
    let step = &answer.delayed[0];
    assert_eq!((step.node.as_str(), &step.delay, step.work), ("wait", &Delay::DelayNode, Work::Wake));
    let left = step.due_at - answer.now;
    assert!(left > TimeDelta::minutes(58) && left <= TimeDelta::hours(1), "{left}");
    assert_eq!(answer.problems, Vec::<String>::new());
    says(&answer, "a delay node");

    let at = Utc::now() + TimeDelta::days(1);
    let run = fleet.enqueuer.start("w", &json!({})).run_at(at).await.unwrap().id;
    let answer = why(&fleet, run).await;
    assert_eq!((answer.state, answer.stuck), (RunState::Queued, false));
    assert_eq!(answer.delayed[0].delay, Delay::RunAt);
    assert!((answer.delayed[0].due_at - at).abs() < TimeDelta::milliseconds(1));
    assert!((answer.run_at.unwrap() - at).abs() < TimeDelta::milliseconds(1));
    says(&answer, "the run was asked to start then");
    fleet.drain().await;
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_whose_handler_no_worker_knows_is_put_back_and_says_so() {
    let strange = json!({"name": "strange", "nodes": [{"id": "a", "type": "task", "handler": "teleport"}]});
    let mut fleet = TestFleet::publish([strange]).await;
    fleet.work(4).await;
    let run = fleet.start("strange", json!({})).await;
    fleet.until("select exists (select from longshore.step_delayed)").await;
    let answer = why(&fleet, run).await;
    assert_eq!((answer.delayed[0].attempt, &answer.delayed[0].delay), (1, &Delay::PutBack));
    assert_eq!(answer.problems, ["no live worker knows handler teleport"]);
    says(&answer, "put back by a worker that does not know handler teleport");
    fleet.drain().await;
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_step_says_by_whom_and_until_when() {
    let slow =
        json!({"name": "slow", "nodes": [{"id": "a", "type": "task", "handler": "sleep", "input": {"seconds": 3600}}]});
    let mut fleet = TestFleet::publish([slow]).await;
    let lease = Duration::from_secs(60);
    fleet.add(fleet.worker().lease(lease).queue("default", Slots(4)).name("clerk")).await;
    let run = fleet.start("slow", json!({})).await;
    fleet.until("select exists (select from longshore.step_leases where worker = 'clerk')").await;
    let answer = why(&fleet, run).await;
    assert_eq!((answer.state, answer.held_total, answer.ready_total), (RunState::Running, 1, 0));
    let step = &answer.held[0];
    assert_eq!((step.node.as_str(), step.attempt, step.worker.as_deref()), ("a", 1, Some("clerk")));
    assert_eq!(step.pid, i32::try_from(std::process::id()).ok());
    assert!(step.claimed_at.unwrap() <= answer.now);
    assert!(step.lease_until > answer.now && step.lease_until <= answer.now + TimeDelta::seconds(60));
    assert_eq!((step.overdue, step.worker_live, answer.problems.len()), (false, true, 0));
    says(&answer, "by worker clerk (host ");
    says(&answer, "its lease stands until ");

    fleet.crash().await;
    fleet.database.execute("update longshore.workers set heartbeat_at = now() - interval '40 s'").await;
    let answer = why(&fleet, run).await;
    assert_eq!((answer.held[0].overdue, answer.held[0].worker_live), (false, false));
    says(&answer, ", but the worker was last heard of 4");
    fleet.database.execute("update longshore.lanes set expires_at = now() - interval '7 s'").await;
    let answer = why(&fleet, run).await;
    assert_eq!((answer.held[0].overdue, answer.stuck), (true, false));
    assert_eq!(answer.problems, ["no live worker at all"], "nobody will reclaim it");
    says(&answer, ": any live worker will reclaim it");
    fleet.database.execute("delete from longshore.workers").await;
    says(&why(&fleet, run).await, "by a worker that is not registered any more");

    assert_eq!(reap(&fleet.database.pool).await.unwrap().steps, 1);
    let answer = why(&fleet, run).await;
    assert_eq!((answer.ready[0].attempt, answer.ready[0].alone, answer.held_total), (2, true, 0));
    says(&answer, "it was lost before, so it must be alone in its lane");
    fleet.database.drop().await;
}

fn waits(node: &str, state: StepState) -> Predecessor {
    Predecessor { node: node.to_owned(), state: NodeState::Step(state) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_names_the_predecessors_it_waits_for() {
    let fleet = TestFleet::publish([dag("w", "a b c d j k", "a>j b>j c>d d>j j>k")]).await;
    let run = fleet.start("w", json!({})).await;
    let mut lane = ManualLane::without_keeping(&fleet.database.pool);
    lane.claim_node("start").await;
    lane.finish_all(json!(0)).await;
    assert_eq!(why(&fleet, run).await.joins_total, 0, "nothing has arrived yet");
    let a = lane.claim_node("a").await;
    lane.complete(&[a], json!(1)).await;
    let b = lane.claim_node("b").await;
    let answer = why(&fleet, run).await;
    assert_eq!((answer.ready_total, answer.held_total, answer.joins_total, answer.pending), (1, 1, 1, 3));
    let join = &answer.joins[0];
    assert_eq!((join.node.as_str(), join.in_edges, join.resolved, join.taken), ("j", 3, 1, 1));
    assert_eq!((join.need, join.fired), (0, false));
    let pending = Predecessor { node: "d".to_owned(), state: NodeState::Pending };
    assert_eq!(join.waits_for, [waits("b", StepState::Running), pending]);
    says(&answer, "join j has 1 of 3 in-edges resolved, 1 taken; waits for b (running), d (pending)");

    lane.complete(&[b], json!(1)).await;
    let c = lane.claim_node("c").await;
    lane.complete(&[c], json!(1)).await;
    let answer = why(&fleet, run).await;
    assert_eq!(answer.joins[0].waits_for, [waits("d", StepState::Ready)]);
    let d = lane.claim_node("d").await;
    lane.complete(&[d], json!(1)).await;
    let answer = why(&fleet, run).await;
    assert_eq!((answer.joins_total, answer.ready[0].node.as_str()), (0, "j"), "it waits no more: {answer}");
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_join_and_the_end_of_a_run_name_what_they_wait_for() {
    let fleet = TestFleet::publish([dag("w", "a b c j:2 k", "a>j b>j c>j j>k")]).await;
    let run = fleet.start("w", json!({})).await;
    let mut opener = ManualLane::without_keeping(&fleet.database.pool);
    opener.claim_node("start").await;
    opener.finish_all(json!(0)).await;
    let mut lane = ManualLane::new(&fleet.database.pool);
    lane.claim_node("a").await;
    lane.finish_all(json!(1)).await;
    let answer = why(&fleet, run).await;
    assert_eq!((answer.joins[0].need, answer.joins[0].fired), (2, false));
    says(&answer, "join j has 1 of the 2 taken in-edges it needs; waits for b (ready), c (ready)");
    lane.claim_node("b").await;
    lane.finish_all(json!(1)).await;
    let answer = why(&fleet, run).await;
    let joins: Vec<_> = answer.joins.iter().map(|join| (join.node.as_str(), join.fired, join.resolved)).collect();
    assert_eq!(joins, [("j", true, 2), ("(end)", false, 1)]);
    assert_eq!(answer.joins[0].waits_for, [waits("c", StepState::Ready)]);
    assert_eq!(answer.joins[1].waits_for, [waits("j", StepState::Completed)], "the end counts k, and j once whole");
    says(&answer, "join j fired early and counts on: 2 of 3 in-edges resolved; waits for c (ready)");
    says(&answer, "the end of the run has 1 of 2 sinks and early joins; waits for j (completed)");
    lane.drain(json!(1)).await;
    assert_eq!(why(&fleet, run).await.state, RunState::Completed);
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_only_some_are_named_and_all_are_counted() {
    let fleet = TestFleet::publish([fan("wide", 60)]).await;
    let run = fleet.start("wide", json!({})).await;
    let mut lane = ManualLane::without_keeping(&fleet.database.pool);
    lane.claim_node("a").await;
    lane.finish_all(json!(1)).await;
    let first = lane.claim(5).await;
    lane.complete(&first, json!(1)).await;
    lane.claim(25).await;
    let answer = why(&fleet, run).await;
    assert_eq!((answer.ready_total, answer.held_total, answer.pending), (30, 25, 1));
    assert_eq!((answer.joins[0].waits_for.len(), answer.joins[0].waits_for_total), (20, 55));
    says(&answer, "and 10 more ready");
    says(&answer, "and 5 more held");
    says(&answer, " and 35 more");
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_run_says_how_it_ended() {
    let fleet = TestFleet::publish([dag("w", "a b c", "a>b a>c")]).await;
    let mut lane = ManualLane::without_keeping(&fleet.database.pool);
    let completed = fleet.start("w", json!({})).await;
    lane.drain(json!(1)).await;
    let failed = fleet.start("w", json!({})).await;
    let a = lane.claim_node("a").await;
    let no = StepError::permanent("declined", "no money").at("a", 1);
    lane.cycle(vec![(a, Ending::Failed { error: no, retry_after: None })], 0).await.passed();
    let canceled = fleet.start("w", json!({})).await;
    let a = lane.claim_node("a").await;
    lane.complete(&[a], json!(1)).await;
    lane.claim(1).await;
    fleet.enqueuer.cancel(canceled).reason("not wanted").await.unwrap();

    let answer = why(&fleet, completed).await;
    assert_eq!((answer.state, answer.stuck, answer.pending), (RunState::Completed, false, 0));
    assert!(answer.finished_at.unwrap() <= answer.now);
    assert_eq!((answer.ready_total, answer.held_total, answer.joins_total, answer.problems.len()), (0, 0, 0, 0));
    says(&answer, "completed ");
    let answer = why(&fleet, failed).await;
    assert_eq!((answer.state, answer.stuck, answer.pending), (RunState::Failed, false, 2));
    assert_eq!(answer.error.as_ref().unwrap()["node"], "a");
    says(&answer, "node a, attempt 1: declined: no money");
    let answer = why(&fleet, canceled).await;
    assert_eq!((answer.state, answer.stuck), (RunState::Canceled, false));
    assert_eq!((answer.held_total, answer.ready_total, answer.problems.len()), (1, 1, 0));
    says(&answer, "not wanted");
    says(&answer, "steps that were out have been told to stop");
    says(&answer, "still queued and dropped when they come up: 1");
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_run_says_where_it_broke_off() {
    let fleet = TestFleet::publish([dag("w", "a b c j k", "a>b a>c b>j c>j j>k")]).await;
    let run = fleet.start("w", json!({})).await;
    let mut lane = ManualLane::without_keeping(&fleet.database.pool);
    let a = lane.claim_node("a").await;
    lane.complete(&[a], json!(1)).await;
    assert!(!why(&fleet, run).await.stuck);
    fleet.database.execute("delete from longshore.step_ready").await;
    let answer = why(&fleet, run).await;
    assert!(answer.stuck);
    assert_eq!((answer.lost.as_slice(), answer.pending), (["b".to_owned(), "c".to_owned()].as_slice(), 4));
    says(&answer, "STUCK");
    says(&answer, "it broke off before b, c");
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_run_says_so_and_a_run_that_does_not_exist_has_no_answer() {
    let mut fleet = TestFleet::publish([dag("w", "a", "")]).await;
    let run = fleet.start("w", json!({})).await;
    fleet.enqueuer.pause(run, "for ann").await.unwrap();
    let answer = why(&fleet, run).await;
    assert_eq!((answer.state, answer.stuck, answer.ready_total), (RunState::Paused, false, 1));
    says(&answer, "; its steps wait until it is resumed (for ann); ");
    fleet.work(4).await;
    fleet.until("select exists (select from longshore.step_delayed)").await;
    let answer = why(&fleet, run).await;
    assert_eq!((answer.state, &answer.delayed[0].delay), (RunState::Paused, &Delay::Paused));
    says(&answer, ": the run is paused");
    fleet.drain().await;
    let mut connection = fleet.database.pool.acquire().await.unwrap();
    assert_eq!(explain::explain(&mut connection, Uuid::new_v4()).await.unwrap(), None);
    drop(connection);
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_within_blocks_says_where() {
    let gate = Gate::default();
    let mut fleet = TestFleet::publish([nested("w")]).await;
    fleet.add(fleet.worker().queue("default", Slots(9)).gate(&gate)).await;
    let run = fleet.start("w", json!({})).await;
    gate.entered(3).await;
    fleet.until("select count(*) = 3 from longshore.step_leases").await;
    let answer = why(&fleet, run).await;
    let mut places: Vec<_> =
        answer.held.iter().map(|step| (step.within.clone().unwrap(), step.node.as_str())).collect();
    places.sort();
    assert_eq!(places, [0, 1, 2].map(|item| (format!("each[{item}] > again[0]"), "charge")));
    says(&answer, "held: each[1] > again[0] > charge, attempt 1,");
    says(&answer, "delayed: each > (timeout), ");
    says(&answer, ": the block fails if it has not ended by then");
    assert_eq!((answer.delayed[0].delay.clone(), answer.pending, answer.stuck), (Delay::Timeout, 4, false));

    gate.open(1);
    gate.entered(4).await;
    fleet.until("select count(*) = 3 from longshore.step_leases").await;
    says(&why(&fleet, run).await, "] > again[1] > charge, attempt 1,");

    fleet.crash().await;
    fleet.database.execute("delete from longshore.lanes; delete from longshore.step_delayed").await;
    let answer = why(&fleet, run).await;
    assert!(answer.stuck);
    assert_eq!(answer.lost.len(), 3, "{answer}");
    assert!(answer.lost.iter().all(|place| place.starts_with("each[") && place.ends_with(" > charge")), "{answer}");
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_says_how_many_iterations_have_ended_and_a_body_what_its_end_waits_for() {
    let gate = Gate::default();
    let bad = with(task("b", "flaky"), json!({"input": {"fail": "{{ 9 if item == 0 else 0 }}", "permanent": true}}));
    let body = json!({"nodes": [task("a", "gate"), bad, task("c", "gate")], "edges": [["a", "b"], ["a", "c"]]});
    let each = json!({"id": "each", "type": "foreach", "items": [0, 1, 2, 3], "concurrency": 2, "tolerate": {"count": 2}, "body": body});
    let mut fleet = TestFleet::publish([json!({"name": "w", "nodes": [each]})]).await;
    fleet.add(fleet.worker().queue("default", Slots(9)).gate(&gate)).await;
    let run = fleet.start("w", json!({})).await;
    gate.entered(2).await;
    // of the first item b fails, so two go on; of the others b ends, and c stands in the gate
    gate.open(2);
    gate.entered(4).await;
    fleet.until("select count(*) = 1 from longshore.step_joins where node = -3").await;
    fleet.until("select count(*) = 2 and bool_and(node >= 0) from longshore.step_leases").await;
    let answer = why(&fleet, run).await;
    says(&answer, "1 of 4 iterations of each have ended; waits for each[1] (running), each[2] (running) and 1 more");
    says(&answer, "1 of 4 iterations of each failed, it fails with 3");
    says(&answer, "the end of each[1] has 1 of 2 sinks and early joins; waits for c (running)");
    gate.open(100);
    fleet.ended(run).await;
    fleet.finish().await;
}
