//! What a worker exports: the figures agree with Postgres, the names and labels are those that are documented, and promtool accepts a scrape.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use longshore_tests::TestFleet;
use longshore_tests::fleet::{TestHandlers, chain, task, with};
use longshore_tests::http::get;
use longshore_tests::process::metric;
use longshore_worker::{Failure, Slots, Step};
use serde_json::{Value, json};

/// Runs of every ending on one worker that serves metrics: the fleet and a scrape after them.
async fn scraped() -> (TestFleet, String) {
    let retry = json!({"max_attempts": 2, "initial": "1ms"});
    let mut fleet = TestFleet::publish([
        chain("plain", 3),
        json!({"name": "mixed", "nodes": [with(task("flaky", "flaky"), json!({"input": {"fail": 1}, "retry": retry})),
            with(task("panics", "panic"), json!({"retry": {"max_attempts": 1}})), task("skipped", "echo"), task("caught", "echo")],
            "edges": [["flaky", "panics"], ["panics", "skipped"], {"from": "panics", "to": "caught", "on": "failure"}]}),
        json!({"name": "failing", "nodes": [with(task("a", "flaky"), json!({"input": {"fail": 9, "permanent": true}}))], "edges": []}),
        json!({"name": "unbuilt", "nodes": [with(task("a", "echo"), json!({"input": {"x": "{{ run.input.n / 0 }}"}}))], "edges": []}),
        json!({"name": "booked", "nodes": [task("a", "book")], "edges": []}),
        json!({"name": "canceled", "nodes": [{"id": "t", "type": "terminate", "state": "canceled"}], "edges": []}),
    ])
    .await;
    let pool = fleet.database.pool.clone();
    let book = move |step: Step, input: Value| {
        let pool = pool.clone();
        async move {
            step.transaction().await?.complete_in(pool.begin().await?, &input).await?;
            Ok::<_, Failure>(input)
        }
    };
    let worker =
        fleet.worker().panics().handler("book", book).queue("default", Slots(7)).listen("127.0.0.1:0".parse().unwrap());
    let address = fleet.add(worker).await.address().unwrap();
    for _ in 0..5 {
        for workflow in ["plain", "mixed", "failing", "unbuilt", "booked", "canceled"] {
            fleet.run(workflow, json!({"n": 1})).await;
        }
    }
    let (status, page) = get(address, "/metrics").await.unwrap();
    assert_eq!(status, 200);
    (fleet, page)
}

const ATTEMPTS: &str =
    "select count(*) from longshore.execution_step_attempts a join longshore.workflow_runs r using (run_id)
    join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node where n.type = 'task'";

#[tokio::test(flavor = "multi_thread")]
async fn the_counts_are_those_of_the_database() {
    let (fleet, page) = scraped().await;
    for (outcome, word) in (1..).zip(["completed", "failed"]) {
        // the figures count attempts of handlers' nodes; steps of the engine's own are only recorded
        let recorded = fleet.database.number(&format!("{ATTEMPTS} and a.outcome = {outcome}")).await;
        let counted = metric(&page, "longshore_step_attempts_total", &format!("outcome=\"{word}\""));
        assert_eq!(counted as i64, recorded, "{word}");
    }
    for (state, word) in (3..).zip(["completed", "failed", "canceled"]) {
        let recorded =
            fleet.database.number(&format!("select count(*) from longshore.workflow_runs where state = {state}")).await;
        assert_eq!(metric(&page, "longshore_runs_total", &format!("state=\"{word}\"")) as i64, recorded, "{word}");
    }
    let handled = fleet
        .database
        .number("select count(*) from longshore.execution_step_attempts where duration_ms is not null")
        .await;
    assert_eq!(metric(&page, "longshore_step_duration_seconds_count", "") as i64, handled);
    let attempts = fleet.database.number(&format!("{ATTEMPTS} and a.claimed_at is not null")).await;
    assert_eq!(metric(&page, "longshore_step_wait_seconds_count", "") as i64, attempts);
    assert!(attempts > handled, "some attempts end before their handler runs");
    assert_eq!(metric(&page, "longshore_run_duration_seconds_count", "") as i64, 30);
    assert!(metric(&page, "longshore_cycle_duration_seconds_count", "") >= 20.0);
    assert_eq!(metric(&page, "longshore_build_info", ""), 1.0);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_has_the_prefix_a_help_and_only_known_labels() {
    let (fleet, page) = scraped().await;
    let names: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    for name in [
        "step_wait_seconds",
        "step_duration_seconds",
        "step_attempts_total",
        "run_duration_seconds",
        "runs_total",
        "leases_lost_total",
        "fenced_total",
        "cycle_duration_seconds",
        "cycle_batch_size",
        "slots",
        "db_pool_wait_seconds",
        "build_info",
    ] {
        let name = format!("longshore_{name}");
        assert!(names.contains(name.as_str()), "{name} is not among {names:?}");
        assert!(page.contains(&format!("# HELP {name} ")), "{name} has no help");
    }
    assert!(names.iter().all(|name| name.starts_with("longshore_")), "{names:?}");
    let known = ["queue", "workflow", "handler", "outcome", "state", "kind", "table", "version", "le"];
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let Some((_, labels)) = line.split_once('{') else { continue };
        for label in labels.split("\",").filter_map(|label| label.split('=').next()) {
            assert!(known.contains(&label), "{label} in {line}");
        }
    }
    let runs: Vec<String> = sqlx::query_scalar("select run_id::text from longshore.workflow_runs")
        .fetch_all(&fleet.database.pool)
        .await
        .unwrap();
    assert!(runs.iter().all(|run| !page.contains(run)), "a run id is never a label");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_accepts_a_live_scrape() {
    let (fleet, page) = scraped().await;
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    match promtool {
        Ok(mut child) => {
            child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            let said =
                format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success(), "{said}\n{page}");
        }
        Err(error) => eprintln!("skipped: promtool is not installed ({error})"),
    }
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_two_hundred_workflows_the_rest_is_counted_as_other() {
    let names: Vec<String> = (0..230).map(|n| format!("w{n:03}")).collect();
    let mut fleet = TestFleet::publish(names.iter().map(|name| chain(name, 1))).await;
    let worker = fleet.worker().queue("default", Slots(50)).listen("127.0.0.1:0".parse().unwrap());
    let address = fleet.add(worker).await.address().unwrap();
    let runs: Vec<_> = names.iter().map(|name| longshore_enqueuer::NewRun::new(name, &Value::Null)).collect();
    fleet.enqueuer.start_many(&runs).await.unwrap();
    fleet.all_ended().await;
    let (_, page) = get(address, "/metrics").await.unwrap();
    for name in ["longshore_step_attempts_total", "longshore_runs_total"] {
        let sets = page.lines().filter(|line| line.starts_with(name) && line.contains("completed")).count();
        assert!((200..=201).contains(&sets), "{name} has {sets} label sets");
        assert!(metric(&page, name, "workflow=\"other\"") >= 29.0, "{name}");
        assert_eq!(metric(&page, name, "\"completed\""), 230.0, "{name}: none is lost");
    }
    fleet.finish().await;
}
