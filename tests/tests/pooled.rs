//! Behind a pooler in transaction mode (PgBouncer, two servers for all): a fleet keeps its promises there, also when a worker or the pooler itself is
//! killed; transactions of applications and handlers go through it; and a commit without an answer is found out about.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::str::FromStr;
use std::time::{Duration, Instant};

use longshore_core::attempt::Ending;
use longshore_core::database;
use longshore_core::payload::Payload;
use longshore_core::session::{Access, Route};
use longshore_enqueuer::{Canceled, Enqueuer, Error, NewRun};
use longshore_tests::fleet::{LEASE, chain, fan, task, with};
use longshore_tests::lane::{Answer, assert_nothing_left, dag};
use longshore_tests::pooler::Pooler;
use longshore_tests::process::{WorkerOptions, WorkerProcess};
use longshore_tests::proxy::{Cut, Proxy};
use longshore_tests::{ManualLane, TestFleet};
use longshore_worker::builtin::builtin;
use longshore_worker::{Failure, Slots, Step, Worker, WorkerBuilder};
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use uuid::Uuid;

/// Runs of each workflow of the mixed load.
const EACH: usize = 15;

/// The workflows of the mixed load.
const MIXED: [&str; 4] = ["chain", "fan", "flaky", "late"];

fn mixed() -> Vec<Value> {
    let flaky = json!({"input": {"fail": 2, "output": {"ok": true}}, "retry": {"max_attempts": 3, "initial": "10ms"}});
    vec![
        chain("chain", 8),
        fan("fan", 10),
        json!({"name": "flaky", "nodes": [task("a", "echo"), with(task("b", "flaky"), flaky.clone()), with(task("c", "flaky"), flaky),
            {"id": "d", "type": "set", "output": {"b": "{{ nodes.b.output.ok }}", "n": "{{ run.input.n }}"}}],
            "edges": [["a", "b"], ["a", "c"], ["b", "d"], ["c", "d"]]}),
        json!({"name": "late", "nodes": [task("a", "echo"), {"id": "b", "type": "delay", "duration": "300ms"},
            with(task("c", "sleep"), json!({"input": {"seconds": 0.05}}))], "edges": [["a", "b"], ["b", "c"]]}),
        json!({"name": "nap", "nodes": [task("a", "sleep")]}),
        json!({"name": "never", "nodes": [{"id": "a", "type": "delay", "duration": "1h"}, task("b", "echo")], "edges": [["a", "b"]]}),
    ]
}

fn options() -> WorkerOptions {
    WorkerOptions { pooled: true, lease: Duration::from_secs(2), ..WorkerOptions::default() }
}

/// Start the mixed load from many tasks at once, each run twice under its key.
async fn load(enqueuer: &Enqueuer, round: usize) {
    let starts = (0..EACH * MIXED.len()).flat_map(|n| [n, n]).map(|n| {
        let enqueuer = enqueuer.clone();
        tokio::spawn(async move {
            let (workflow, key) = (MIXED[n % MIXED.len()], format!("{round}/{n}"));
            enqueuer.start(workflow, &json!({"n": n})).key(key).await.unwrap().id
        })
    });
    let ids: Vec<Uuid> = futures::future::join_all(starts).await.into_iter().map(Result::unwrap).collect();
    assert!(ids.chunks(2).all(|pair| pair[0] == pair[1]), "a key is one run");
}

async fn all_completed(fleet: &TestFleet, rounds: usize) {
    let names = MIXED.map(|name| format!("'{name}'")).join(",");
    let mixed = format!(
        "from longshore.workflow_runs r join longshore.workflows w using (workflow_id) where w.name in ({names})"
    );
    fleet.until(&format!("select not exists (select {mixed} and r.state in (1, 2))")).await;
    let completed = fleet.database.number(&format!("select count(*) {mixed} and r.state = 3")).await;
    assert_eq!(completed, (rounds * EACH * MIXED.len()) as i64);
}

/// Nothing was prepared under a name, on none of the pooler's servers.
async fn assert_unnamed(pooler: &Pooler) {
    let access = Access::connect(&pooler.url(), 4, Route::Pooled).await.unwrap();
    let named = async || {
        let named: i64 = sqlx::query_scalar("select count(*) from pg_prepared_statements where name <> ''")
            .fetch_one(&access)
            .await
            .unwrap();
        named
    };
    assert_eq!(tokio::join!(named(), named(), named(), named()), (0, 0, 0, 0));
}

fn worker(pooler: &Pooler) -> WorkerBuilder {
    Worker::builder(&pooler.url()).pooled().handlers(builtin()).lease(LEASE).without_system_lane()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_behind_a_pooler_keeps_its_promises_and_loses_nothing_when_a_worker_is_killed() {
    let fleet = TestFleet::publish(mixed()).await;
    let Some(pooler) = Pooler::before(&fleet.database) else { return };
    let enqueuer = Enqueuer::connect_pooled(&pooler.url()).await.unwrap();
    let [killed, other] =
        [WorkerProcess::spawn(&pooler.url(), &options()), WorkerProcess::spawn(&pooler.url(), &options())];
    tokio::join!(killed.address(), other.address());
    load(&enqueuer, 1).await;
    let never = enqueuer.start("never", &json!({})).await.unwrap().id;
    all_completed(&fleet, 1).await;
    assert_eq!(enqueuer.cancel(never).reason("no longer wanted").await.unwrap(), Canceled::Canceled);
    let ended = enqueuer.wait(never).timeout(Duration::from_secs(60)).await.unwrap();
    assert_eq!(ended.error.unwrap().message, "no longer wanted");

    load(&enqueuer, 2).await;
    // more than one worker has slots for, and long enough for both to look
    let naps: Vec<NewRun> = (0..100).map(|n| NewRun::new("nap", &json!({"seconds": 0.3, "output": n}))).collect();
    enqueuer.start_many(&naps).await.unwrap();
    let holds = format!(
        "select exists (select from longshore.step_leases l join longshore.workers w using (worker_id) where w.pid = {})",
        killed.pid()
    );
    fleet.until(&holds).await;
    killed.kill();
    fleet.all_ended().await;
    let settled =
        "select not exists (select from longshore.closed) and not exists (select from longshore.step_delayed)";
    fleet.until(settled).await;
    other.stop().await;
    assert_unnamed(&pooler).await;
    fleet.forget_killed().await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_is_killed_twice_loses_nothing() {
    let fleet = TestFleet::publish(mixed()).await;
    let Some(mut pooler) = Pooler::before(&fleet.database) else { return };
    let enqueuer = Enqueuer::connect_pooled(&pooler.url()).await.unwrap();
    let workers = [WorkerProcess::spawn(&pooler.url(), &options()), WorkerProcess::spawn(&pooler.url(), &options())];
    for worker in &workers {
        worker.address().await;
    }
    for round in 1..=2 {
        let before = fleet.database.number("select count(*) from longshore.execution_step_attempts").await;
        let loading = {
            let enqueuer = enqueuer.clone();
            tokio::spawn(async move { load(&enqueuer, round).await })
        };
        // in the middle of starts and cycles
        fleet.until(&format!("select count(*) > {before} + 50 from longshore.execution_step_attempts")).await;
        pooler.kill();
        pooler.start_again();
        loading.await.unwrap();
    }
    all_completed(&fleet, 2).await;
    let ended = enqueuer.start("chain", &json!({})).key("last").await.unwrap().id;
    assert_eq!(fleet.ended(ended).await.0, "completed");
    for worker in workers {
        worker.stop().await;
    }
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_in_a_transaction_through_the_pooler_exists_if_and_only_if_that_commits() {
    let fleet = TestFleet::publish([chain("w", 1)]).await;
    let Some(pooler) = Pooler::before(&fleet.database) else { return };
    let pool = pooler.pool().await;
    let enqueuer = Enqueuer::new_pooled(pool.clone());
    let runs = "select count(*) from longshore.workflow_runs";
    let (mut kept, mut dropped) = (pool.begin().await.unwrap(), pool.begin().await.unwrap());
    let run = enqueuer.start("w", &json!({})).key("a").in_transaction(&mut kept).await.unwrap();
    enqueuer.start("w", &json!({})).key("b").in_transaction(&mut dropped).await.unwrap();
    assert_eq!(fleet.database.number(runs).await, 0);
    kept.commit().await.unwrap();
    dropped.rollback().await.unwrap();
    assert_eq!(fleet.database.number(runs).await, 1);
    assert_eq!(enqueuer.get(run.id).await.unwrap().unwrap().key.as_deref(), Some("a"));
    // what postgres refuses is the caller's to know, and the connection serves on
    let conflict = enqueuer.start("w", &json!({"other": true})).key("a").await.unwrap_err();
    assert!(matches!(conflict, Error::KeyConflict { .. }), "{conflict}");
    // more than one statement holds: all or none
    let many: Vec<NewRun> = (0..2500).map(|n| NewRun::new("w", &json!({ "n": n }))).collect();
    let mut tx = pool.begin().await.unwrap();
    enqueuer.start_many(&many).in_transaction(&mut tx).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(enqueuer.start_many(&many[..1500]).await.unwrap().len(), 1500);
    assert_eq!(fleet.database.number(runs).await, 1501);
    assert_unnamed(&pooler).await;
    fleet.database.drop().await;
}

#[derive(serde::Deserialize)]
struct Booking {
    amount: i64,
}

async fn book(pool: PgPool, step: Step, booking: Booking) -> Result<i64, Failure> {
    let completion = step.transaction().await?;
    let mut tx = pool.begin().await?;
    let insert = sqlx::query("insert into bookings values ($1)").bind(booking.amount).persistent(false);
    insert.execute(&mut *tx).await?;
    if booking.amount % 3 == 0 && step.attempt() == 1 {
        return Err(Failure::retryable("the bank is closed"));
    }
    completion.complete_in(tx, &(booking.amount * 2)).await?;
    Ok(booking.amount * 2)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_completes_in_a_transaction_of_its_handler_through_the_pooler() {
    let definition = json!({"name": "book", "nodes": [
        with(task("book", "book"), json!({"retry": {"max_attempts": 3, "initial": "10ms"}})), task("after", "echo")], "edges": [["book", "after"]]});
    let mut fleet = TestFleet::publish([definition]).await;
    let Some(pooler) = Pooler::before(&fleet.database) else { return };
    fleet.database.execute("create table bookings (amount bigint)").await;
    let pool = pooler.pool().await;
    let book = move |step: Step, booking: Booking| book(pool.clone(), step, booking);
    fleet.add(worker(&pooler).handler("book", book).queue("default", Slots(20))).await;
    let runs: Vec<_> = futures::future::join_all((0..30).map(|i| fleet.run("book", json!({"amount": i})))).await;
    for (amount, (state, output)) in runs.into_iter().enumerate() {
        assert_eq!((state.as_str(), output), ("completed", json!(amount * 2)));
    }
    assert_eq!(fleet.database.number("select count(*) from bookings").await, 30);
    let accepted = "select count(*) from longshore.execution_step_attempts where outcome = 1";
    assert_eq!(fleet.database.number(accepted).await, 60);
    assert_unnamed(&pooler).await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_session_goes_past_the_pooler_or_is_refused() {
    let mut fleet = TestFleet::publish([chain("w", 2)]).await;
    let Some(pooler) = Pooler::before(&fleet.database) else { return };
    let age = Duration::from_secs(86_400);
    let builder = || Worker::builder(&pooler.url()).pooled().handlers(builtin()).lease(LEASE).prune_older_than(age);
    let refused = builder().start().await.err().unwrap().to_string();
    assert!(refused.contains("give --direct-url"), "{refused}");

    fleet.add(builder().direct_url(&fleet.database.url)).await;
    fleet
        .until(
            "select exists (select from pg_stat_activity where datname = current_database() and query ilike 'listen%')",
        )
        .await;
    fleet.until("select to_regclass('apalis.jobs') is not null").await;
    assert_eq!(fleet.run("w", json!({})).await.0, "completed");

    let options = |url: &str| PgConnectOptions::from_str(url).unwrap();
    assert!(database::is_pooled(&options(&pooler.url())).await.unwrap());
    assert!(!database::is_pooled(&options(&fleet.database.url)).await.unwrap());
    fleet.finish().await;
}

fn completed() -> Ending {
    Ending::Completed(Payload::of(&json!({"ok": true})).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cycle_whose_commit_has_no_answer_happened_once_or_is_sent_again() {
    for cut in [Cut::BeforeItIsSent, Cut::BeforeItsAnswer, Cut::BeforeTheCommitIsSent, Cut::BeforeTheCommitsAnswer] {
        let fleet = TestFleet::publish([dag("w", "a b", "a>b")]).await;
        let proxy = Proxy::to(&fleet.database).await;
        let mut lane = ManualLane::new(&proxy.pool);
        lane.sender.access = Access::new(proxy.pool.clone(), Route::Pooled);
        let committed = cut == Cut::BeforeTheCommitsAnswer;
        let run = fleet.start("w", json!({})).await;
        // an opening, which is looked for and never sent again
        proxy.arm(cut);
        let opened = lane.cycle(Vec::new(), 1).await;
        assert_eq!(proxy.cuts(), 1, "{cut:?}");
        assert_eq!(matches!(opened, Answer::Recovered), committed, "{cut:?}: {opened:?}");
        assert_eq!(matches!(opened, Answer::Unclear), !committed, "{cut:?}: {opened:?}");
        if !committed {
            lane.claim(1).await;
        }
        // a pass of a baton that stands
        let a = lane.of_node("a")[0];
        proxy.arm(cut);
        let passed = lane.cycle(vec![(a, completed())], 0).await;
        assert_eq!(proxy.cuts(), 2, "{cut:?}");
        assert_eq!(matches!(passed, Answer::Recovered), committed, "{cut:?}: {passed:?}");
        assert_eq!(lane.nodes(), ["b"], "{cut:?}");
        lane.drain(json!(1)).await;
        assert_eq!(fleet.ended(run).await.0, "completed");
        assert_eq!(fleet.database.number("select count(*) from longshore.execution_step_attempts").await, 2, "{cut:?}");
        assert_nothing_left(&fleet.database).await;
        fleet.database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_given_up_leaves_no_transaction_behind() {
    let fleet = TestFleet::publish([]).await;
    let access = Access::connect(&fleet.database.url, 1, Route::Pooled).await.unwrap();
    let bound: String = sqlx::query_scalar("select current_setting('idle_in_transaction_session_timeout')")
        .fetch_one(&access)
        .await
        .unwrap();
    assert_eq!(bound, "10s", "nor does a client that stops for good");
    let mut session = access.session().await.unwrap();
    for pause in [0, 1, 2, 5, 200] {
        let slow = sqlx::query("select pg_sleep(0.05)").execute(&mut session);
        drop(tokio::time::timeout(Duration::from_millis(pause), slow).await);
        sqlx::query("select 1 / $1::int").bind(0).execute(&mut session).await.unwrap_err();
        let one: i32 = sqlx::query_scalar("select $1::int").bind(1).fetch_one(&mut session).await.unwrap();
        assert_eq!(one, 1);
        drop(session);
        session = access.session().await.unwrap();
    }
    drop(session);
    let open =
        "select not exists (select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
        and state like 'idle in transaction%')";
    let began = Instant::now();
    fleet.until(open).await;
    assert!(began.elapsed() < Duration::from_secs(5), "it was not left to the timeout");
    fleet.database.drop().await;
}
