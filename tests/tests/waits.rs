//! Waits through a real fleet: which signal wakes them, what they give, and that no signal and no wait misses the other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

use longshore_enqueuer::Error;
use longshore_tests::TestFleet;
use longshore_tests::fleet::{Gate, with};
use longshore_worker::{Failure, Slots, Step};
use serde_json::{Value, json};
use uuid::Uuid;

/// A wait with these fields.
fn wait(id: &str, fields: Value) -> Value {
    with(json!({"id": id, "type": "wait"}), fields)
}

/// A workflow of one node.
fn workflow(node: Value) -> Value {
    json!({"name": "w", "nodes": [node]})
}

async fn fleet(definition: Value) -> TestFleet {
    TestFleet::working([definition]).await
}

/// Await that so many steps of the run wait.
async fn until_waiting(fleet: &TestFleet, run: Uuid, count: usize) {
    let sql = format!(
        "select count(*) = {count} from longshore.execution_steps where run_id = '{run}' and state = 'waiting'
         and not exists (select from longshore.step_leases where run_id = '{run}')"
    );
    fleet.until(&sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_takes_the_signal_that_comes() {
    let fleet = fleet(workflow(wait("a", json!({"signal": "paid"})))).await;
    let run = fleet.start("w", json!({})).await;
    until_waiting(&fleet, run, 1).await;
    fleet.enqueuer.signal(run, "paid", &json!({"by": "card"})).await.unwrap();
    let (state, output) = fleet.ended(run).await;
    assert_eq!(
        (state.as_str(), &output["signal"], &output["payload"]),
        ("completed", &json!("paid"), &json!({"by": "card"}))
    );
    assert!(chrono::DateTime::parse_from_rfc3339(output["sent_at"].as_str().unwrap()).is_ok());
    // its attempt lasted as long as it waited
    let waited: bool = fleet
        .ask("select a.claimed_at < s.sent_at and a.finished_at >= s.sent_at from longshore.execution_step_attempts a, longshore.signals s where a.run_id = $1", run)
        .await;
    assert!(waited);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_whose_time_is_over_fails_or_takes_its_edge() {
    let fleet = fleet(workflow(wait("a", json!({"signal": "paid", "timeout": "50ms"})))).await;
    let (state, error) = fleet.run("w", json!({})).await;
    assert_eq!((state.as_str(), &error["name"], &error["kind"]), ("failed", &json!("timeout"), &json!("timeout")));
    let definition = json!({"name": "e", "nodes": [
        wait("a", json!({"signal": "paid", "timeout": "{{ run.input.ms }}ms"})),
        {"id": "late", "type": "set", "output": "{{ error.name }}"}, {"id": "broken", "type": "set", "output": "broken"}, {"id": "paid", "type": "set", "output": "paid"}],
        "edges": [{"from": "a", "to": "late", "on": "timeout"}, {"from": "a", "to": "broken", "on": "failure"}, ["a", "paid"]]});
    fleet.apply(definition).await;
    let (run, output) = fleet.complete("e", json!({"ms": 30})).await;
    assert_eq!(output, json!({"late": "timeout"}));
    assert_eq!(fleet.outcomes(run).await["skipped"], json!(["broken", "paid"]));
    // other failures do not
    let (_, output) = fleet.complete("e", json!({"ms": "no"})).await;
    assert_eq!(output, json!({"broken": "broken"}));
    let run = fleet.start("e", json!({"ms": 60_000})).await;
    fleet.enqueuer.signal(run, "paid", &json!(1)).await.unwrap();
    assert_eq!(fleet.ended(run).await.1, json!({"paid": "paid"}));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_is_sent_before_anyone_waits_is_kept_and_each_counts_once() {
    let twice = json!({"name": "w", "nodes": [
        {"id": "hold", "type": "delay", "duration": "200ms"}, wait("a", json!({"signal": "s"})), wait("b", json!({"signal": "s"}))],
        "edges": [["hold", "a"], ["a", "b"]], "output": ["{{ nodes.a.output.payload }}", "{{ nodes.b.output.payload }}"]});
    let fleet = fleet(twice).await;
    let run = fleet.start("w", json!({})).await;
    for number in [1, 2] {
        fleet.enqueuer.signal(run, "s", &number).await.unwrap();
    }
    assert_eq!(fleet.ended(run).await, ("completed".to_owned(), json!([1, 2])));
    // the second is sent when the first was taken
    let run = fleet.start("w", json!({})).await;
    let first = fleet.enqueuer.signal(run, "s", &1).key("one").await.unwrap();
    assert_eq!(fleet.enqueuer.signal(run, "s", &7).key("one").await.unwrap(), first, "the same key is the same signal");
    fleet.until(&format!("select exists (select from longshore.execution_steps where run_id = '{run}' and node = 2 and state = 'waiting')")).await;
    assert_eq!(fleet.enqueuer.signal(run, "s", &8).key("one").await.unwrap(), first, "even when it was taken");
    fleet.enqueuer.signal(run, "s", &2).await.unwrap();
    assert_eq!(fleet.ended(run).await, ("completed".to_owned(), json!([1, 2])));
    assert_eq!(fleet.enqueuer.signal(run, "s", &9).key("one").await.unwrap(), first, "and when the run has ended");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_does_not_match_stays_for_others() {
    let definition = json!({"name": "w", "nodes": [
        wait("seven", json!({"signal": "s", "match": "signal.payload.n == 7 and signal.name == 's'"})),
        wait("order", json!({"signal": "s", "match": "signal.payload.n == run.input.n"})),
        wait("bad", json!({"signal": "s", "match": "signal.payload.n < 'x' and signal.payload.list|first > 2"}))]});
    let fleet = fleet(definition).await;
    let run = fleet.start("w", json!({"n": 3})).await;
    until_waiting(&fleet, run, 3).await;
    for n in [1, 3, 7] {
        fleet.enqueuer.signal(run, "s", &json!({"n": n})).await.unwrap();
    }
    fleet
        .until(&format!("select count(*) = 2 from longshore.signals where run_id = '{run}' and taken_at is not null"))
        .await;
    fleet.enqueuer.signal(run, "s", &json!({"n": "w", "list": [3]})).await.unwrap();
    let (_, output) = fleet.ended(run).await;
    assert_eq!(
        (&output["seven"]["payload"]["n"], &output["order"]["payload"]["n"], &output["bad"]["payload"]["n"]),
        (&json!(7), &json!(3), &json!("w"))
    );
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_takes_signals_by_the_context_looks_again_when_that_changes() {
    let fleet = fleet(json!({"name": "w", "context": {"open": 0}, "nodes": [
        {"id": "hold", "type": "wait", "signal": "open"}, {"id": "change", "type": "context", "increment": {"open": 1}},
        {"id": "w", "type": "wait", "signal": "go", "match": "run.context.open == signal.payload"}],
        "edges": [["hold", "change"]], "output": "{{ nodes.w.output.payload }}"}))
    .await;
    let run = fleet.start("w", json!({})).await;
    until_waiting(&fleet, run, 2).await;
    fleet.enqueuer.signal(run, "go", &1).await.unwrap();
    fleet.until("select not exists (select from longshore.step_ready)").await;
    until_waiting(&fleet, run, 2).await;
    fleet.enqueuer.signal(run, "open", &json!({})).await.unwrap();
    assert_eq!(fleet.ended(run).await, ("completed".to_owned(), json!(1)));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_of_several_signals_is_taken() {
    let several = wait("a", json!({"signals": ["yes", "no-{{ run.input.n }}"]}));
    let fleet = fleet(workflow(several)).await;
    for before in [true, false] {
        let run = fleet.start("w", json!({"n": 5})).await;
        if !before {
            until_waiting(&fleet, run, 1).await;
        }
        for name in ["no-4", "no-5", "yes"] {
            fleet.enqueuer.signal(run, name, &json!(name)).await.unwrap();
        }
        assert_eq!(fleet.ended(run).await.1["signal"], json!("no-5"));
    }
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_breaks_the_schema_is_refused_and_the_wait_goes_on() {
    let strict = wait("a", json!({"signal": "s", "schema": {"type": "object", "required": ["ok"]}}));
    let fleet = fleet(workflow(strict)).await;
    let run = fleet.start("w", json!({})).await;
    for payload in [json!(1), json!({"no": 1}), json!({"ok": 1}), json!({"ok": 2})] {
        fleet.enqueuer.signal(run, "s", &payload).await.unwrap();
    }
    assert_eq!(fleet.ended(run).await.1["payload"], json!({"ok": 1}));
    let signals: Vec<(bool, Option<String>)> = sqlx::query_as(
        "select taken_at is not null, refused from longshore.signals where run_id = $1 order by signal_id",
    )
    .bind(run)
    .fetch_all(&fleet.database.pool)
    .await
    .unwrap();
    let refused = |at: usize| signals[at].0 && signals[at].1.as_ref().is_some_and(|why| why.starts_with("payload"));
    assert!(refused(0) && refused(1), "{signals:?}");
    assert_eq!(signals[2..], [(true, None), (false, None)]);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_is_part_of_the_callers_transaction() {
    let fleet = fleet(workflow(wait("a", json!({"signal": "s"})))).await;
    let run = fleet.start("w", json!({})).await;
    until_waiting(&fleet, run, 1).await;
    let mut tx = fleet.database.pool.begin().await.unwrap();
    fleet.enqueuer.signal(run, "s", &"never").in_transaction(&mut tx).await.unwrap();
    tx.rollback().await.unwrap();
    let mut tx = fleet.database.pool.begin().await.unwrap();
    fleet.enqueuer.signal(run, "s", &"sent").in_transaction(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(fleet.ended(run).await.1["payload"], json!("sent"));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_cannot_be_sent_says_why() {
    let fleet = fleet(workflow(json!({"id": "a", "type": "set", "output": 1}))).await;
    let (run, _) = fleet.complete("w", json!({})).await;
    let send = |run: Uuid, name: &'static str| fleet.enqueuer.signal(run, name, &Value::Null);
    assert!(matches!(send(run, "s").await, Err(Error::RunEnded { run_id }) if run_id == run));
    assert!(matches!(send(Uuid::nil(), "s").await, Err(Error::NotFound { .. })));
    assert!(matches!(send(run, "").await, Err(Error::InvalidSignal { length: 0 })));
    assert!(matches!(send(run, "s").key("").await, Err(Error::InvalidKey { length: 0 })));
    let large = "x".repeat(2_000_000);
    let refused = fleet.enqueuer.signal(run, "s", &large).await;
    assert!(matches!(refused, Err(Error::PayloadTooLarge { limit: 1_048_576, .. })), "{refused:?}");
    let codes = [
        ("select longshore.signal($1, 's')", "LS011"),
        ("select longshore.signal($1, '')", "LS012"),
        ("select longshore.signal($1, 's', '1', '')", "LS006"),
    ];
    for (sql, code) in codes {
        let error = sqlx::query(sql).bind(run).execute(&fleet.database.pool).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().unwrap(), code);
    }
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_run_that_is_canceled_while_it_waits() {
    let definition = json!({"name": "w", "nodes": [wait("a", json!({"signal": "s", "timeout": "1h"})), wait("b", json!({"signal": "t"})),
        {"id": "f", "type": "foreach", "items": [1, 2, 3], "body": {"nodes": [wait("c", json!({"signal": "u", "timeout": "1h"}))]}}]});
    let fleet = fleet(definition).await;
    let run = fleet.start("w", json!({})).await;
    until_waiting(&fleet, run, 5).await;
    fleet.enqueuer.signal(run, "other", &1).await.unwrap();
    fleet.enqueuer.cancel(run).await.unwrap();
    fleet.until("select not exists (select from longshore.closed)").await;
    assert_eq!(fleet.tries(run, "a").await, ["canceled"]);
    assert_eq!(fleet.tries(run, "c").await, ["canceled", "canceled", "canceled"]);
    let left = "select (select count(*) from longshore.step_waiting) + (select count(*) from longshore.step_delayed) + (select count(*) from longshore.step_ready)";
    assert_eq!(fleet.database.number(left).await, 0);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_waits_of_a_frame_that_ends_go_with_it() {
    let definition = json!({"name": "w", "nodes": [{"id": "p", "type": "parallel", "ends": "any", "branches": [
        {"id": "x", "nodes": [wait("a", json!({"signal": "never", "timeout": "1h"}))]},
        {"id": "y", "nodes": [wait("b", json!({"signal": "s", "timeout": "1h"}))]}]}, wait("c", json!({"signal": "never"}))], "edges": [["p", "c"]]});
    let fleet = fleet(definition).await;
    let run = fleet.start("w", json!({})).await;
    until_waiting(&fleet, run, 2).await;
    fleet.enqueuer.signal(run, "s", &1).await.unwrap();
    fleet.until("select not exists (select from longshore.closed) and exists (select from longshore.step_waiting where frame = 0 and woken_at is null)").await;
    fleet.until("select (select count(*) from longshore.step_waiting) = 1 and not exists (select from longshore.step_delayed)").await;
    assert_eq!(fleet.tries(run, "a").await, ["canceled"]);
    fleet.enqueuer.signal(run, "never", &2).await.unwrap();
    assert_eq!(fleet.ended(run).await.1["payload"], json!(2));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wait_of_a_foreach_takes_the_signal_that_is_for_it() {
    let each = json!({"id": "f", "type": "foreach", "items": "{{ run.input }}", "body": {"nodes": [
        {"id": "n", "type": "set", "output": "{{ item * 2 }}"},
        wait("a", json!({"signal": "s", "match": "signal.payload.item == frame.input and nodes.n.output == item * 2"}))],
        "edges": [["n", "a"]], "output": "{{ nodes.a.output.payload.item }}"}});
    let fleet = fleet(workflow(each)).await;
    let items: Vec<i32> = (0..40).collect();
    let run = fleet.start("w", json!(items)).await;
    for item in items.iter().rev().take(20) {
        fleet.enqueuer.signal(run, "s", &json!({"item": item})).await.unwrap();
    }
    until_waiting(&fleet, run, 20).await;
    for item in items.iter().take(20) {
        fleet.enqueuer.signal(run, "s", &json!({"item": item})).await.unwrap();
    }
    assert_eq!(fleet.ended(run).await, ("completed".to_owned(), json!(items)));
    fleet.finish().await;
}

/// Runs that announce what they wait for while it is sent from elsewhere, some of them with hardly any time.
#[tokio::test(flavor = "multi_thread")]
async fn no_signal_and_no_wait_miss_each_other() {
    const RUNS: usize = 400;
    let mut fleet = TestFleet::publish([json!({"name": "w", "nodes": [
        wait("a", json!({"signals": ["s", "t"], "timeout": "{{ run.input.ms }}ms"})),
        wait("b", json!({"signal": "s"})), {"id": "late", "type": "set", "output": "late"}],
        "edges": [["a", "b"], {"from": "a", "to": "late", "on": "timeout"}]})])
    .await;
    for _ in 0..2 {
        fleet.work(32).await;
    }
    let mut timed = Vec::new();
    let mut sending = tokio::task::JoinSet::new();
    for number in 0..RUNS {
        let bounded = number % 4 == 0;
        // about when the signal comes
        let ms = if bounded { 1 + number % 31 } else { 3_600_000 };
        let run = fleet.start("w", json!({"ms": ms})).await;
        timed.push((run, bounded));
        let enqueuer = fleet.enqueuer.clone();
        sending.spawn(async move {
            // spread over the time in which it is claimed, announced and looked for
            let spread = if bounded { 120_000 } else { 12_000 };
            tokio::time::sleep(std::time::Duration::from_micros(number as u64 * 7_919 % spread)).await;
            for (name, payload) in [(if number % 3 == 0 { "t" } else { "s" }, 1), ("s", 2)] {
                match enqueuer.signal(run, name, &payload).await {
                    Ok(_) => {}
                    Err(Error::RunEnded { .. }) if bounded => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    sending.join_all().await;
    let mut late = 0;
    for (run, bounded) in timed {
        let (state, output) = fleet.ended(run).await;
        assert_eq!(state, "completed", "{output}");
        if output.get("late").is_some() {
            assert!(bounded, "run {run} was in time");
            late += 1;
        } else {
            assert_eq!(output["b"]["payload"], json!(2), "{output}");
        }
    }
    let near = "select count(*) filter (where sent_at < since), count(*) filter (where sent_at >= since), count(*) filter (where abs(extract(epoch from sent_at - since)) < 0.003)
        from (select s.sent_at, a.claimed_at as since from longshore.signals s
              join longshore.execution_step_attempts a on a.run_id = s.run_id and a.node = s.taken_node) x";
    let (before, after, close): (i64, i64, i64) = sqlx::query_as(near).fetch_one(&fleet.database.pool).await.unwrap();
    eprintln!("{late} of {} late; signals before the wait {before}, after it {after}, within 3 ms {close}", RUNS / 4);
    // each signal was taken once: checked by the fleet's end, as is that no step ended twice
    fleet.idle().await;
    fleet.finish().await;
}

/// Many deliver jobs, signals and waits of one run at once: in the end as many waits were woken as signals were sent.
#[tokio::test(flavor = "multi_thread")]
async fn waits_of_one_run_that_want_the_same_signals_get_one_each() {
    let each = json!({"id": "f", "type": "foreach", "items": "{{ run.input }}", "body": {"nodes": [wait("a", json!({"signal": "s"}))]}});
    let mut fleet = TestFleet::publish([workflow(each)]).await;
    for _ in 0..2 {
        fleet.work(16).await;
    }
    let items: Vec<i32> = (0..60).collect();
    let run = fleet.start("w", json!(items)).await;
    let mut sending = tokio::task::JoinSet::new();
    for item in items.clone() {
        let enqueuer = fleet.enqueuer.clone();
        sending.spawn(async move { enqueuer.signal(run, "s", &item).await.unwrap() });
    }
    sending.join_all().await;
    let (state, output) = fleet.ended(run).await;
    let mut taken: Vec<i64> = output.as_array().unwrap().iter().map(|one| one["payload"].as_i64().unwrap()).collect();
    taken.sort_unstable();
    assert_eq!((state.as_str(), taken), ("completed", items.iter().map(|item| i64::from(*item)).collect()));
    fleet.until("select not exists (select from longshore.step_ready)").await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_whose_worker_dies_before_it_has_looked_is_looked_after_by_another() {
    let mut fleet = TestFleet::publish([workflow(wait("a", json!({"signal": "s"})))]).await;
    let run = fleet.start("w", json!({})).await;
    fleet.enqueuer.signal(run, "s", &1).await.unwrap();
    // nobody can read signals for a while
    let mut tx = fleet.database.pool.begin().await.unwrap();
    sqlx::query("lock table longshore.signals in access exclusive mode").execute(&mut *tx).await.unwrap();
    fleet.work(1).await;
    let announced = format!(
        "select exists (select from longshore.step_waiting where run_id = '{run}')
         and exists (select from longshore.step_leases where run_id = '{run}' and node = -8)"
    );
    fleet.until(&announced).await;
    fleet.crash_holder(run).await;
    tx.rollback().await.unwrap();
    fleet.work(1).await;
    assert_eq!(fleet.ended(run).await.1["payload"], json!(1));
    assert_eq!(fleet.tries(run, "a").await, ["completed"]);
    fleet.until("select not exists (select from longshore.lanes)").await;
    fleet.forget_killed().await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_outlive_workers_that_die_at_any_moment() {
    let mut fleet = TestFleet::publish([json!({"name": "w", "nodes": [
        wait("a", json!({"signal": "s", "timeout": "{{ run.input }}ms"})), wait("b", json!({"signal": "s"}))], "edges": [{"from": "a", "to": "b", "on": "always"}]})])
    .await;
    let quick = |fleet: &TestFleet| fleet.worker().lease(std::time::Duration::from_secs(1)).queue("default", Slots(16));
    let mut runs = Vec::new();
    for round in 0..5 {
        let worker = quick(&fleet);
        fleet.add(worker).await;
        for number in 0..30 {
            let run = fleet.start("w", json!(if number % 5 == 0 { 5 } else { 3_600_000 })).await;
            runs.push(run);
            fleet.enqueuer.signal(run, "s", &round).await.unwrap();
        }
        fleet.crash().await;
    }
    let worker = quick(&fleet);
    fleet.add(worker).await;
    for run in &runs {
        fleet.enqueuer.signal(*run, "s", &"last").await.ok();
    }
    for run in runs {
        let (state, output) = fleet.ended(run).await;
        assert_eq!(state, "completed", "{output}");
    }
    fleet.idle().await;
    fleet.until("select not exists (select from longshore.lanes)").await;
    fleet.forget_killed().await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_takes_the_answer_of_someone_who_may_give_it() {
    let approval = json!({"id": "ok", "type": "approval", "approvers": ["ann", "{{ run.input.boss }}"], "schema": {"type": "boolean"}, "timeout": "1h"});
    let fleet = fleet(workflow(approval)).await;
    let run = fleet.start("w", json!({"boss": "bob"})).await;
    let answers = [
        json!(true),
        json!({"answer": true}),
        json!({"answer": true, "by": "eve"}),
        json!({"answer": 1, "by": "ann"}),
        json!({"answer": false, "by": "bob"}),
    ];
    for answer in answers {
        fleet.enqueuer.signal(run, "approval:ok", &answer).await.unwrap();
    }
    let (state, output) = fleet.ended(run).await;
    assert_eq!((state.as_str(), &output["answer"], &output["by"]), ("completed", &json!(false), &json!("bob")));
    assert!(chrono::DateTime::parse_from_rfc3339(output["at"].as_str().unwrap()).is_ok());
    let refused: Vec<String> = sqlx::query_scalar(
        "select refused from longshore.signals where run_id = $1 and refused is not null order by signal_id",
    )
    .bind(run)
    .fetch_all(&fleet.database.pool)
    .await
    .unwrap();
    assert!(
        refused[0].contains("`answer`")
            && refused[1].contains("nobody")
            && refused[2].contains("eve")
            && refused[3].starts_with("payload.answer"),
        "{refused:?}"
    );
    // anyone, and not in time
    fleet.apply(json!({"name": "any", "nodes": [{"id": "ok", "type": "approval", "timeout": "40ms"}, {"id": "late", "type": "set", "output": "late"}],
        "edges": [{"from": "ok", "to": "late", "on": "timeout"}]})).await;
    assert_eq!(fleet.complete("any", json!({})).await.1, json!("late"));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_what_a_run_waits_for() {
    let fleet =
        fleet(workflow(wait("a", json!({"signals": ["s", "t"], "match": "signal.payload", "timeout": "1h"})))).await;
    let run = fleet.start("w", json!({})).await;
    fleet.enqueuer.signal(run, "s", &false).await.unwrap();
    until_waiting(&fleet, run, 1).await;
    fleet.until("select not exists (select from longshore.step_ready)").await;
    let mut connection = fleet.database.pool.acquire().await.unwrap();
    let answer = longshore_core::explain::explain(&mut connection, run).await.unwrap().unwrap().to_string();
    for part in [
        "0 ready, 0 delayed, 1 waiting",
        "waiting: a, attempt 1,",
        "for the signal s or t; its time is over at",
        "1 signal of that name was not for it",
    ] {
        assert!(answer.contains(part), "{part} is not in: {answer}");
    }
    drop(connection);
    fleet.enqueuer.signal(run, "t", &true).await.unwrap();
    assert_eq!(fleet.ended(run).await.0, "completed");
    fleet.finish().await;
}

/// An approval `boss` with a reminder, answered by ann.
fn reminded(reminder: Value, more: Value) -> Value {
    let mut node = json!({"id": "boss", "type": "approval", "approvers": ["{{ input.boss }}"], "schema": {"type": "string", "title": "{{ no template }}"}, "reminder": reminder});
    node.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"name": "w", "nodes": [node, {"id": "said", "type": "set", "output": "{{ input.answer }}"}, {"id": "late", "type": "set", "output": "late"}],
        "edges": [["boss", "said"], {"from": "boss", "to": "late", "on": "timeout"}]})
}

/// Await that the node has been tried so often.
async fn until_tried(fleet: &TestFleet, run: Uuid, node: &str, times: usize) {
    fleet
        .until(&format!(
            "select count(*) >= {times} from longshore.execution_step_attempts a
             join longshore.workflow_runs r using (run_id) join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node
             where a.run_id = '{run}' and n.id = '{node}' and a.attempt > 0"
        ))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_reminds_until_somebody_answers_whoever_works() {
    let definition = reminded(json!({"handler": "echo", "after": "200ms", "every": "20ms"}), json!({"timeout": "1h"}));
    let mut fleet = fleet(definition).await;
    let run = fleet.start("w", json!({"boss": "ann"})).await;
    until_waiting(&fleet, run, 1).await;
    // what is due is in the tables and nowhere else
    fleet.leave_first().await;
    let due = format!("select count(*) = 1 from longshore.step_delayed where run_id = '{run}' and node >= 0");
    fleet.until(&due).await;
    fleet.work(8).await;
    until_tried(&fleet, run, "boss.remind", 3).await;
    let forms: Value = fleet
        .ask(
            "select jsonb_agg(a.output order by a.finished_at) from longshore.execution_step_attempts a
             join longshore.workflow_runs r using (run_id) join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node
             where a.run_id = $1 and n.id = 'boss.remind' and a.outcome = 1",
            run,
        )
        .await;
    for (form, before) in forms.as_array().unwrap().iter().zip(0..) {
        let expected = json!({"approval": "boss", "signal": "approval:boss", "approvers": ["ann"], "schema": {"type": "string", "title": "{{ no template }}"},
            "input": {"boss": "ann"}, "reminded": before});
        assert_eq!(form, &expected);
    }
    assert_eq!(fleet.ask::<i16>("select state from longshore.workflow_runs where run_id = $1", run).await, 1);
    fleet.enqueuer.signal(run, "approval:boss", &json!({"answer": "{{yes", "by": "ann"})).await.unwrap();
    assert_eq!(fleet.ended(run).await.1, json!({"said": "{{yes"}));
    fleet.until("select not exists (select from longshore.closed)").await;
    let left = "select (select count(*) from longshore.step_delayed) + (select count(*) from longshore.step_ready)";
    assert_eq!(fleet.database.number(left).await, 0, "nothing reminds once there is an answer");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reminder_that_fails_or_hangs_neither_fails_an_approval_nor_delays_its_answer() {
    let gate = Gate::default();
    let policy = json!({"handler": "nag", "after": "5ms"});
    let mut fleet = TestFleet::publish([reminded(policy, json!({"timeout": "1h"}))]).await;
    let (nag, hangs) = (gate.clone(), fleet.worker().queue("default", Slots(8)));
    let hangs = hangs.handler("nag", move |step: Step, form: Value| {
        let gate = nag.clone();
        async move {
            if form["reminded"] == 0 { Err(Failure::permanent("no mail today")) } else { gate.pass(step, form).await }
        }
    });
    fleet.add(hangs).await;
    let run = fleet.start("w", json!({"boss": "ann"})).await;
    gate.entered(1).await;
    assert_eq!(fleet.tries(run, "boss.remind").await, ["completed"], "with its error");
    fleet.enqueuer.signal(run, "approval:boss", &json!({"answer": "{{", "by": "ann"})).await.unwrap();
    assert_eq!(fleet.ended(run).await.1, json!({"said": "{{"}));
    // who is at it is told
    gate.told(1).await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_reminds_so_often_and_waits_on_until_its_time_is_over() {
    let policy = json!({"handler": "echo", "after": "5ms", "times": 2});
    let fleet = fleet(reminded(policy, json!({"timeout": "{{ input.ms }}ms"}))).await;
    let run = fleet.start("w", json!({"boss": "ann", "ms": 60_000})).await;
    until_tried(&fleet, run, "boss.reminders", 1).await;
    assert_eq!(fleet.tries(run, "boss.reminders").await, ["completed"]);
    until_waiting(&fleet, run, 1).await;
    fleet.enqueuer.cancel(run).await.unwrap();
    assert_eq!(fleet.complete("w", json!({"boss": "ann", "ms": 30})).await.1, json!({"late": "late"}));
    let (_, error) = fleet.run("w", json!({"boss": "ann", "ms": "no"})).await;
    assert_eq!(error["name"], "wait_invalid");
    fleet.finish().await;
}
