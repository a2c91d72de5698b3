//! A join fires once, whatever arrives at the same moment or late, and the run's end waits for what it did not wait for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use longshore_core::attempt::Ending;
use longshore_core::error::StepError;
use longshore_tests::lane::{assert_nothing_left, dag, reap, until_blocked};
use longshore_tests::{ManualLane, TestFleet};
use serde_json::json;
use uuid::Uuid;

/// Lanes that hold one entry node each; the engine node `start` is done.
async fn one_entry_each(fleet: &TestFleet, entries: &[&str]) -> Vec<ManualLane> {
    let mut opener = ManualLane::without_keeping(&fleet.database.pool);
    opener.claim_node("start").await;
    opener.finish_all(json!(0)).await;
    let mut lanes = Vec::new();
    for entry in entries {
        let mut lane = ManualLane::new(&fleet.database.pool);
        lane.claim_node(entry).await;
        lanes.push(lane);
    }
    lanes
}

async fn completed(fleet: &TestFleet, run: Uuid, node: &str) -> i64 {
    let sql = "select count(*) from longshore.execution_step_attempts a
               join longshore.workflow_runs r on r.run_id = a.run_id
               join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node
               where a.run_id = $1 and n.id = $2 and a.outcome = 1";
    sqlx::query_scalar(sql).bind(run).bind(node).fetch_one(&fleet.database.pool).await.unwrap()
}

/// All lanes complete what they hold at once: `hold` locks something that stops each in the middle of its cycle, until all stand there.
async fn complete_at_once(fleet: &TestFleet, lanes: Vec<ManualLane>, hold: &str, release: &str) -> Vec<ManualLane> {
    let mut holder = fleet.database.pool.acquire().await.unwrap();
    sqlx::raw_sql(hold).execute(&mut *holder).await.unwrap();
    let count = i64::try_from(lanes.len()).unwrap();
    let tasks: Vec<_> = lanes
        .into_iter()
        .map(|mut lane| {
            tokio::spawn(async move {
                let keys = lane.keys();
                lane.complete(&keys, json!({"ok": true})).await;
                lane
            })
        })
        .collect();
    until_blocked(&fleet.database.pool, count).await;
    sqlx::raw_sql(release).execute(&mut *holder).await.unwrap();
    let mut done = Vec::new();
    for task in tasks {
        done.push(task.await.unwrap());
    }
    done
}

#[tokio::test(flavor = "multi_thread")]
async fn two_completions_at_once_fire_a_join_that_has_begun_to_count_once() {
    for (rule, expected) in [("all", 1), ("any", 0), ("2", 1), ("3", 1)] {
        let fleet = TestFleet::publish([dag("w", &format!("a b c j:{rule}"), "a>j b>j c>j")]).await;
        let run = fleet.start("w", json!({})).await;
        let mut lanes = one_entry_each(&fleet, &["a", "b", "c"]).await;
        let mut first = lanes.remove(0);
        let keys = first.keys();
        first.complete(&keys, json!(1)).await;
        let hold = "begin; select from longshore.step_joins where node = 3 for update";
        let lanes = complete_at_once(&fleet, lanes, hold, "commit").await;
        let fired: usize =
            lanes.iter().map(|lane| lane.of_node("j").iter().filter(|key| key.attempt == 1).count()).sum();
        assert_eq!(fired, expected, "join {rule} fired by the second or third token");
        for mut lane in lanes.into_iter().chain([first]) {
            lane.finish_all(json!(2)).await;
        }
        ManualLane::new(&fleet.database.pool).drain(json!(2)).await;
        assert_eq!(completed(&fleet, run, "j").await, 1, "join {rule}");
        assert_eq!(fleet.ended(run).await.0, "completed", "join {rule}");
        assert_nothing_left(&fleet.database).await;
        fleet.database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_completions_at_once_fire_a_join_that_nobody_has_counted_yet_once() {
    for rule in ["all", "any", "2"] {
        let fleet = TestFleet::publish([dag("w", &format!("a b j:{rule}"), "a>j b>j")]).await;
        let run = fleet.start("w", json!({})).await;
        let lanes = one_entry_each(&fleet, &["a", "b"]).await;
        // the holder's uncommitted row of the same key stops both at their insert; it is rolled back and both go on
        let hold = format!("begin; insert into longshore.step_joins values ('{run}', 0, 2, 1, 1, 0)");
        let lanes = complete_at_once(&fleet, lanes, &hold, "rollback").await;
        let fired: usize =
            lanes.iter().map(|lane| lane.of_node("j").iter().filter(|key| key.attempt == 1).count()).sum();
        assert_eq!(fired, 1, "join {rule}");
        for mut lane in lanes {
            lane.finish_all(json!(2)).await;
        }
        ManualLane::new(&fleet.database.pool).drain(json!(2)).await;
        assert_eq!(completed(&fleet, run, "j").await, 1, "join {rule}");
        assert_eq!(fleet.ended(run).await.0, "completed", "join {rule}");
        assert_nothing_left(&fleet.database).await;
        fleet.database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_token_does_not_fire_a_join_again_and_the_run_waits_for_it() {
    for (rule, tokens) in [("any", 1), ("2", 2)] {
        let fleet = TestFleet::publish([dag("w", &format!("a b c j:{rule} k"), "a>j b>j c>j j>k")]).await;
        let run = fleet.start("w", json!({})).await;
        let mut lanes = one_entry_each(&fleet, &["a", "b", "c"]).await;
        for lane in &mut lanes[..tokens] {
            lane.finish_all(json!({"x": 1})).await;
        }
        assert_eq!(
            completed(&fleet, run, "k").await,
            1,
            "join {rule} fired with its {tokens} tokens and the graph went on"
        );
        let live = format!("select count(*) from longshore.workflow_runs where run_id = '{run}' and state = 1");
        for lane in &mut lanes[tokens..] {
            assert_eq!(fleet.database.number(&live).await, 1, "the run's end waits for every in-edge of join {rule}");
            let keys = lane.keys();
            lane.complete(&keys, json!({"x": 2})).await;
            assert!(
                lane.held.iter().all(|held| held.step.attempt == 0 || held.node() == "end"),
                "join {rule} fired again"
            );
            lane.finish_all(json!({"x": 2})).await;
        }
        ManualLane::new(&fleet.database.pool).drain(json!({"x": 2})).await;
        assert_eq!(fleet.ended(run).await, ("completed".to_owned(), json!({"x": 1})));
        assert_eq!((completed(&fleet, run, "j").await, completed(&fleet, run, "k").await), (1, 1));
        assert_nothing_left(&fleet.database).await;
        fleet.database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_token_that_is_not_taken_counts_too() {
    let fleet = TestFleet::publish([dag("w", "a b c j:2 other", "a>j b>j c>j c!other")]).await;
    let run = fleet.start("w", json!({})).await;
    let mut lanes = one_entry_each(&fleet, &["a", "b", "c"]).await;
    let c = lanes[2].keys()[0];
    let failure = Ending::Failed { error: StepError::permanent("no", "not today"), retry_after: None };
    lanes[2].cycle(vec![(c, failure)], 0).await.passed();
    for lane in &mut lanes {
        lane.finish_all(json!(1)).await;
    }
    ManualLane::new(&fleet.database.pool).drain(json!(1)).await;
    assert_eq!(fleet.ended(run).await.0, "completed");
    assert_eq!((completed(&fleet, run, "j").await, completed(&fleet, run, "other").await), (1, 1));
    assert_nothing_left(&fleet.database).await;
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_too_few_edges_can_take_is_skipped_once_with_its_reason() {
    let fleet = TestFleet::publish([dag("w", "a b j:2 k other", "a>j b>j b!other j>k")]).await;
    let run = fleet.start("w", json!({})).await;
    let mut lanes = one_entry_each(&fleet, &["a", "b"]).await;
    let b = lanes[1].keys()[0];
    let failure = Ending::Failed { error: StepError::permanent("no", "not today"), retry_after: None };
    lanes[1].cycle(vec![(b, failure)], 0).await.passed();
    for lane in lanes.iter_mut().rev() {
        lane.finish_all(json!(1)).await;
    }
    ManualLane::new(&fleet.database.pool).drain(json!(1)).await;
    assert_eq!(fleet.ended(run).await.0, "completed");
    let skipped = "select count(*) from longshore.execution_step_attempts where outcome = 5 and attempt = 0 and error ->> 'reason' is not null";
    assert_eq!(fleet.database.number(skipped).await, 2, "j and k, each once");
    assert_nothing_left(&fleet.database).await;
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_row_of_a_join_goes_even_if_its_first_attempt_was_lost() {
    let fleet = TestFleet::publish([dag("w", "a b j k l", "a>j b>j j>k j>l")]).await;
    let run = fleet.start("w", json!({})).await;
    let mut lanes = one_entry_each(&fleet, &["a", "b"]).await;
    for lane in &mut lanes {
        let keys = lane.keys();
        lane.complete(&keys, json!(1)).await;
    }
    assert_eq!(lanes[1].nodes(), ["j"]);
    lanes[1].expire().await;
    assert_eq!(reap(&fleet.database.pool).await.unwrap().steps, 1);
    // the run's end is a join as well: lose its first attempt too
    let mut lane = ManualLane::alone(&fleet.database.pool);
    lane.claim_node("j").await;
    lane.finish_all(json!(1)).await;
    let mut lane = ManualLane::new(&fleet.database.pool);
    lane.claim(2).await;
    let keys = lane.keys();
    lane.complete(&keys, json!(1)).await;
    assert_eq!(lane.nodes(), ["end"]);
    lane.expire().await;
    assert_eq!(reap(&fleet.database.pool).await.unwrap().steps, 1);
    ManualLane::new(&fleet.database.pool).drain(json!(1)).await;
    assert_eq!(fleet.ended(run).await.0, "completed");
    assert_nothing_left(&fleet.database).await;
    fleet.database.drop().await;
}
