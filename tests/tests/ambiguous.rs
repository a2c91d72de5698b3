//! The connection dies around a commit, in each of its moments: before the server has the statement, after it committed, while it runs. The lane
//! finds out what happened, and every cycle happens once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use longshore_core::attempt::Ending;
use longshore_core::payload::Payload;
use longshore_tests::lane::{Answer, assert_nothing_left, dag, until_blocked};
use longshore_tests::proxy::{Cut, Proxy};
use longshore_tests::{ManualLane, TestFleet};
use serde_json::json;
use uuid::Uuid;

const CUTS: [Cut; 2] = [Cut::BeforeItIsSent, Cut::BeforeItsAnswer];

fn completed() -> Ending {
    Ending::Completed(Payload::of(&json!({"ok": true})).unwrap())
}

async fn attempts(fleet: &TestFleet, run: Uuid) -> Vec<(i32, i32, i16)> {
    let sql =
        "select node, attempt, outcome from longshore.execution_step_attempts where run_id = $1 order by node, attempt";
    sqlx::query_as(sql).bind(run).fetch_all(&fleet.database.pool).await.unwrap()
}

/// Both statements of the engine are known to the connections, so that the next one sent is the cycle itself.
async fn lane_through(proxy: &Proxy) -> ManualLane {
    let mut lane = ManualLane::new(&proxy.pool);
    assert!(lane.claim(1).await.is_empty());
    lane
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opening_claim_whose_answer_is_lost_holds_what_it_claimed() {
    for cut in CUTS {
        let fleet = TestFleet::publish([dag("w", "a b", "a>b")]).await;
        let proxy = Proxy::to(&fleet.database).await;
        let mut lane = lane_through(&proxy).await;
        let runs = [fleet.start("w", json!({})).await, fleet.start("w", json!({})).await];
        // one more than the lane has slots for: a repeated opening must not take it as well
        let third = fleet.start("w", json!({})).await;
        proxy.arm(cut);
        let answer = lane.cycle(Vec::new(), 2).await;
        assert_eq!(proxy.cuts(), 1);
        match cut {
            Cut::BeforeItsAnswer => assert!(matches!(answer, Answer::Recovered), "{answer:?}"),
            // nothing fences an opening, so it is never sent twice: the lane begins anew
            _ => {
                assert!(matches!(answer, Answer::Unclear), "{answer:?}");
                lane.claim(2).await;
            }
        }
        let mut held: Vec<Uuid> = lane.keys().iter().map(|key| key.run_id).collect();
        held.sort();
        assert_eq!(held, runs, "{cut:?}");
        assert!(lane.held.iter().all(|held| held.live && held.node() == "a" && held.step.attempt == 1));
        assert_eq!(fleet.database.number("select count(*) from longshore.step_leases").await, 2, "{cut:?}");
        assert_eq!(fleet.database.number("select count(*) from longshore.step_ready").await, 1, "{cut:?}");
        lane.drain(json!(1)).await;
        for run in [runs[0], runs[1], third] {
            assert_eq!(attempts(&fleet, run).await, [(0, 1, 1), (1, 1, 1)], "{cut:?}");
        }
        assert_nothing_left(&fleet.database).await;
        fleet.database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cycle_whose_answer_is_lost_happened_once() {
    for cut in CUTS {
        let fleet = TestFleet::publish([dag("w", "a b j c", "a>j b>j j>c a>c")]).await;
        let proxy = Proxy::to(&fleet.database).await;
        let mut lane = lane_through(&proxy).await;
        let run = fleet.start("w", json!({"in": 1})).await;
        let second = fleet.start("w", json!({"in": 2})).await;
        lane.claim(1).await;
        let start = lane.keys()[0];
        lane.cycle(vec![(start, Ending::Started)], 0).await.passed();
        lane.claim(1).await; // start of the second
        let (a, other) = (lane.of_node("a")[0], lane.of_node("start")[0]);
        assert_eq!(other.run_id, second);
        // it ends a, counts at two joins, goes on holding one step, and claims b
        proxy.arm(cut);
        let answer = lane.cycle(vec![(a, completed())], 1).await;
        assert_eq!(proxy.cuts(), 1);
        assert_eq!(matches!(answer, Answer::Recovered), cut == Cut::BeforeItsAnswer, "{answer:?}");
        assert_eq!(lane.nodes(), ["b", "start"], "{cut:?}");
        assert!(lane.keys().contains(&other));
        let sql = "select array_agg(row(node, resolved, taken)::text order by node) from longshore.step_joins";
        let joins: Vec<String> = sqlx::query_scalar(sql).fetch_one(&fleet.database.pool).await.unwrap();
        assert_eq!(joins, ["(2,1,1)", "(3,1,1)"], "{cut:?}: counted once");
        lane.drain(json!(1)).await;
        for run in [run, second] {
            assert_eq!(fleet.ended(run).await.0, "completed");
            assert_eq!(
                attempts(&fleet, run).await,
                [(-1, 1, 1), (0, 1, 1), (1, 1, 1), (2, 1, 1), (3, 1, 1)],
                "{cut:?}"
            );
        }
        assert_nothing_left(&fleet.database).await;
        fleet.database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_cycle_whose_answer_is_lost_leaves_nothing_and_the_lane_starts_again() {
    for cut in CUTS {
        let fleet = TestFleet::publish([dag("w", "a", "")]).await;
        let proxy = Proxy::to(&fleet.database).await;
        let mut lane = lane_through(&proxy).await;
        let run = fleet.start("w", json!({})).await;
        let a = lane.claim_node("a").await;
        proxy.arm(cut);
        let answer = lane.cycle(vec![(a, completed())], 0).await;
        assert_eq!(proxy.cuts(), 1);
        // committed and nothing held: the lane cannot tell it from a lost lease, and need not: it has nothing to lose
        assert_eq!(matches!(answer, Answer::Fenced), cut == Cut::BeforeItsAnswer, "{answer:?}");
        assert!(lane.held.is_empty());
        assert_eq!(attempts(&fleet, run).await, [(0, 1, 1)], "{cut:?}");
        assert_eq!(fleet.ended(run).await, ("completed".to_owned(), json!({"ok": true})));
        // it goes on
        let again = fleet.start("w", json!({})).await;
        lane.drain(json!(2)).await;
        assert_eq!(attempts(&fleet, again).await, [(0, 1, 1)]);
        assert_nothing_left(&fleet.database).await;
        fleet.database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cycle_sent_again_while_its_first_copy_still_runs_is_not_taken_for_fenced() {
    // the first copy is held up at a join; the second waits for it, finds no baton n and must find n + 1
    let fleet = TestFleet::publish([dag("w", "a b j k", "a>k a>j b>j")]).await;
    let proxy = Proxy::to(&fleet.database).await;
    let mut lane = lane_through(&proxy).await;
    let run = fleet.start("w", json!({})).await;
    lane.claim_node("start").await;
    let start = lane.keys()[0];
    lane.cycle(vec![(start, Ending::Started)], 0).await.passed();
    let a = lane.of_node("a")[0];
    let mut holder = fleet.database.pool.acquire().await.unwrap();
    sqlx::raw_sql(&format!("begin; insert into longshore.step_joins values ('{run}', 0, 2, 1, 1, 0)"))
        .execute(&mut *holder)
        .await
        .unwrap();
    proxy.arm(Cut::WhileItRuns);
    let sending = tokio::spawn(async move {
        let answer = lane.cycle(vec![(a, completed())], 0).await;
        (lane, answer)
    });
    until_blocked(&fleet.database.pool, 2).await;
    sqlx::raw_sql("rollback").execute(&mut *holder).await.unwrap();
    let (mut lane, answer) = sending.await.unwrap();
    assert!(matches!(answer, Answer::Recovered), "{answer:?}");
    assert_eq!(lane.nodes(), ["k"]);
    assert_eq!(attempts(&fleet, run).await, [(-1, 1, 1), (0, 1, 1)]);
    lane.drain(json!(1)).await;
    assert_eq!(fleet.ended(run).await.0, "completed");
    assert_nothing_left(&fleet.database).await;
    drop(holder);
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opening_that_still_runs_when_its_answer_is_lost_is_not_sent_again_and_what_it_claims_is_taken_back() {
    let fleet = TestFleet::publish([dag("w", "a", "")]).await;
    let proxy = Proxy::to(&fleet.database).await;
    let mut lane = lane_through(&proxy).await;
    for _ in 0..2 {
        fleet.start("w", json!({})).await;
    }
    // the opening's own row, not committed yet, in another session: the opening waits at it, with a step in hand
    let mut holder = fleet.database.pool.acquire().await.unwrap();
    let (lane_id, cycle) = (lane.id(), lane.baton.as_ref().unwrap().cycle + 1);
    sqlx::raw_sql(&format!(
        "begin; insert into longshore.lanes (shard, lane_id, cycle, expires_at, run_ids, frames, nodes, kinds, attempts, claimed_at)
         values (0, {lane_id}, {cycle}, now(), array[gen_random_uuid()], '{{0}}', '{{0}}', '{{0}}', '{{1}}', array[now()])"
    ))
    .execute(&mut *holder)
    .await
    .unwrap();
    proxy.arm(Cut::WhileItRuns);
    let sending = tokio::spawn(async move {
        let answer = lane.cycle(Vec::new(), 1).await;
        (lane, answer)
    });
    let (mut lane, answer) = sending.await.unwrap();
    assert!(matches!(answer, Answer::Unclear), "{answer:?}");
    until_blocked(&fleet.database.pool, 1).await;
    sqlx::raw_sql("rollback").execute(&mut *holder).await.unwrap();
    // the copy commits, and its step waits for nobody until the lease is over
    while fleet.database.number("select count(*) from longshore.step_leases").await == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    fleet.database.execute("update longshore.lanes set expires_at = now() - interval '1 s'").await;
    let reaped = longshore_core::upkeep::reap(&fleet.database.pool, false).await.unwrap();
    assert_eq!(reaped.unwrap().steps, 1);
    let mut alone = ManualLane::alone(&fleet.database.pool);
    alone.claim(1).await;
    alone.drain(json!(1)).await;
    lane.claim(1).await;
    lane.drain(json!(1)).await;
    assert_eq!(fleet.database.number("select count(*) from longshore.workflow_runs where state = 3").await, 2);
    assert_nothing_left(&fleet.database).await;
    drop(holder);
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_killed_in_the_middle_of_a_cycle_changed_nothing_and_the_cycle_is_sent_again() {
    let fleet = TestFleet::publish([dag("w", "a b", "a>b")]).await;
    let run = fleet.start("w", json!({})).await;
    let mut lane = ManualLane::new(&fleet.database.pool);
    let a = lane.claim_node("a").await;
    // held up at the insert of the attempt, after everything before it
    let mut holder = fleet.database.pool.acquire().await.unwrap();
    sqlx::raw_sql(&format!(
        "begin; insert into longshore.execution_step_attempts (shard, run_id, frame, node, attempt, outcome, lane_id, finished_at, output)
         values (0, '{run}', 0, 0, 1, 1, 1, now(), '1')"
    ))
    .execute(&mut *holder)
    .await
    .unwrap();
    let sending = tokio::spawn(async move {
        let answer = lane.cycle(vec![(a, completed())], 0).await;
        (lane, answer)
    });
    until_blocked(&fleet.database.pool, 1).await;
    let killed = "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    assert_eq!(fleet.database.number(killed).await, 1);
    until_blocked(&fleet.database.pool, 1).await; // the same cycle, sent again
    sqlx::raw_sql("rollback").execute(&mut *holder).await.unwrap();
    let (mut lane, answer) = sending.await.unwrap();
    answer.passed();
    assert_eq!(lane.nodes(), ["b"]);
    lane.drain(json!(1)).await;
    assert_eq!(attempts(&fleet, run).await, [(0, 1, 1), (1, 1, 1)]);
    assert_nothing_left(&fleet.database).await;
    drop(holder);
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_baton_that_lists_a_step_of_a_run_that_is_gone_is_recovered_all_the_same() {
    let fleet = TestFleet::publish([dag("w", "a", "")]).await;
    let proxy = Proxy::to(&fleet.database).await;
    let mut lane = lane_through(&proxy).await;
    let (gone, stays) = (fleet.start("w", json!({})).await, fleet.start("w", json!({})).await);
    lane.claim(1).await;
    fleet.database.execute(&format!("delete from longshore.workflow_runs where run_id = '{gone}'")).await;
    let plan = lane.plan(&[], 1);
    proxy.arm(Cut::BeforeItsAnswer);
    let mut line = longshore_core::cycle::Line::shared();
    let pass = longshore_core::cycle::pass(
        &lane.sender,
        &mut line,
        lane.baton.take().unwrap(),
        &plan.batch,
        tokio::time::sleep(std::time::Duration::from_secs(20)),
    );
    let longshore_core::cycle::Pass::Recovered(_, listed) = pass.await else { panic!("it was committed") };
    let mut listed: Vec<_> = listed.iter().map(|claimed| (claimed.step.run_id, claimed.run_state.is_some())).collect();
    listed.sort();
    assert_eq!(listed, [(gone, false), (stays, true)]);
    fleet.database.drop().await;
}
