//! A cancel against whatever the run is doing at that instant: nothing of it starts afterwards, and what was being completed may be recorded.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use longshore_core::attempt::Ending;
use longshore_core::cycle::Closing;
use longshore_core::payload::Payload;
use longshore_core::run::{self, Canceled};
use longshore_core::session::Session;
use longshore_core::upkeep::Settling;
use longshore_tests::fleet::{Gate, TestHandlers, task};
use longshore_tests::lane::{Answer, assert_nothing_left, copy_baton, dag, send_again, settle_all, until_blocked};
use longshore_tests::{ManualLane, TestFleet};
use longshore_worker::Slots;
use serde_json::json;
use uuid::Uuid;

async fn cancel(fleet: &TestFleet, run: Uuid) {
    let canceled = run::cancel(&fleet.database.pool, run, "no longer wanted").await.unwrap();
    assert_eq!(canceled, Canceled::Canceled);
}

/// The ended attempts of a run: node, attempt, outcome.
async fn attempts(fleet: &TestFleet, run: Uuid) -> Vec<(i32, i32, i16)> {
    let sql =
        "select node, attempt, outcome from longshore.execution_step_attempts where run_id = $1 order by node, attempt";
    sqlx::query_as(sql).bind(run).fetch_all(&fleet.database.pool).await.unwrap()
}

fn completed() -> Ending {
    Ending::Completed(Payload::of(&json!({"ok": true})).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_after_the_cancel_is_recorded_as_canceled_and_nothing_follows() {
    let fleet = TestFleet::publish([dag("w", "a b c", "a>b b>c")]).await;
    let run = fleet.start("w", json!({})).await;
    let mut lane = ManualLane::new(&fleet.database.pool);
    let a = lane.claim_node("a").await;
    cancel(&fleet, run).await;
    let Answer::Refused(closings) = lane.cycle(vec![(a, completed())], 0).await else {
        panic!("the fence should have refused a step of a closed run")
    };
    assert_eq!(closings.len(), 1);
    assert_eq!(attempts(&fleet, run).await, [], "a refused cycle changes nothing");
    // the same again, the closing known: passes the fence, and only then
    assert!(matches!(lane.cycle(vec![(a, Ending::Canceled)], 0).await, Answer::Passed(_)));
    assert_eq!(attempts(&fleet, run).await, [(0, 1, 4)]);
    assert!(lane.held.is_empty());
    assert_eq!(settle_all(&fleet.database).await, 1);
    assert_eq!(fleet.ended(run).await.0, "canceled");
    assert_nothing_left(&fleet.database).await;
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_cycle_may_be_sent_again_once_the_closing_is_known() {
    // two runs in one batch: the closed one's success is dropped, the other's consequences stand
    let fleet = TestFleet::publish([dag("w", "a b", "a>b")]).await;
    let (gone, stays) = (fleet.start("w", json!({})).await, fleet.start("w", json!({})).await);
    let mut lane = ManualLane::new(&fleet.database.pool);
    lane.claim(2).await;
    cancel(&fleet, gone).await;
    let endings: Vec<_> = lane.keys().into_iter().map(|key| (key, completed())).collect();
    assert!(matches!(lane.cycle(endings, 0).await, Answer::Refused(_)));
    assert_eq!(lane.held.len(), 2);
    let output = Payload::null();
    let endings: Vec<_> = lane.keys().into_iter().map(|key| (key, lane.natural(key, &output))).collect();
    lane.cycle(endings, 0).await.passed();
    assert_eq!(attempts(&fleet, gone).await, [(0, 1, 4)]);
    assert_eq!(attempts(&fleet, stays).await, [(0, 1, 1)]);
    assert_eq!((lane.nodes(), lane.held[0].step.run_id), (vec!["b".to_owned()], stays));
    // a second closing of the same run is a new one: the lane that knows only the first is refused again
    let b = lane.keys()[0];
    cancel(&fleet, stays).await;
    lane.heed(&[Closing { run_id: stays, close_id: 1, frame: 0 }]);
    assert!(matches!(lane.cycle(vec![(b, completed())], 0).await, Answer::Refused(_)));
    lane.cycle(vec![(b, Ending::Canceled)], 0).await.passed();
    settle_all(&fleet.database).await;
    assert_nothing_left(&fleet.database).await;
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_waits_for_no_lane_and_a_step_in_flight_records_its_success_but_starts_nothing() {
    // a leads to a join (where the cycle is held up) and to k, which the lane would keep
    for keep in [true, false] {
        let fleet = TestFleet::publish([dag("w", "a b j k", "a>k a>j b>j")]).await;
        let run = fleet.start("w", json!({})).await;
        let mut lane = ManualLane::without_keeping(&fleet.database.pool);
        lane.claim_node("start").await;
        lane.finish_all(json!(0)).await;
        lane.keep = keep;
        let a = lane.claim_node("a").await;
        let mut other = ManualLane::new(&fleet.database.pool);
        let b = other.claim_node("b").await;

        let mut holder = fleet.database.pool.acquire().await.unwrap();
        sqlx::raw_sql(&format!("begin; insert into longshore.step_joins values ('{run}', 0, 2, 1, 1, 0)"))
            .execute(&mut *holder)
            .await
            .unwrap();
        let in_flight = tokio::spawn(async move {
            let answer = lane.cycle(vec![(a, completed())], 0).await;
            (lane, answer)
        });
        until_blocked(&fleet.database.pool, 1).await;
        cancel(&fleet, run).await;
        sqlx::raw_sql("rollback").execute(&mut *holder).await.unwrap();
        let (mut lane, answer) = in_flight.await.unwrap();
        answer.passed();
        assert_eq!(attempts(&fleet, run).await, [(-1, 1, 1), (0, 1, 1)], "the success in flight is recorded");

        // k does not start: neither where the lane kept it nor where it went to the queue
        if !keep {
            lane.claim(1).await;
        }
        assert_eq!(lane.nodes(), ["k"]);
        assert!(lane.held.iter().all(|held| !held.live), "keep {keep}: the lane must be told that the run is closed");
        lane.finish_all(json!(1)).await;
        assert!(matches!(other.cycle(vec![(b, completed())], 0).await, Answer::Refused(_)));
        other.cycle(vec![(b, Ending::Canceled)], 0).await.passed();
        assert_eq!(attempts(&fleet, run).await, [(-1, 1, 1), (0, 1, 1), (1, 1, 4), (3, 1, 4)]);
        settle_all(&fleet.database).await;
        assert_eq!(fleet.ended(run).await.0, "canceled");
        assert_nothing_left(&fleet.database).await;
        drop(holder);
        fleet.database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_fires_in_a_cycle_in_flight_does_not_start_either() {
    let fleet = TestFleet::publish([dag("w", "a b j", "a>j b>j")]).await;
    let run = fleet.start("w", json!({})).await;
    let mut lane = ManualLane::without_keeping(&fleet.database.pool);
    lane.claim_node("start").await;
    lane.finish_all(json!(0)).await;
    lane.keep = true;
    lane.claim(2).await;
    let a = lane.of_node("a");
    let b = lane.of_node("b");
    lane.complete(&a, json!(1)).await;
    let mut holder = fleet.database.pool.acquire().await.unwrap();
    sqlx::raw_sql("begin; select from longshore.step_joins for update").execute(&mut *holder).await.unwrap();
    let in_flight = tokio::spawn(async move {
        lane.complete(&b, json!(1)).await;
        lane
    });
    until_blocked(&fleet.database.pool, 1).await;
    cancel(&fleet, run).await;
    sqlx::raw_sql("commit").execute(&mut *holder).await.unwrap();
    let mut lane = in_flight.await.unwrap();
    assert_eq!(lane.nodes(), ["j"]);
    assert!(!lane.held[0].live, "its run was read after the join had fired");
    lane.finish_all(json!(1)).await;
    settle_all(&fleet.database).await;
    assert_nothing_left(&fleet.database).await;
    drop(holder);
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_meets_the_end_of_the_run_changes_nothing() {
    // the run's last cycle has updated its row and is held up after it; the cancel waits for it and finds the run ended
    let fleet = TestFleet::publish([dag("w", "a", "")]).await;
    let run = fleet.start("w", json!({})).await;
    let mut lane = ManualLane::new(&fleet.database.pool);
    let a = lane.claim_node("a").await;
    let mut holder = fleet.database.pool.acquire().await.unwrap();
    // the attempt's key, uncommitted: the cycle waits at its insert, after the run's update
    sqlx::raw_sql(&format!(
        "begin; insert into longshore.execution_step_attempts (shard, run_id, frame, node, attempt, outcome, lane_id, finished_at, output)
         values (0, '{run}', 0, 0, 1, 1, 1, now(), '1')"
    ))
    .execute(&mut *holder)
    .await
    .unwrap();
    let ending = tokio::spawn(async move {
        lane.complete(&[a], json!(1)).await;
        lane
    });
    until_blocked(&fleet.database.pool, 1).await;
    let pool = fleet.database.pool.clone();
    let canceling = tokio::spawn(async move { run::cancel(&pool, run, "too late").await.unwrap() });
    until_blocked(&fleet.database.pool, 2).await;
    sqlx::raw_sql("rollback").execute(&mut *holder).await.unwrap();
    ending.await.unwrap();
    assert_eq!(canceling.await.unwrap(), Canceled::AlreadyEnded(longshore_core::state::RunState::Completed));
    assert_eq!(fleet.ended(run).await, ("completed".to_owned(), json!(1)));
    assert_nothing_left(&fleet.database).await;
    drop(holder);
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_canceled_first_stays_canceled_whatever_its_last_step_says() {
    // the cancel holds the run's row, not committed: the run's last cycle has passed the fence and waits there
    let fleet = TestFleet::publish([dag("w", "a", "")]).await;
    let run = fleet.start("w", json!({})).await;
    let mut lane = ManualLane::new(&fleet.database.pool);
    let a = lane.claim_node("a").await;
    let mut canceler = fleet.database.pool.begin().await.unwrap();
    assert_eq!(run::cancel(&mut *canceler, run, "now").await.unwrap(), Canceled::Canceled);
    let ending = tokio::spawn(async move {
        let passed = lane.complete(&[a], json!(1)).await;
        (lane, passed)
    });
    until_blocked(&fleet.database.pool, 1).await;
    canceler.commit().await.unwrap();
    let (lane, passed) = ending.await.unwrap();
    assert_eq!(passed.already_ended, [run]);
    assert!(lane.held.is_empty());
    assert_eq!(fleet.ended(run).await.0, "canceled");
    assert_eq!(attempts(&fleet, run).await, [(0, 1, 1)], "the success in flight is recorded");
    assert_eq!(settle_all(&fleet.database).await, 1);
    assert_nothing_left(&fleet.database).await;
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_step_of_a_closed_run_is_dropped_by_its_lane() {
    let fleet = TestFleet::publish([dag("w", "a b", "a>b")]).await;
    let run = fleet.start("w", json!({})).await;
    cancel(&fleet, run).await;
    let mut lane = ManualLane::new(&fleet.database.pool);
    lane.claim_node("a").await;
    assert!(!lane.held[0].live);
    lane.finish_all(json!(1)).await;
    assert_eq!(attempts(&fleet, run).await, [(0, 1, 4)]);
    assert_eq!(settle_all(&fleet.database).await, 1);
    assert_nothing_left(&fleet.database).await;
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settling_waits_for_a_lane_that_has_not_passed_its_baton() {
    let fleet = TestFleet::publish([dag("w", "a b c j", "a>j b>j c>j"), dag("other", "x", "")]).await;
    let run = fleet.start("w", json!({})).await;
    let mut lane = ManualLane::without_keeping(&fleet.database.pool);
    lane.claim_node("start").await;
    lane.finish_all(json!(0)).await;
    let a = lane.claim_node("a").await;
    lane.complete(&[a], json!(1)).await;
    lane.claim_node("b").await; // c stays in the queue
    fleet.start("other", json!({})).await;
    let mut bystander = ManualLane::new(&fleet.database.pool);
    while bystander.of_node("x").is_empty() {
        bystander.claim(1).await;
    }
    for c in bystander.of_node("c") {
        bystander.cycle(vec![(c, Ending::Released)], 0).await.passed();
    }
    cancel(&fleet, run).await;

    let mut connection = fleet.database.pool.acquire().await.unwrap();
    let mut settling = Settling::default();
    let left =
        "select (select count(*) from longshore.step_joins) * 100 + (select count(*) from longshore.step_ready) * 10
                     + (select count(*) from longshore.closed)";
    for _ in 0..3 {
        assert_eq!(settling.step(&mut Session::direct(&mut connection)).await.unwrap(), 0);
        assert_eq!(fleet.database.number(left).await, 111, "nothing goes while a lane of that time stands");
    }
    // one of the two passes its baton: not enough
    bystander.cycle(Vec::new(), 0).await.passed();
    assert_eq!(settling.step(&mut Session::direct(&mut connection)).await.unwrap(), 0);
    assert_eq!(fleet.database.number(left).await, 111);
    // the other too, but it still holds b: the join and the queue are cleared, the closing stays for its fence
    lane.cycle(Vec::new(), 0).await.passed();
    assert_eq!(settling.step(&mut Session::direct(&mut connection)).await.unwrap(), 0);
    assert_eq!(fleet.database.number(left).await, 1);
    let b = lane.of_node("b")[0];
    assert!(matches!(lane.cycle(vec![(b, completed())], 0).await, Answer::Refused(_)));
    lane.cycle(vec![(b, Ending::Canceled)], 0).await.passed();
    bystander.finish_all(json!(1)).await;
    assert_eq!(settle_all(&fleet.database).await, 1);
    assert_nothing_left(&fleet.database).await;
    drop(connection);
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_batch_resent_without_heeding_is_refused_again() {
    let fleet = TestFleet::publish([dag("w", "a b", "a>b")]).await;
    let run = fleet.start("w", json!({})).await;
    let mut lane = ManualLane::new(&fleet.database.pool);
    let a = lane.claim_node("a").await;
    cancel(&fleet, run).await;
    let plan = lane.plan(&[(a, completed())], 0);
    let baton = copy_baton(lane.baton.as_ref().unwrap());
    for _ in 0..2 {
        let answer = send_again(&lane.sender, &baton, &plan.batch).await;
        assert!(matches!(answer, longshore_core::cycle::Pass::Refused(..)), "{answer:?}");
    }
    assert_eq!(attempts(&fleet, run).await, []);
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_starts_no_successor_of_a_step_that_was_in_flight_when_its_run_was_canceled() {
    // as above with a real worker: a completes while its cycle is held up, the run is canceled, the cycle commits; k must not run
    let mut workflow = dag("w", "a b j k", "a>k a>j b>j");
    workflow["nodes"][1]["handler"] = json!("wait");
    workflow["nodes"][3]["handler"] = json!("count");
    let mut fleet = TestFleet::publish([workflow]).await;
    let begun = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counter = begun.clone();
    let count = move |_step: longshore_worker::Step, input: serde_json::Value| {
        counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async move { Ok::<_, longshore_worker::Failure>(input) }
    };
    let wait = |step: longshore_worker::Step, input: serde_json::Value| async move {
        step.cancellation().cancelled().await;
        Ok::<_, longshore_worker::Failure>(input)
    };
    let run = fleet.start("w", json!({})).await;
    let mut holder = fleet.database.pool.acquire().await.unwrap();
    sqlx::raw_sql(&format!("begin; insert into longshore.step_joins values ('{run}', 0, 2, 1, 1, 0)"))
        .execute(&mut *holder)
        .await
        .unwrap();
    let slots = longshore_worker::Slots(4);
    fleet.add(fleet.worker().handler("wait", wait).handler("count", count).queue("default", slots)).await;
    until_blocked(&fleet.database.pool, 1).await;
    cancel(&fleet, run).await;
    sqlx::raw_sql("rollback").execute(&mut *holder).await.unwrap();
    drop(holder);
    fleet.until("select not exists (select from longshore.closed)").await;
    assert_eq!(begun.load(std::sync::atomic::Ordering::SeqCst), 0, "k began after the cancel was acknowledged");
    assert_eq!(fleet.ended(run).await.0, "canceled");
    fleet.finish().await;
}

/// An opening has no baton that settling could wait for: what it is claiming keeps the closing.
#[tokio::test(flavor = "multi_thread")]
async fn a_closing_stays_while_a_step_of_it_is_being_claimed() {
    let fleet = TestFleet::publish([dag("w", "a b", "a>b")]).await;
    let run = fleet.start("w", json!({})).await;
    // its commit waits for a lock, all of it done and all of it read
    let hold = "create function held() returns trigger language plpgsql as 'begin perform pg_advisory_xact_lock(77); return null; end';
        create constraint trigger held after insert on longshore.lanes deferrable initially deferred for each row execute function held()";
    fleet.database.execute(hold).await;
    let mut holder = fleet.database.pool.acquire().await.unwrap();
    sqlx::raw_sql("begin; select pg_advisory_xact_lock(77)").execute(&mut *holder).await.unwrap();
    let mut lane = ManualLane::new(&fleet.database.pool);
    let in_flight = tokio::spawn(async move {
        lane.claim_node("a").await;
        lane
    });
    until_blocked(&fleet.database.pool, 1).await;
    cancel(&fleet, run).await;
    let mut connection = fleet.database.pool.acquire().await.unwrap();
    let settled = Settling::default().step(&mut Session::direct(&mut connection)).await.unwrap();
    sqlx::raw_sql("commit").execute(&mut *holder).await.unwrap();
    let mut lane = in_flight.await.unwrap();
    assert!(lane.held[0].live, "it read the run before that was canceled");
    let a = lane.of_node("a")[0];
    let answer = lane.cycle(vec![(a, completed())], 0).await;
    assert!(settled == 0 && matches!(answer, Answer::Refused(_)), "settled {settled}: {answer:?}");
    lane.cycle(vec![(a, Ending::Canceled)], 0).await.passed();
    assert_eq!(settle_all(&fleet.database).await, 1);
    assert_nothing_left(&fleet.database).await;
    drop((connection, holder));
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_is_told_however_many_older_closings_there_are() {
    let mut fleet = TestFleet::publish([json!({"name": "w", "nodes": [task("a", "gate")]})]).await;
    let gate = Gate::default();
    fleet.add(fleet.worker().gate(&gate).queue("default", Slots(5))).await;
    let run = fleet.start("w", json!({})).await;
    gate.entered(1).await;
    // of runs that are long gone; locked, so that they are not settled
    let mut holder = fleet.database.pool.begin().await.unwrap();
    let older = "insert into longshore.closed (shard, run_id) select 0, longshore.run_id_at(now() - n * interval '1 minute') from generate_series(1, 1500) n";
    fleet.database.execute(older).await;
    sqlx::query("select from longshore.closed for update").execute(&mut *holder).await.unwrap();
    cancel(&fleet, run).await;
    gate.told(1).await;
    holder.rollback().await.unwrap();
    fleet.until("select not exists (select from longshore.closed)").await;
    fleet.finish().await;
}
