//! Races of lanes with each other, with the reaper and with a drain, each brought about on purpose: what must happen first holds a lock until the
//! other stands behind it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use longshore_core::attempt::Ending;
use longshore_core::error::{OUTPUT_INVALID, StepError};
use longshore_core::payload::Payload;
use longshore_core::queue::StepKey;
use longshore_core::session::Session;
use longshore_tests::lane::{Answer, assert_nothing_left, dag, expire, reap, settle_all, until_blocked};
use longshore_tests::{ManualLane, TestFleet};
use longshore_worker::Slots;
use serde_json::json;
use uuid::Uuid;

fn completed() -> Ending {
    Ending::Completed(Payload::of(&json!({"ok": true})).unwrap())
}

fn failed() -> Ending {
    Ending::Failed { error: StepError::permanent("no", "not today"), retry_after: None }
}

async fn attempts(fleet: &TestFleet, run: Uuid) -> Vec<(i32, i32, i16)> {
    let sql =
        "select node, attempt, outcome from longshore.execution_step_attempts where run_id = $1 order by node, attempt";
    sqlx::query_as(sql).bind(run).fetch_all(&fleet.database.pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_that_comes_after_the_reclaim_is_fenced() {
    let fleet = TestFleet::publish([dag("w", "a b", "a>b")]).await;
    let run = fleet.start("w", json!({})).await;
    let mut late = ManualLane::new(&fleet.database.pool);
    let a = late.claim_node("a").await;
    late.expire().await;
    let reaped = reap(&fleet.database.pool).await.unwrap();
    assert_eq!((reaped.lane_id, reaped.steps), (late.id(), 1));
    assert!(reap(&fleet.database.pool).await.is_none());
    assert!(matches!(late.cycle(vec![(a, completed())], 5).await, Answer::Fenced));
    assert_eq!(attempts(&fleet, run).await, [(0, 1, 3)], "the late one changed nothing and claimed nothing");
    assert_eq!(fleet.database.number("select count(*) from longshore.lanes").await, 0);
    let mut lane = ManualLane::alone(&fleet.database.pool);
    assert_eq!(lane.claim_node("a").await.attempt, 2);
    lane.finish_all(json!(1)).await;
    ManualLane::new(&fleet.database.pool).drain(json!(1)).await;
    assert_eq!(attempts(&fleet, run).await, [(0, 1, 3), (0, 2, 1), (1, 1, 1)]);
    assert_eq!(fleet.ended(run).await.0, "completed");
    assert_nothing_left(&fleet.database).await;
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_that_waits_for_the_reaper_is_fenced_or_goes_on_as_the_reaper_decides() {
    for (verdict, fenced) in [("commit", true), ("rollback", false)] {
        let fleet = TestFleet::publish([dag("w", "a", "")]).await;
        let run = fleet.start("w", json!({})).await;
        let mut lane = ManualLane::new(&fleet.database.pool);
        let a = lane.claim_node("a").await;
        lane.expire().await;
        let mut reaper = fleet.database.pool.acquire().await.unwrap();
        sqlx::raw_sql("begin; select longshore.reap(0::smallint, false)").execute(&mut *reaper).await.unwrap();
        let completing = tokio::spawn(async move { lane.cycle(vec![(a, completed())], 0).await });
        until_blocked(&fleet.database.pool, 1).await;
        sqlx::raw_sql(verdict).execute(&mut *reaper).await.unwrap();
        let answer = completing.await.unwrap();
        assert_eq!(matches!(answer, Answer::Fenced), fenced, "{verdict}: {answer:?}");
        ManualLane::alone(&fleet.database.pool).drain(json!(1)).await;
        let expected: &[_] = if fenced { &[(0, 1, 3), (0, 2, 1)] } else { &[(0, 1, 1)] };
        assert_eq!(attempts(&fleet, run).await, expected);
        assert_eq!(fleet.ended(run).await.0, "completed");
        assert_nothing_left(&fleet.database).await;
        drop(reaper);
        fleet.database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reaper_leaves_a_lane_that_is_passing_its_baton_at_that_moment() {
    let fleet = TestFleet::publish([dag("w", "a", "")]).await;
    let run = fleet.start("w", json!({})).await;
    let mut lane = ManualLane::new(&fleet.database.pool);
    let a = lane.claim_node("a").await;
    lane.expire().await;
    let mut holder = fleet.database.pool.acquire().await.unwrap();
    sqlx::raw_sql(&format!("begin; select from longshore.workflow_runs where run_id = '{run}' for update"))
        .execute(&mut *holder)
        .await
        .unwrap();
    let completing = tokio::spawn(async move { lane.cycle(vec![(a, completed())], 0).await });
    until_blocked(&fleet.database.pool, 1).await;
    for scan in ["false", "true"] {
        let taken = format!("select count(*) from longshore.reap(0::smallint, {scan})");
        assert_eq!(fleet.database.number(&taken).await, 0);
    }
    sqlx::raw_sql("commit").execute(&mut *holder).await.unwrap();
    completing.await.unwrap().passed();
    assert_eq!(attempts(&fleet, run).await, [(0, 1, 1)]);
    assert_nothing_left(&fleet.database).await;
    drop(holder);
    fleet.database.drop().await;
}

/// Two lanes that hold the sinks `s` and `t` of the same two runs, and the runs in ascending order.
async fn two_lanes_on_two_runs(fleet: &TestFleet) -> (ManualLane, ManualLane, [Uuid; 2]) {
    let mut runs = [fleet.start("w", json!({})).await, fleet.start("w", json!({})).await];
    runs.sort();
    let mut lane = ManualLane::without_keeping(&fleet.database.pool);
    lane.claim(2).await;
    let a = lane.of_node("a");
    lane.complete(&a, json!(0)).await;
    let (mut s, mut t) = (ManualLane::new(&fleet.database.pool), ManualLane::new(&fleet.database.pool));
    lane.claim(4).await;
    lane.cycle(lane.of_node("t").into_iter().map(|key| (key, Ending::PutBack(std::time::Duration::ZERO))).collect(), 0)
        .await
        .passed();
    lane.cycle(lane.of_node("s").into_iter().map(|key| (key, Ending::PutBack(std::time::Duration::ZERO))).collect(), 0)
        .await
        .passed();
    for (lane, node) in [(&mut s, 1), (&mut t, 2)] {
        // only this node's steps are in the queue when this lane claims
        fleet
            .database
            .execute(&format!(
                "insert into longshore.step_ready (shard, queue_id, priority, run_id, version_id, frame, node, kind, attempt)
                 select shard, queue_id, priority, run_id, version_id, frame, node, kind, attempt from longshore.step_delayed where node = {node};
                 delete from longshore.step_delayed where node = {node}"
            ))
            .await;
        assert_eq!(lane.claim(2).await.len(), 2);
    }
    assert_eq!((s.nodes(), t.nodes()), (vec!["s".to_owned(); 2], vec!["t".to_owned(); 2]));
    (s, t, runs)
}

fn ordered(lane: &ManualLane, runs: [Uuid; 2], ending: &Ending) -> Vec<(StepKey, Ending)> {
    let key = |run: Uuid| lane.keys().into_iter().find(|key| key.run_id == run).unwrap();
    runs.map(|run| (key(run), ending.clone())).to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn sinks_of_two_runs_ended_in_opposite_orders_do_not_deadlock_and_no_output_is_missing() {
    for held in [0, 1] {
        let fleet = TestFleet::publish([dag("w", "a s t", "a>s a>t")]).await;
        let (mut s, mut t, runs) = two_lanes_on_two_runs(&fleet).await;
        let there = ordered(&s, runs, &completed());
        let back = ordered(&t, [runs[1], runs[0]], &completed());
        // the count of one run's ends is held, so both lanes stand in the middle of their joins at once
        let mut holder = fleet.database.pool.acquire().await.unwrap();
        let hold = format!("begin; insert into longshore.step_joins values ('{}', 0, -2, 1, 1, 0)", runs[held]);
        sqlx::raw_sql(&hold).execute(&mut *holder).await.unwrap();
        let s_ends = tokio::spawn(async move {
            s.cycle(there, 0).await.passed();
            s
        });
        let t_ends = tokio::spawn(async move {
            t.cycle(back, 0).await.passed();
            t
        });
        until_blocked(&fleet.database.pool, 2).await;
        sqlx::raw_sql("rollback").execute(&mut *holder).await.unwrap();
        for ends in [s_ends, t_ends] {
            ends.await.unwrap().finish_all(json!(1)).await;
        }
        ManualLane::new(&fleet.database.pool).drain(json!(1)).await;
        for run in runs {
            assert_eq!(fleet.ended(run).await, ("completed".to_owned(), json!({"s": {"ok": true}, "t": {"ok": true}})));
        }
        assert_eq!(
            fleet.database.number("select deadlocks from pg_stat_database where datname = current_database()").await,
            0
        );
        assert_nothing_left(&fleet.database).await;
        drop(holder);
        fleet.database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_failed_by_two_lanes_in_opposite_orders_fail_once_each() {
    let fleet = TestFleet::publish([dag("w", "a s t", "a>s a>t")]).await;
    let (mut s, mut t, runs) = two_lanes_on_two_runs(&fleet).await;
    let there = ordered(&s, runs, &failed());
    let back = ordered(&t, [runs[1], runs[0]], &failed());
    let mut holder = fleet.database.pool.acquire().await.unwrap();
    sqlx::raw_sql(&format!("begin; select from longshore.workflow_runs where run_id = '{}' for update", runs[0]))
        .execute(&mut *holder)
        .await
        .unwrap();
    let s_ends = tokio::spawn(async move { s.cycle(there, 0).await });
    let t_ends = tokio::spawn(async move { t.cycle(back, 0).await });
    until_blocked(&fleet.database.pool, 2).await;
    // both wait at the first run and neither has the second: runs are locked in the order of their ids
    let free = format!(
        "with r as (select from longshore.workflow_runs where run_id = '{}' for update skip locked) select count(*) from r",
        runs[1]
    );
    assert_eq!(fleet.database.number(&free).await, 1);
    sqlx::raw_sql("commit").execute(&mut *holder).await.unwrap();
    let (s, t) = (s_ends.await.unwrap().passed(), t_ends.await.unwrap().passed());
    assert_eq!(
        s.already_ended.len() + t.already_ended.len(),
        2,
        "each run was ended by one lane, and the other was told"
    );
    assert_eq!(fleet.database.number("select count(*) from longshore.closed").await, 2);
    assert_eq!(settle_all(&fleet.database).await, 2);
    for run in runs {
        assert_eq!(fleet.ended(run).await.0, "failed");
        assert_eq!(attempts(&fleet, run).await, [(0, 1, 1), (1, 1, 2), (2, 1, 2)]);
    }
    assert_nothing_left(&fleet.database).await;
    drop(holder);
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_baton_of_200_steps_is_reaped_whole() {
    let fleet = TestFleet::publish([dag("w", "a", "")]).await;
    let starts = vec![longshore_core::run::Start::new("w", Payload::of(&json!({})).unwrap()); 200];
    let mut connection = fleet.database.pool.acquire().await.unwrap();
    longshore_core::run::start(&mut Session::direct(&mut connection), &starts).await.unwrap();
    drop(connection);
    let mut lane = ManualLane::new(&fleet.database.pool);
    assert_eq!(lane.claim(200).await.len(), 200);
    lane.cycle(Vec::new(), 0).await.passed();
    lane.expire().await;
    assert_eq!(reap(&fleet.database.pool).await.unwrap().steps, 200);
    let lost = "select count(*) from longshore.execution_step_attempts where outcome = 3 and attempt = 1 and error -> 'details' ->> 'alone' = 'false'";
    assert_eq!(fleet.database.number(lost).await, 200);
    let again =
        "select count(*) from longshore.step_ready where attempt = 2 and priority = 17 and lost = 0 and kind = 0";
    assert_eq!(fleet.database.number(again).await, 200);
    assert!(matches!(lane.cycle(Vec::new(), 0).await, Answer::Fenced));
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_postgres_refuses_fails_its_own_step_and_no_other() {
    let fleet = TestFleet::publish([dag("w", "a", "")]).await;
    let starts = vec![longshore_core::run::Start::new("w", Payload::of(&json!({})).unwrap()); 128];
    let mut connection = fleet.database.pool.acquire().await.unwrap();
    longshore_core::run::start(&mut Session::direct(&mut connection), &starts).await.unwrap();
    drop(connection);
    let mut lane = ManualLane::new(&fleet.database.pool);
    let keys = lane.claim(128).await;
    let bad = keys[77];
    let mut todo: Vec<(StepKey, Ending)> = keys.iter().map(|key| (*key, completed())).collect();
    todo[77].1 = Ending::Completed(Payload::trusted("\"\\u0000\"".into()));
    // as a lane does: halve the batch on the same baton until the one is alone, and fail that for good
    let (mut size, mut refusals) = (todo.len(), 0);
    while !todo.is_empty() {
        size = size.min(todo.len());
        match lane.cycle(todo[..size].to_vec(), 0).await {
            Answer::Data(error) => {
                refusals += 1;
                assert!(refusals < 100, "{error}");
                if size == 1 {
                    let error = StepError::permanent(OUTPUT_INVALID, &error.to_string());
                    todo[0].1 = Ending::Failed { error, retry_after: None };
                } else {
                    size /= 2;
                }
            }
            answer => {
                answer.passed();
                todo.drain(..size);
                size = 128;
            }
        }
    }
    assert_eq!(fleet.database.number("select count(*) from longshore.workflow_runs where state = 3").await, 127);
    assert_eq!(attempts(&fleet, bad.run_id).await, [(0, 1, 2)]);
    let (state, error) = fleet.ended(bad.run_id).await;
    assert_eq!((state.as_str(), error["name"].as_str()), ("failed", Some(OUTPUT_INVALID)));
    settle_all(&fleet.database).await;
    assert_nothing_left(&fleet.database).await;
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_lost_alone_five_times_is_given_up_as_poison() {
    let fleet = TestFleet::publish([dag("w", "a b", "a>b")]).await;
    let run = fleet.start("w", json!({})).await;
    for attempt in 1..=5 {
        let mut lane =
            if attempt == 1 { ManualLane::new(&fleet.database.pool) } else { ManualLane::alone(&fleet.database.pool) };
        assert_eq!(lane.claim_node("a").await.attempt, attempt);
        assert_eq!(i32::from(lane.held[0].step.lost), attempt - 1);
        lane.expire().await;
        assert_eq!(reap(&fleet.database.pool).await.unwrap().steps, 1);
    }
    let mut lane = ManualLane::alone(&fleet.database.pool);
    assert_eq!(lane.claim_node("a").await.attempt, 6);
    assert_eq!(lane.held[0].step.lost, 5);
    lane.finish_all(json!(1)).await;
    assert_eq!(attempts(&fleet, run).await, [(0, 1, 3), (0, 2, 3), (0, 3, 3), (0, 4, 3), (0, 5, 3), (0, 6, 2)]);
    let (state, error) = fleet.ended(run).await;
    assert_eq!((state.as_str(), error["name"].as_str()), ("failed", Some("lost")));
    assert_nothing_left(&fleet.database).await;
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_lost_in_company_run_alone_next_and_are_charged_only_for_what_they_lose_alone() {
    let fleet = TestFleet::publish([dag("w", "a", "")]).await;
    let runs =
        [fleet.start("w", json!({})).await, fleet.start("w", json!({})).await, fleet.start("w", json!({})).await];
    let mut lane = ManualLane::new(&fleet.database.pool);
    assert_eq!(lane.claim(3).await.len(), 3);
    expire(&fleet.database.pool, lane.id()).await;
    assert_eq!(reap(&fleet.database.pool).await.unwrap().steps, 3);
    assert!(
        ManualLane::new(&fleet.database.pool).claim(5).await.is_empty(),
        "a lane for many steps takes none of them"
    );
    let mut alone = ManualLane::alone(&fleet.database.pool);
    let first = alone.claim_node("a").await;
    assert_eq!((first.attempt, alone.held[0].step.lost, alone.held[0].step.solo), (2, 0, true));
    alone.expire().await;
    reap(&fleet.database.pool).await.unwrap();
    alone.forget();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let key = alone.claim_node("a").await;
        seen.push((key.run_id, key.attempt, alone.held[0].step.lost));
        alone.finish_all(json!(1)).await;
    }
    seen.sort();
    let mut expected: Vec<_> =
        runs.iter().map(|run| if *run == first.run_id { (*run, 3, 1) } else { (*run, 2, 0) }).collect();
    expected.sort();
    assert_eq!(seen, expected);
    let gapless = "select count(*) from (select run_id from longshore.execution_step_attempts group by run_id
        having count(*) <> max(attempt) or min(attempt) <> 1 or count(*) filter (where outcome = 1) <> 1) x";
    assert_eq!(fleet.database.number(gapless).await, 0);
    assert_nothing_left(&fleet.database).await;
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_meets_a_claim_charges_nothing_and_leaves_nothing_leased() {
    let fleet = TestFleet::publish([dag("w", "a b", "a>b")]).await;
    let starts = vec![longshore_core::run::Start::new("w", Payload::of(&json!({})).unwrap()); 300];
    let mut connection = fleet.database.pool.acquire().await.unwrap();
    longshore_core::run::start(&mut Session::direct(&mut connection), &starts).await.unwrap();
    drop(connection);
    // the worker's claim is held up in the middle: it is told to drain, and only then gets its steps
    let mut holder = fleet.database.pool.acquire().await.unwrap();
    sqlx::raw_sql("begin; lock table longshore.step_ready in share mode").execute(&mut *holder).await.unwrap();
    let worker = fleet.worker().queue("default", Slots(50)).start().await.unwrap();
    until_blocked(&fleet.database.pool, 1).await;
    let (leave, left) = tokio::sync::oneshot::channel::<()>();
    let draining = tokio::spawn(worker.until(async {
        left.await.ok();
    }));
    leave.send(()).unwrap();
    fleet.until("select bool_and(draining) from longshore.workers").await;
    sqlx::raw_sql("commit").execute(&mut *holder).await.unwrap();
    draining.await.unwrap();
    assert_eq!(fleet.database.number("select count(*) from longshore.lanes").await, 0, "nothing is leased");
    assert_eq!(fleet.database.number("select count(*) from longshore.workers").await, 0);
    assert!(fleet.database.number("select count(*) from longshore.workflow_runs where state = 1").await > 200);
    let mut fleet = fleet;
    fleet.work(50).await;
    fleet.until("select not exists (select from longshore.workflow_runs where state <> 3)").await;
    let charged = "select count(*) from longshore.execution_step_attempts where outcome not in (1, 6)";
    assert_eq!(fleet.database.number(charged).await, 0);
    let whole = "select count(*) from longshore.execution_step_attempts where outcome = 1";
    assert_eq!(fleet.database.number(whole).await, 600);
    assert_nothing_left(&fleet.database).await;
    drop(holder);
    fleet.finish().await;
}
