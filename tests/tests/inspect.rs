//! What an operator sees of runs, steps and attempts is what happened, under keys that do not change, and looking costs the same whatever else
//! the database holds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use longshore_core::inspect::{self, Counts, Filter, StepView};
use longshore_core::state::{Outcome, RunState};
use longshore_core::{doctor, explain};
use longshore_tests::fleet::{Gate, TestHandlers, chain, nested};
use longshore_tests::lane::dag;
use longshore_tests::{ManualLane, TestDatabase, TestFleet};
use longshore_worker::Slots;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

/// `charge` fails `fail` times; `ship` follows its success, `refund` its giving up.
fn order() -> Value {
    json!({
        "name": "order",
        "nodes": [
            {"id": "charge", "type": "task", "handler": "flaky", "input": {"fail": "{{ run.input.fail }}", "output": "paid", "name": "declined"},
             "retry": {"max_attempts": 3, "initial": "1ms", "jitter": 0}},
            {"id": "ship", "type": "task", "handler": "echo"},
            {"id": "refund", "type": "set", "output": {"back": true}}],
        "edges": [["charge", "ship"], {"from": "charge", "to": "refund", "on": "failure"}]
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_shows_its_steps_attempts_and_counts() {
    let mut fleet = TestFleet::publish([order()]).await;
    fleet.add(fleet.worker().queue("default", Slots(4)).name("clerk")).await;
    let start = fleet.enqueuer.start("order", &json!({"fail": 1})).key("order-7").priority(2).await.unwrap();
    let good = start.id;
    let (bad, _) = (fleet.start("order", json!({"fail": 9})).await, fleet.ended(good).await);
    fleet.ended(bad).await;
    let mut connection = fleet.database.pool.acquire().await.unwrap();

    let view = inspect::show(&mut connection, good).await.unwrap().unwrap();
    let run = &view.summary;
    assert_eq!((run.run_id, run.workflow.as_str(), run.version), (good, "order", 1));
    assert_eq!((run.state, run.priority, run.key.as_deref()), (RunState::Completed, 2, Some("order-7")));
    assert!(run.finished_at.unwrap() > run.created_at && run.seconds > 0.0 && run.run_at.is_none());
    let ship = json!("paid");
    assert_eq!(
        (&view.input, view.output.as_ref(), &view.error_detail),
        (&json!({"fail": 1}), Some(&json!({"ship": ship})), &None)
    );
    assert_eq!(inspect::show(&mut connection, Uuid::new_v4()).await.unwrap(), None);

    let steps = inspect::steps(&mut connection, good).await.unwrap();
    let states: Vec<_> = steps
        .iter()
        .map(|step| (step.node.as_str(), step.node_type.as_str(), step.state.as_str(), step.attempts))
        .collect();
    assert_eq!(
        states,
        [("charge", "task", "completed", 2), ("ship", "task", "completed", 1), ("refund", "set", "skipped", 0)]
    );
    assert_eq!((steps[0].worker.as_deref(), steps[0].handler.as_deref()), (Some("clerk"), Some("flaky")));
    assert!(steps[0].duration_ms.is_some() && steps[0].error.is_none() && steps[2].error.is_some());
    assert!(steps.iter().all(|step| step.queue == "default" && step.since.is_some() && step.until.is_none()));

    let attempts = inspect::attempts(&mut connection, good).await.unwrap();
    let seen: Vec<_> = attempts.iter().map(|of| (of.node.as_str(), of.attempt, of.outcome)).collect();
    use Outcome as O;
    assert_eq!(seen[0], ("charge", 1, O::Failed));
    assert!(
        seen[1..3].contains(&("charge", 2, O::Completed)) && seen[1..3].contains(&("refund", 0, O::Skipped)),
        "{seen:?}"
    );
    assert_eq!(seen[3..], [("ship", 1, O::Completed), ("(end)", 1, O::Completed)]);
    assert_eq!(attempts[0].error.as_ref().unwrap()["name"], "declined");
    assert!(attempts.is_sorted_by_key(|of| of.finished_at));
    assert!(attempts.iter().filter(|of| of.attempt > 0).all(|of| of.claimed_at.unwrap() <= of.finished_at));
    assert_eq!(inspect::attempts(&mut connection, Uuid::new_v4()).await.unwrap(), []);

    let mut counts = inspect::counts_many(&mut connection, &[good, bad, Uuid::new_v4()]).await.unwrap();
    assert_eq!(counts.len(), 2, "a run that does not exist is left out");
    assert_eq!(counts.remove(&good), Some(Counts { nodes: 3, completed: 2, skipped: 1, ..Counts::default() }));
    let failed = Counts { nodes: 3, completed: 1, failed: 1, skipped: 1, ..Counts::default() };
    assert_eq!((counts.remove(&bad), failed.ended()), (Some(failed), 3));
    let steps = inspect::steps(&mut connection, bad).await.unwrap();
    let states: Vec<_> = steps.iter().map(|step| (step.state.as_str(), step.attempts)).collect();
    assert_eq!(states, [("failed", 3), ("skipped", 0), ("completed", 1)]);
    let workers = inspect::fleet(&mut connection).await.unwrap();
    assert_eq!((workers[0].name.as_str(), workers[0].live, workers[0].slots, workers.len()), ("clerk", true, 4, 1));
    assert_eq!((workers[0].queues.as_slice(), workers[0].held), (["default".to_owned()].as_slice(), 0));
    drop(connection);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_run_shows_where_each_node_stands() {
    let fleet = TestFleet::publish([dag("w", "a b c d e", "a>b a>c a>d d>e")]).await;
    let run = fleet.start("w", json!({})).await;
    let queued = Counts { nodes: 5, pending: 4, ready: 1, ..Counts::default() };
    let mut connection = fleet.database.pool.acquire().await.unwrap();
    assert_eq!(inspect::counts(&mut connection, run).await.unwrap(), Some(queued));
    let mut lane = ManualLane::without_keeping(&fleet.database.pool);
    let a = lane.claim_node("a").await;
    lane.complete(&[a], json!(1)).await;
    lane.claim_node("b").await;
    fleet
        .database
        .execute(
            "with c as (delete from longshore.step_ready where node = 2 returning *)
             insert into longshore.step_delayed (due_at, run_id, version_id, queue_id, node, attempt, shard, priority, kind)
             select now() + interval '1 h', run_id, version_id, queue_id, node, attempt, shard, priority, kind from c",
        )
        .await;
    let live = Counts { nodes: 5, pending: 1, ready: 1, delayed: 1, running: 1, completed: 1, ..Counts::default() };
    assert_eq!(inspect::counts(&mut connection, run).await.unwrap(), Some(live));
    let steps = inspect::steps(&mut connection, run).await.unwrap();
    let states: Vec<_> = steps.iter().map(|step| step.state.as_str()).collect();
    assert_eq!(states, ["completed", "running", "delayed", "ready", "pending"]);
    assert!(steps[1].until.is_some() && steps[2].until.is_some() && steps[3].since.is_some());
    assert_eq!((steps[4].attempts, steps[4].since), (0, None));

    fleet.enqueuer.cancel(run).await.unwrap();
    let canceled = Counts { ready: 0, delayed: 0, canceled: 2, ..live };
    assert_eq!(inspect::counts(&mut connection, run).await.unwrap(), Some(canceled), "what is still held says so");
    drop(connection);
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_view_of_all_steps_says_the_same_as_the_steps_of_a_run() {
    let fleet = TestFleet::publish([dag("w", "a b c d e f", "a>b a!f b>c a>d d>e")]).await;
    let run = fleet.start("w", json!({})).await;
    let other = fleet.start("w", json!({})).await;
    let mut lane = ManualLane::without_keeping(&fleet.database.pool);
    for _ in 0..6 {
        let mut connection = fleet.database.pool.acquire().await.unwrap();
        for id in [run, other] {
            let steps = inspect::steps(&mut connection, id).await.unwrap();
            let expected: Vec<(i32, String, i32)> = steps
                .iter()
                .filter(|step| step.state.as_str() != "pending")
                .map(|step| (step.number, step.state.as_str().to_owned(), step.attempts))
                .collect();
            let sql = "select node, state, attempt from longshore.execution_steps where shard = 0 and run_id = $1 order by node";
            let seen: Vec<(i32, String, i32)> = sqlx::query_as(sql).bind(id).fetch_all(&mut *connection).await.unwrap();
            assert_eq!(seen, expected);
        }
        drop(connection);
        let held = lane.keys();
        lane.complete(&held, json!(1)).await;
        lane.claim(2).await;
    }
    fleet.database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_run_shows_where_each_node_of_its_blocks_stands() {
    let gate = Gate::default();
    let mut fleet = TestFleet::publish([nested("w")]).await;
    fleet.add(fleet.worker().queue("default", Slots(9)).gate(&gate)).await;
    let (run, canceled) = (fleet.start("w", json!({})).await, fleet.start("w", json!({})).await);
    gate.entered(6).await;
    fleet.until("select count(*) = 6 from longshore.step_leases").await;
    let mut connection = fleet.database.pool.acquire().await.unwrap();
    let mut stand = async |run: Uuid| -> Vec<String> {
        let steps = inspect::steps(&mut connection, run).await.unwrap();
        let line = |step: &StepView| {
            format!("{} {}", inspect::place(&step.node, step.frame, step.within.as_deref()), step.state)
        };
        let lines: BTreeSet<String> = steps.iter().map(line).collect();
        assert_eq!(lines.len(), steps.len());
        let counts = inspect::counts(&mut connection, run).await.unwrap().unwrap();
        let count = |state: &str| steps.iter().filter(|step| step.state.as_str() == state).count() as i64;
        let same = Counts {
            nodes: steps.len() as i64,
            pending: count("pending"),
            ready: count("ready"),
            delayed: count("delayed"),
            waiting: 0,
            running: count("running"),
            completed: count("completed"),
            failed: count("failed"),
            skipped: count("skipped"),
            canceled: count("canceled"),
        };
        assert_eq!(counts, same);
        lines.into_iter().collect()
    };
    let mut live = vec!["each running".to_owned(), "z pending".to_owned()];
    for item in 0..3 {
        live.push(format!("each[{item}] > again running"));
        live.push(format!("each[{item}] > again[0] > charge running"));
        live.push(format!("each[{item}] > again[0] > count pending"));
    }
    live.sort();
    assert_eq!(stand(run).await, live);

    fleet.enqueuer.cancel(canceled).await.unwrap();
    fleet.until("select not exists (select from longshore.closed)").await;
    let mut over = vec!["each canceled".to_owned(), "z pending".to_owned()];
    for item in 0..3 {
        over.push(format!("each[{item}] > again canceled"));
        over.push(format!("each[{item}] > again[0] > charge canceled"));
    }
    over.sort();
    assert_eq!(stand(canceled).await, over);

    gate.open(6);
    fleet.ended(run).await;
    let ended = stand(run).await;
    assert_eq!(ended.len(), 2 + 3 * (1 + 2 * 2));
    assert!(ended.iter().all(|line| line.ends_with(" completed")), "{ended:?}");
    let attempts = inspect::attempts(&mut connection, run).await.unwrap();
    let last = attempts.iter().find(|of| of.node == "charge" && of.within.as_deref() == Some("each[2] > again[1]"));
    assert!(last.is_some(), "{attempts:?}");
    drop(connection);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_listed_newest_first_by_workflow_state_and_page() {
    let fleet = TestFleet::publish([chain("one", 1), chain("two", 2)]).await;
    let mut lane = ManualLane::new(&fleet.database.pool);
    let mut runs = vec![fleet.start("one", json!({})).await];
    lane.drain(json!(1)).await;
    for workflow in ["two", "one", "two"] {
        runs.push(fleet.start(workflow, json!({})).await);
        // ids of one millisecond are in no order
        let next = "select longshore.run_id_at(clock_timestamp()) > (select run_id from longshore.workflow_runs order by run_id desc limit 1)";
        fleet.until(next).await;
    }
    fleet.enqueuer.cancel(runs[3]).await.unwrap();
    let a = lane.claim_node("n0").await;
    assert_eq!(a.run_id, runs[1]);
    let mut connection = fleet.database.pool.acquire().await.unwrap();
    let mut listed = async |filter: Filter| -> Vec<(Uuid, RunState)> {
        let page = inspect::list(&mut connection, &filter).await.unwrap();
        page.into_iter().map(|run| (run.run_id, run.state)).collect()
    };
    use RunState as S;
    let states = [S::Completed, S::Running, S::Queued, S::Canceled];
    let all: Vec<_> = runs.iter().copied().zip(states).rev().collect();
    assert_eq!(listed(Filter::default()).await, all);
    let one = Filter { workflow: Some("one".to_owned()), ..Filter::default() };
    assert_eq!(listed(one).await, [all[1], all[3]]);
    for run in &all {
        assert_eq!(listed(Filter { state: Some(run.1), ..Filter::default() }).await, [*run]);
    }
    assert_eq!(listed(Filter { limit: 2, ..Filter::default() }).await, all[..2]);
    assert_eq!(listed(Filter { limit: 2, before: Some(all[1].0), ..Filter::default() }).await, all[2..]);
    assert_eq!(listed(Filter { workflow: Some("three".to_owned()), ..Filter::default() }).await, []);
    drop(connection);
    fleet.database.drop().await;
}

/// The keys of an object, sorted.
fn keys(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_of_json_output_do_not_change() {
    let fleet = TestFleet::publish([dag("w", "a b c j", "a>j b>j c>j")]).await;
    let run = fleet.start("w", json!({})).await;
    let mut lane = ManualLane::without_keeping(&fleet.database.pool);
    lane.claim_node("start").await;
    lane.finish_all(json!(1)).await;
    let a = lane.claim_node("a").await;
    lane.complete(&[a], json!(1)).await;
    lane.claim_node("b").await;
    let later =
        fleet.enqueuer.start("w", &json!({})).run_at(chrono::Utc::now() + chrono::TimeDelta::days(1)).await.unwrap().id;
    let mut connection = fleet.database.pool.acquire().await.unwrap();
    let listed = inspect::list(&mut connection, &Filter::default()).await.unwrap();
    insta::assert_snapshot!(keys(&listed[0]), @"created_at error finished_at key priority run_at run_id seconds state version workflow");
    let shown = inspect::show(&mut connection, run).await.unwrap().unwrap();
    insta::assert_snapshot!(keys(&shown), @"children created_at error error_detail finished_at input key mode output parent_run_id priority run_at run_id seconds state version workflow");
    let steps = inspect::steps(&mut connection, run).await.unwrap();
    insta::assert_snapshot!(keys(&steps[0]), @"attempts duration_ms error frame handler node number queue since state type until within worker");
    let attempts = inspect::attempts(&mut connection, run).await.unwrap();
    insta::assert_snapshot!(keys(&attempts[0]), @"attempt claimed_at duration_ms enqueued_at error finished_at frame lane_id node number outcome output within worker");
    let counts = inspect::counts(&mut connection, run).await.unwrap().unwrap();
    insta::assert_snapshot!(keys(&counts), @"canceled completed delayed failed nodes pending ready running skipped waiting");
    let answer = explain::explain(&mut connection, run).await.unwrap().unwrap();
    insta::assert_snapshot!(keys(&answer), @"cleans_up created_at delayed delayed_total error finished_at held held_total joins joins_total lost now paused_at paused_because pending problems ready ready_total run_at run_id state stuck version waiting waiting_total workflow");
    insta::assert_snapshot!(keys(&answer.ready[0]), @"ahead alone attempt frame handler node priority queue since within work workers");
    insta::assert_snapshot!(keys(&answer.held[0]), @"attempt claimed_at frame heartbeat_at host lane_id lease_until node overdue pid within work worker worker_live");
    insta::assert_snapshot!(keys(&answer.joins[0]), @"fired frame in_edges need node resolved taken waits_for waits_for_total within");
    insta::assert_snapshot!(keys(&answer.joins[0].waits_for[0]), @"node state");
    let answer = explain::explain(&mut connection, later).await.unwrap().unwrap();
    insta::assert_snapshot!(keys(&answer.delayed[0]), @"attempt due_at frame handler node queue reason within work");
    let report = doctor::examine(&mut connection).await.unwrap();
    insta::assert_snapshot!(keys(&report), @"checks");
    insta::assert_snapshot!(keys(&report.checks[0]), @"examples found name promise says severity");
    let names: Vec<_> = report.checks.iter().map(|check| check.name).collect();
    insta::assert_snapshot!(names.join(" "), @"stuck_run stuck_frame lost_wake_up parked_step lost_child orphan_child accepted_once attempt_numbers one_home lease_overdue join_counts lost_successor lost_retry undecided_node started_early orphan unknown_place lost_finally unsettled_step partitions max_attempts version_altered functions residue unsettled silent_workers unserved_queues vacuum_behind invalid_indexes old_snapshots");
    drop(connection);
    fleet.database.drop().await;
}

/// 10,000 runs with 10 ready and 10 ended nodes each.
const CROWD: &str = "
    insert into longshore.step_ready (run_id, version_id, queue_id, node, attempt, shard, priority, kind)
    select overlay(longshore.run_id_at(now())::text placing lpad(i::text, 12, '0') from 25)::uuid, 1, 1, n, 1, 0, 1, 0
    from generate_series(1, 10000) i, generate_series(0, 9) n;
    insert into longshore.execution_step_attempts (run_id, frame, node, attempt, lane_id, claimed_at, finished_at, shard, outcome, output)
    select overlay(longshore.run_id_at(now())::text placing lpad(i::text, 12, '0') from 25)::uuid, 0, n, 1, 5, now(), now(), 0, 1, '{}'
    from generate_series(1, 10000) i, generate_series(10, 19) n";

/// Every node of a plan.
fn plan_nodes<'p>(plan: &'p Value, nodes: &mut Vec<&'p Value>) {
    nodes.push(plan);
    for child in plan["Plans"].as_array().into_iter().flatten() {
        plan_nodes(child, nodes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_steps_of_one_run_are_read_by_index_among_a_hundred_thousand() {
    let database = TestDatabase::new().await;
    let mut connection = database.pool.acquire().await.unwrap();
    sqlx::raw_sql("analyze").execute(&mut *connection).await.unwrap();
    sqlx::raw_sql(&format!("begin; {CROWD}; commit")).execute(&mut *connection).await.unwrap();
    let run: Uuid = sqlx::query_scalar("select run_id from longshore.step_ready limit 1")
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    let prepare = "prepare q (uuid) as select * from longshore.execution_steps where shard = 0 and run_id = $1";
    sqlx::raw_sql(prepare).execute(&mut *connection).await.unwrap();
    for statistics in ["analyze longshore.queues", "analyze"] {
        for mode in ["force_custom_plan", "force_generic_plan"] {
            sqlx::raw_sql(&format!("{statistics}; set plan_cache_mode = {mode}"))
                .execute(&mut *connection)
                .await
                .unwrap();
            let sql = format!("explain (analyze, buffers, format json) execute q ('{run}')");
            let plan: Value =
                sqlx::raw_sql(&sql).fetch_one(&mut *connection).await.map(|row| sqlx::Row::get(&row, 0)).unwrap();
            let plan = &plan[0]["Plan"];
            assert_eq!(plan["Actual Rows"], 20, "{plan:#}");
            let blocks = plan["Shared Hit Blocks"].as_i64().unwrap() + plan["Shared Read Blocks"].as_i64().unwrap();
            assert!(blocks < 100, "{blocks} blocks, {statistics}, {mode}: {plan:#}");
            let mut nodes = Vec::new();
            plan_nodes(plan, &mut nodes);
            for node in nodes {
                let scan = node["Node Type"] == "Seq Scan" && node["Actual Loops"] != 0;
                let table = node["Relation Name"].as_str().unwrap_or_default();
                assert!(
                    !scan || !(table == "step_ready" || table.contains("attempts")),
                    "{statistics}, {mode}: {plan:#}"
                );
            }
        }
    }
    drop(connection);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_steps_of_a_large_run_are_read_once_whatever_the_planner_believes() {
    let database = TestDatabase::new().await;
    let mut connection = database.pool.acquire().await.unwrap();
    let sql = "analyze;
        insert into longshore.step_ready (run_id, version_id, queue_id, node, attempt, shard, priority, kind)
        select longshore.run_id_at(now()), 1, 1, n, 1, 0, 1, 0 from generate_series(0, 4999) n;
        insert into longshore.execution_step_attempts (run_id, frame, node, attempt, lane_id, claimed_at, finished_at, shard, outcome, output)
        select longshore.run_id_at(now()), 0, n, 1, 5, now(), now(), 0, 1, '{}' from generate_series(5000, 9999) n;
        select 1";
    sqlx::raw_sql(sql).execute(&mut *connection).await.unwrap();
    let run: Uuid = sqlx::query_scalar("select run_id from longshore.step_ready limit 1")
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    let began = Instant::now();
    let sql = "select state, count(*) from longshore.execution_steps where shard = 0 and run_id = $1 group by state order by state";
    let states: Vec<(String, i64)> = sqlx::query_as(sql).bind(run).fetch_all(&mut *connection).await.unwrap();
    assert_eq!(states, [("completed".to_owned(), 5000), ("ready".to_owned(), 5000)]);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}: it looped");
    drop(connection);
    database.drop().await;
}
