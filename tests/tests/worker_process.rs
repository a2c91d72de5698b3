//! Real worker processes: killed, frozen, told to leave once or twice, crashing by themselves, and asked how they are.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

use std::time::{Duration, Instant};

use longshore_tests::TestFleet;
use longshore_tests::fleet::{chain, task, with};
use longshore_tests::process::{WorkerOptions, WorkerProcess, binary};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// `width` naps of so many seconds beside each other, and a join.
fn naps(name: &str, width: usize, seconds: f64) -> Value {
    let mut nodes: Vec<Value> = (0..width)
        .map(|n| with(task(&format!("n{n}"), "sleep"), json!({"input": {"seconds": seconds, "output": n}})))
        .collect();
    nodes.push(task("end", "echo"));
    let edges: Vec<Value> = (0..width).map(|n| json!([format!("n{n}"), "end"])).collect();
    json!({"name": name, "nodes": nodes, "edges": edges})
}

/// Running and graceful: nothing is lost however busy the machine is.
fn calm() -> WorkerOptions {
    WorkerOptions { lease: Duration::from_secs(10), ..WorkerOptions::default() }
}

async fn start(fleet: &TestFleet, options: &WorkerOptions) -> WorkerProcess {
    WorkerProcess::start(&fleet.database.url, options).await
}

async fn outcomes(fleet: &TestFleet, outcome: i32) -> i64 {
    fleet
        .database
        .number(&format!("select count(*) from longshore.execution_step_attempts where outcome = {outcome}"))
        .await
}

const HOLDS: &str = "select exists (select from longshore.lanes l join longshore.worker_lanes using (lane_id) where cardinality(l.run_ids) > 2)";

#[tokio::test(flavor = "multi_thread")]
async fn steps_of_a_killed_worker_run_again_on_another() {
    let fleet = TestFleet::publish([naps("w", 60, 0.2)]).await;
    let (killed, other) =
        (start(&fleet, &WorkerOptions::default()).await, start(&fleet, &WorkerOptions::default()).await);
    let run = fleet.start("w", json!({})).await;
    let name = format!(
        "select exists (select from longshore.step_leases l join longshore.workers w on w.worker_id = l.worker_id where w.pid = {} and node >= 0)",
        killed.pid()
    );
    fleet.until(&name).await;
    killed.kill();
    assert_eq!(fleet.ended(run).await.0, "completed");
    let lost = "select count(*) from longshore.execution_step_attempts where outcome = 3 and error ->> 'name' = 'lost'";
    assert!(fleet.database.number(lost).await >= 1);
    let again = "select coalesce(max(n.claimed_at - l.claimed_at) < interval '15 s', false) from longshore.execution_step_attempts l
        join longshore.execution_step_attempts n on n.run_id = l.run_id and n.node = l.node and n.attempt = l.attempt + 1 where l.outcome = 3 and l.run_id = $1";
    assert!(fleet.ask::<bool>(again, run).await, "each within 15 s");
    other.stop().await;
    fleet.forget_killed().await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_worker_that_wakes_changes_nothing() {
    let fleet = TestFleet::publish([naps("w", 8, 0.3), chain("after", 2)]).await;
    let frozen = start(&fleet, &WorkerOptions::default()).await;
    let run = fleet.start("w", json!({})).await;
    fleet.until(HOLDS).await;
    frozen.signal(Signal::SIGSTOP);
    let other = start(&fleet, &WorkerOptions { lease: Duration::from_secs(5), ..WorkerOptions::default() }).await;
    assert_eq!(fleet.ended(run).await.0, "completed");
    assert!(outcomes(&fleet, 3).await > 2, "the frozen worker lost its steps");
    let before = fleet.database.number("select count(*) from longshore.execution_step_attempts").await;
    frozen.signal(Signal::SIGCONT);
    frozen.says("drops what it holds").await;
    assert!(frozen.metric("longshore_fenced_total", "").await > 0.0);
    assert!(other.metric("longshore_leases_lost_total", "").await > 2.0);
    other.stop().await;
    // it goes on as if nothing had been
    let after = fleet.start("after", json!({"n": 1})).await;
    assert_eq!(fleet.ended(after).await, ("completed".into(), json!({"n": 1})));
    let added = fleet.database.number("select count(*) from longshore.execution_step_attempts").await - before;
    assert_eq!(added, 2, "late results are dropped");
    frozen.stop().await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_told_to_leave_finishes_what_it_runs_and_claims_no_more() {
    let fleet = TestFleet::publish([naps("w", 30, 0.5)]).await;
    let mut leaving = start(&fleet, &calm()).await;
    let run = fleet.start("w", json!({})).await;
    fleet.until(HOLDS).await;
    leaving.signal(Signal::SIGTERM);
    leaving.says("draining").await;
    let (status, body) = leaving.get("/health/ready").await;
    assert_eq!((status, body.contains("draining")), (503, true), "{body}");
    assert_eq!(leaving.get("/health/live").await.0, 200);
    assert!(leaving.ended().await.success());
    let left = "select (select count(*) from longshore.lanes) + (select count(*) from longshore.worker_lanes) + (select count(*) from longshore.workers)";
    assert_eq!(fleet.database.number(left).await, 0, "nothing stays leased");
    assert!(
        fleet.database.number("select count(*) from longshore.step_ready").await >= 1,
        "the rest waits for another"
    );
    let state: i16 = fleet.ask("select state from longshore.workflow_runs where run_id = $1", run).await;
    assert_eq!(state, 1);
    let next = start(&fleet, &calm()).await;
    assert_eq!(fleet.ended(run).await.0, "completed");
    assert_eq!((outcomes(&fleet, 3).await, outcomes(&fleet, 6).await, outcomes(&fleet, 2).await), (0, 0, 0));
    let one = "select count(*) from longshore.execution_step_attempts where attempt > 1";
    assert_eq!(fleet.database.number(one).await, 0);
    next.stop().await;
    fleet.finish().await;
}

/// After this worker was told to leave, its one long nap is with the queue again, uncharged.
async fn released_uncharged(fleet: &TestFleet) {
    let given_back = "select exists (select from longshore.step_ready where attempt = 2 and failed = 0 and lost = 0)";
    assert!(fleet.database.number(&format!("select ({given_back})::int::bigint")).await == 1);
    assert_eq!((outcomes(fleet, 6).await, outcomes(fleet, 3).await), (1, 0), "released, not lost");
    assert_eq!(fleet.database.number("select count(*) from longshore.lanes").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_grace_is_over_the_rest_is_given_back_uncharged() {
    let fleet = TestFleet::publish([naps("w", 1, 3600.0)]).await;
    let mut worker = start(&fleet, &WorkerOptions { grace: Duration::from_millis(300), ..calm() }).await;
    let run = fleet.start("w", json!({})).await;
    fleet.until("select exists (select from longshore.step_leases where node = 0)").await;
    worker.signal(Signal::SIGTERM);
    assert!(worker.ended().await.success());
    released_uncharged(&fleet).await;
    let next = start(&fleet, &calm()).await;
    fleet.until("select exists (select from longshore.step_leases where node = 0 and attempt = 2)").await;
    fleet.enqueuer.cancel(run).await.unwrap();
    fleet.until("select not exists (select from longshore.closed)").await;
    assert_eq!(fleet.tries(run, "n0").await, ["released", "canceled"]);
    next.stop().await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_grace_at_once() {
    let fleet = TestFleet::publish([naps("w", 1, 3600.0)]).await;
    let mut worker = start(&fleet, &WorkerOptions { grace: Duration::from_secs(300), ..calm() }).await;
    fleet.start("w", json!({})).await;
    fleet.until("select exists (select from longshore.step_leases where node = 0)").await;
    let began = Instant::now();
    worker.signal(Signal::SIGTERM);
    worker.says("draining").await;
    worker.signal(Signal::SIGINT);
    assert!(worker.ended().await.success());
    assert!(began.elapsed() < Duration::from_secs(20));
    released_uncharged(&fleet).await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_crashes_its_worker_runs_again_and_takes_no_innocents_with_it_twice() {
    let crash = with(task("crash", "crash"), json!({"input": {"times": 2, "output": "alive"}}));
    let fleet = TestFleet::publish([json!({"name": "w", "nodes": [crash, with(task("nap", "sleep"), json!({"input": {"seconds": 0.3}}))], "edges": []})]).await;
    let options = WorkerOptions { lease: Duration::from_millis(600), ..WorkerOptions::default() };
    let mut worker = WorkerProcess::spawn(&fleet.database.url, &options);
    let run = fleet.start("w", json!({})).await;
    for _ in 0..2 {
        assert_eq!(worker.ended().await.code(), Some(137));
        worker = WorkerProcess::spawn(&fleet.database.url, &options);
    }
    assert_eq!(fleet.ended(run).await.0, "completed");
    assert_eq!(fleet.tries(run, "crash").await, ["lost", "lost", "completed"]);
    let naps = fleet.tries(run, "nap").await;
    assert!(naps.len() <= 2 && naps.last().unwrap() == "completed", "lost in company at most once: {naps:?}");
    worker.stop().await;
    fleet.forget_killed().await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_step_is_given_up_after_five_losses_alone() {
    let crash = with(task("crash", "crash"), json!({"input": {"times": 99}}));
    let fleet = TestFleet::publish([json!({"name": "w", "nodes": [crash, task("after", "echo")],
        "edges": [{"from": "crash", "to": "after", "on": "failure"}]})])
    .await;
    let options = WorkerOptions { lease: Duration::from_millis(500), ..WorkerOptions::default() };
    let run = fleet.start("w", json!({})).await;
    let mut crashes = 0;
    let mut worker = WorkerProcess::spawn(&fleet.database.url, &options);
    while fleet.ask::<i16>("select state from longshore.workflow_runs where run_id = $1", run).await == 1 {
        tokio::select! {
            status = worker.ended() => {
                assert_eq!(status.code(), Some(137), "{}", worker.log());
                crashes += 1;
                worker = WorkerProcess::spawn(&fleet.database.url, &options);
            }
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
    }
    let (state, output) = fleet.ended(run).await;
    assert_eq!((state.as_str(), &output["name"], &output["kind"]), ("completed", &json!("lost"), &json!("permanent")));
    let tries = fleet.tries(run, "crash").await;
    assert_eq!(tries, ["lost", "lost", "lost", "lost", "lost", "failed"], "alone in its lane each time");
    assert_eq!(crashes, 5);
    worker.stop().await;
    fleet.forget_killed().await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_ends_a_process_whose_handlers_never_yield() {
    let fleet = TestFleet::publish([
        json!({"name": "w", "nodes": (0..8).map(|n| task(&format!("n{n}"), "block")).collect::<Vec<_>>(), "edges": []}),
    ])
    .await;
    // this very test binary, as a worker with a handler that blocks its thread
    let mut worker = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "as_a_worker_that_blocks", "--nocapture"])
        .env("LONGSHORE_TEST_BLOCKS", &fleet.database.url)
        .env("LONGSHORE_LOG", "off")
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    fleet.start("w", json!({})).await;
    fleet.until("select count(*) = 8 from longshore.step_leases where node >= 0").await;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(worker.id()).unwrap());
    tokio::time::sleep(Duration::from_millis(300)).await; // let them reach the handler and block every thread
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    let began = Instant::now();
    let status = loop {
        if let Some(status) = worker.try_wait().unwrap() {
            break status;
        }
        if began.elapsed() > Duration::from_secs(25) {
            worker.kill().unwrap();
            worker.wait().unwrap();
            panic!("a grace of 200 ms and 10 s to leave are long over");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    eprintln!("ended with {status} after {:?}", began.elapsed());
    // what it held was given back, or is reclaimed when its lease is over
    let next = start(&fleet, &calm()).await;
    fleet.until("select not exists (select from longshore.lanes where expires_at < now())").await;
    next.stop().await;
    fleet.database.drop().await;
}

/// Not a test of its own: the worker of the one above.
#[test]
fn as_a_worker_that_blocks() {
    use clap::Parser;
    #[derive(Parser)]
    struct Args {
        #[command(flatten)]
        worker: longshore_worker::args::WorkerArgs,
    }
    let Ok(url) = std::env::var("LONGSHORE_TEST_BLOCKS") else {
        return;
    };
    let args =
        Args::parse_from(["worker", "--database-url", &url, "--grace", "200ms", "--lease", "2s", "--no-system-lane"]);
    let mut handlers = longshore_worker::Handlers::new();
    handlers.add("block", async |_: longshore_worker::Step, input: Value| {
        std::thread::sleep(Duration::from_secs(3600));
        Ok::<_, longshore_worker::Failure>(input)
    });
    let code = longshore_worker::run(args.worker, handlers, std::future::pending()).unwrap();
    assert_eq!(code, std::process::ExitCode::SUCCESS);
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_and_metrics_are_served_on_one_port() {
    let fleet = TestFleet::publish([naps("w", 3, 0.01)]).await;
    let worker = start(&fleet, &calm()).await;
    let run = fleet.start("w", json!({})).await;
    fleet.ended(run).await;
    for path in ["/health/live", "/health/startup"] {
        assert_eq!(worker.get(path).await.0, 200, "{path}");
    }
    let until = Instant::now() + Duration::from_secs(20);
    while worker.get("/health/ready").await.0 != 200 {
        assert!(Instant::now() < until, "{:?}", worker.get("/health/ready").await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(worker.get("/elsewhere").await.0, 404);
    assert!(worker.metric("longshore_step_attempts_total", r#"outcome="completed""#).await >= 4.0);
    worker.stop().await;
    fleet.finish().await;
}

#[test]
fn wrong_arguments_and_an_unreachable_database_are_said_in_one_line() {
    let run = |arguments: &[&str]| {
        let output =
            std::process::Command::new(binary()).args(arguments).env_remove("LONGSHORE_DATABASE_URL").output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = run(&["--queue", "default=0"]);
    assert_eq!(code, Some(2), "{text}");
    let (code, text) = run(&["--database-url", "postgres://postgres@127.0.0.1:1/none"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("127.0.0.1") || text.to_lowercase().contains("connect"), "{text}");
    let (code, text) = run(&["--database-url", "postgres://postgres@127.0.0.1:1/none", "--lease", "100ms"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("too short"), "{text}");
}
