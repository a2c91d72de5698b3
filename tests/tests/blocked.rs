//! Handlers that block their thread and heed no cancellation: their attempts end all the same, and a worker whose threads are all blocked gives its
//! steps up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use longshore_tests::fleet::PATIENCE;
use longshore_tests::http::get;
use longshore_tests::{TestFleet, checks};
use longshore_worker::{Failure, Slots, Step};
use serde_json::{Value, json};

const LEASE: Duration = Duration::from_secs(1);

fn one_task(handler: &str, timeout: &str) -> Value {
    let retry = json!({"max_attempts": 1});
    json!({"name": handler, "nodes": [{"id": "a", "type": "task", "handler": handler, "timeout": timeout, "retry": retry}], "edges": []})
}

type Answer = std::future::Ready<Result<Value, Failure>>;

/// Blocks its thread for longer than any timeout here, the first time it is called; then it does well.
fn blocks_once(time: Duration, calls: Arc<AtomicU32>) -> impl Fn(Step, Value) -> Answer + Clone {
    move |_: Step, input: Value| {
        if calls.fetch_add(1, Ordering::SeqCst) == 0 {
            std::thread::sleep(time);
        }
        std::future::ready(Ok(input))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_attempt_whose_handler_never_yields_ends_a_lease_after_its_timeout() {
    let mut fleet = TestFleet::publish([one_task("stubborn", "300ms")]).await;
    let time = Duration::from_secs(10);
    let calls = Arc::new(AtomicU32::new(0));
    let handler = blocks_once(time, calls.clone());
    let worker = fleet.worker().lease(LEASE).handler("stubborn", handler).queue("default", Slots(4));
    fleet.add(worker).await;
    let began = Instant::now();
    let run = fleet.start("stubborn", json!({"x": 1})).await;
    let (state, error) = fleet.ended(run).await;
    assert_eq!((state.as_str(), error["name"].as_str()), ("failed", Some("timeout")), "{error}");
    assert!(began.elapsed() < time, "the run ended before its handler did");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    // the slot is free again, and the worker works on
    let next = fleet.start("stubborn", json!({"x": 2})).await;
    assert_eq!(fleet.ended(next).await, ("completed".to_owned(), json!({"x": 2})));
    fleet.finish().await;
}

#[test]
fn a_worker_whose_threads_are_all_blocked_says_so_and_others_take_its_steps_over() {
    let tests = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let handlers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    tests.block_on(async {
        let fleet = TestFleet::publish([one_task("blocks", "1m")]).await;
        let handler = blocks_once(Duration::from_secs(30), Arc::default());
        let worker = fleet.worker().lease(LEASE).handler("blocks", handler).queue("default", Slots(4));
        let worker = worker.listen("127.0.0.1:0".parse().unwrap());
        let blocked = handlers.spawn(worker.start()).await.unwrap().unwrap();
        let address = blocked.address().unwrap();
        assert_eq!(get(address, "/health/live").await.unwrap().0, 200);
        let run = fleet.start("blocks", json!({"x": 1})).await;
        let until = Instant::now() + PATIENCE;
        while get(address, "/health/live").await.unwrap().0 != 503 {
            assert!(Instant::now() < until, "the worker never said that it is blocked");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let well = fleet.worker().lease(LEASE).handler("blocks", async |_: Step, input: Value| Ok::<_, Failure>(input));
        let well = well.queue("default", Slots(4)).start().await.unwrap();
        assert_eq!(fleet.ended(run).await, ("completed".to_owned(), json!({"x": 1})));
        let outcomes: Vec<String> = fleet.attempts(run, "a").await.into_iter().map(|attempt| attempt.outcome).collect();
        assert_eq!(outcomes, ["lost", "completed"]);
        well.until(async {}).await;
        // it cannot leave well: what is left of it is its row among the workers
        drop(blocked);
        checks::assert_kept(&fleet.database.pool).await;
        fleet.database.drop().await;
    });
    handlers.shutdown_background();
}
