//! The test bench: mocks, time that is skipped, signals at their moment, and what a case went through.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::{Duration, Instant};

use longshore_core::definition::Definition;
use longshore_core::state::{Outcome, RunState};
use longshore_tests::{TestDatabase, TestFleet};
use longshore_worker::testing::{Answer, Case, Error, TestBench, Tested, Went};
use longshore_worker::{Failure, Step};
use serde_json::{Value, json};

async fn bench(definitions: impl IntoIterator<Item = Value>) -> (TestDatabase, TestBench) {
    let database = TestDatabase::new().await;
    let mut bench = TestBench::connect(&database.url).await.unwrap();
    for definition in definitions {
        bench.apply(&Definition::from_json(&definition).unwrap_or_else(|problems| panic!("{problems}"))).unwrap();
    }
    (database, bench)
}

fn order() -> Value {
    json!({"name": "order", "nodes": [
        {"id": "charge", "type": "task", "handler": "charge", "retry": {"max_attempts": 4, "initial": "1h", "max": "30d", "factor": 24}},
        {"id": "ship", "type": "task", "handler": "ship", "queue": "warehouse", "input": {"receipt": "{{ nodes.charge.output.receipt }}"}},
        {"id": "refund", "type": "task", "handler": "refund"},
        {"id": "mail", "type": "task", "handler": "mail"}],
      "edges": [{"from": "charge", "to": "ship"}, {"from": "charge", "to": "refund", "on": "failure"},
        {"from": "ship", "to": "mail"}, {"from": "refund", "to": "mail", "when": "nodes.refund.output.tell"}]})
}

fn words(outcomes: Option<&Vec<Outcome>>) -> Vec<&'static str> {
    outcomes.unwrap().iter().map(|outcome| outcome.as_str()).collect()
}

fn no_complaints(tested: &Tested) {
    assert_eq!(tested.complaints, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn mocks_answer_call_by_call_and_backoffs_of_hours_take_no_time() {
    let (database, mut bench) = bench([order()]).await;
    let began = Instant::now();
    let case = Case::new("order", &json!({"order": 7}))
        .mock(
            "charge",
            [
                Answer::retryable("busy", "later"),
                Answer::retryable("busy", "later"),
                Answer::output(json!({"receipt": "C-7"})),
            ],
        )
        .mock("handler:ship", [Answer::output(json!("P-7")).given(json!({"receipt": "C-7"}))])
        .mock("mail", [Answer::output(json!("sent"))]);
    let tested = bench.run(&case).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "two backoffs of an hour and a day took {:?}", began.elapsed());
    no_complaints(&tested);
    assert_eq!((tested.state, tested.output), (RunState::Completed, Some(json!("sent"))));
    assert_eq!(tested.path, ["charge", "ship", "mail"]);
    assert_eq!(words(tested.outcomes.get("charge")), ["failed", "failed", "completed"]);
    assert_eq!(tested.coverage.covered(), 3 + 2, "three nodes ran, two edges were taken");
    assert_eq!(tested.coverage.total(), 4 + 4);

    // the next case begins anew, in the same database
    let case = Case::new("order", &json!({"tell": false}))
        .mock("charge", [Answer::permanent("declined", "no")])
        .mock("refund", [Answer::output(json!({"tell": false}))]);
    let other = bench.run(&case).await.unwrap();
    no_complaints(&other);
    assert_eq!((other.state, other.attempts("charge")), (RunState::Completed, 1));
    assert_eq!(other.skipped(), ["mail", "ship"]);
    let mut coverage = tested.coverage.clone();
    coverage.add(&other.coverage);
    assert!(coverage.nodes.iter().all(|node| node.went == Went::Run));
    let open: Vec<_> =
        coverage.edges.iter().filter(|edge| !edge.taken).map(|edge| (edge.from.as_str(), edge.not_taken)).collect();
    assert_eq!(open, [("refund", true)]);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_mock_and_an_input_that_is_not_expected_are_complained_of() {
    let (database, mut bench) = bench([order()]).await;
    let case = Case::new("order", &json!({}))
        .mock("charge", [Answer::output(json!({"receipt": 1})).given(json!({"order": 7}))]);
    let tested = bench.run(&case).await.unwrap();
    let expected = [
        "call 1 of mock `charge`: input.order: expected 7, came nothing",
        "node `refund` has no mock, and handler `refund` is not registered",
    ];
    assert_eq!(tested.complaints, expected);
    assert_eq!(tested.state, RunState::Failed);
    assert_eq!(tested.error.unwrap().name, "mock_missing");
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_handler_runs_where_no_mock_is() {
    let (database, mut bench) = bench([order()]).await;
    bench.handler("charge", async |_: Step, input: Value| Ok::<_, Failure>(json!({"receipt": input["order"]})));
    bench.handler("mail", async |_: Step, input: Value| Ok::<_, Failure>(input));
    let case = Case::new("order", &json!({"order": 9}))
        .mock("ship", [Answer::output(json!("P")).given(json!({"receipt": 9.0}))]);
    let tested = bench.run(&case).await.unwrap();
    no_complaints(&tested);
    assert_eq!(tested.output, Some(json!({"ship": "P"})), "what a join is given");
    database.drop().await;
}

/// A month's wait for a payment, with reminders, beside a delay: what is due first comes first.
fn dunning() -> Value {
    json!({"name": "dunning", "context": {"log": []}, "nodes": [
        {"id": "ask", "type": "task", "handler": "ask"},
        {"id": "paid", "type": "wait", "signal": "paid", "match": "signal.payload.order == run.input.order", "timeout": "30d"},
        {"id": "late", "type": "context", "append": {"log": "late"}},
        {"id": "thanks", "type": "context", "append": {"log": "thanks"}},
        {"id": "first", "type": "delay", "duration": "20d"},
        {"id": "one", "type": "context", "append": {"log": "one"}},
        {"id": "second", "type": "delay", "duration": "20d"},
        {"id": "two", "type": "context", "append": {"log": "two"}}],
      "edges": [["ask", "paid"], {"from": "paid", "to": "late", "on": "timeout"}, ["paid", "thanks"],
        ["ask", "first"], ["first", "one"], ["one", "second"], ["second", "two"]],
      "output": "{{ run.context.log }}"})
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_come_in_the_order_of_their_times_and_signals_before_any_time_passes() {
    let (database, mut bench) = bench([dunning()]).await;
    let case = |case: Case| case.mock("ask", [Answer::output(json!({}))]);
    let tested = bench.run(&case(Case::new("dunning", &json!({"order": 7})))).await.unwrap();
    no_complaints(&tested);
    assert_eq!(tested.output, Some(json!(["one", "late", "two"])), "after 20, 30 and 40 days");
    assert_eq!(tested.context, Some(json!({"log": ["one", "late", "two"]})));

    let paid = json!({"order": 7});
    let tested = bench.run(&case(Case::new("dunning", &paid).signal_after("one", "paid", &paid))).await.unwrap();
    no_complaints(&tested);
    assert_eq!(tested.output, Some(json!(["one", "thanks", "two"])));

    let early = Case::new("dunning", &paid).signal("paid", &json!({"order": 6})).signal("paid", &paid);
    let tested = bench.run(&case(early)).await.unwrap();
    assert_eq!(tested.output, Some(json!(["thanks", "one", "two"])), "kept until the wait");

    let tested = bench.run(&case(Case::new("dunning", &paid).signal_after("thanks", "more", &paid))).await.unwrap();
    assert_eq!(tested.complaints, ["signal `more` after `thanks` was never sent: the run ended before"]);
    let left = "select (select count(*) from longshore.lanes) + (select count(*) from longshore.workers)
        + (select count(*) from longshore.workflow_runs where state < 3)";
    assert_eq!(database.number(left).await, 0);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_waits_for_what_never_comes_is_stuck_at_once() {
    let waits = json!({"name": "waits", "nodes": [{"id": "boss", "type": "approval", "approvers": ["ann"]}]});
    let calls = json!({"name": "calls", "nodes": [{"id": "call", "type": "subflow", "workflow": "waits"}]});
    let (database, mut bench) = bench([waits, calls]).await;
    let began = Instant::now();
    let tested = bench.run(&Case::new("calls", &json!({}))).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(20));
    let expected = ["stuck: call waits for a run of waits; boss waits for the signal approval:boss"];
    assert_eq!(tested.complaints, expected);
    assert_eq!(tested.state, RunState::Canceled);

    let eve = json!({"answer": true, "by": "eve"});
    let tested = bench.run(&Case::new("waits", &json!({})).signal("approval:boss", &eve)).await.unwrap();
    assert_eq!(tested.complaints, ["stuck: boss waits for the signal approval:boss"], "a refused answer is taken");

    let parks = json!({"name": "parks", "nodes": [{"id": "t", "type": "task", "handler": "t", "retry": {"max_attempts": 2, "give_up": "pause"}}]});
    bench.apply(&Definition::from_json(&parks).unwrap()).unwrap();
    let case = Case::new("parks", &json!({})).mock("t", [Answer::retryable("busy", "later")]);
    let tested = bench.run(&case).await.unwrap();
    assert_eq!(tested.complaints, ["stuck: parks is paused and waits to be resumed"]);
    assert_eq!(tested.attempts("t"), 2);
    database.drop().await;
}

fn shop() -> [Value; 2] {
    let pack = json!({"name": "pack", "nodes": [
        {"id": "box", "type": "task", "handler": "box", "input": {"item": "{{ run.input.item }}"}}]});
    let shop = json!({"name": "shop", "nodes": [
        {"id": "each", "type": "foreach", "items": "{{ run.input.items }}", "body": {"nodes": [
            {"id": "try", "type": "try", "body": {"nodes": [{"id": "call", "type": "subflow", "workflow": "pack", "input": {"item": "{{ item }}"}}]},
             "catch": [{"on": ["no_stock"], "body": {"nodes": [{"id": "none", "type": "set", "output": "none"}]}},
                       {"body": {"nodes": [{"id": "odd", "type": "fail", "name": "odd", "message": "{{ error.name }}"}]}}]},
            {"id": "many", "type": "set", "output": "{{ input }}!"},
            {"id": "end", "type": "set", "output": "{{ nodes.many.output or nodes.try.output }}"}],
          "edges": [{"from": "try", "to": "many", "when": "index > 0 and nodes.try.output != 'none'"},
            {"from": "try", "to": "end", "when": "item != 'cup' or index == 0"}, ["many", "end"]],
          "output": "{{ nodes.end.output }}"}}]});
    [pack, shop]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_run_is_real_or_a_mock_and_blocks_are_covered_by_what_ran_in_them() {
    let (database, mut bench) = bench(shop()).await;
    let case = Case::new("shop", &json!({"items": ["cup", "moon", "hat"]}));
    let boxes = [Answer::output(json!("a")), Answer::permanent("no_stock", "there is one"), Answer::output(json!("c"))];
    let real = bench.run(&case.clone().mock("pack/box", boxes.clone())).await.unwrap();
    no_complaints(&real);
    assert_eq!(real.output, Some(json!(["a", "none", "c!"])));
    let mocked = bench.run(&case.clone().mock("call", boxes)).await.unwrap();
    no_complaints(&mocked);
    assert_eq!(mocked.output, real.output);
    assert_eq!(mocked.coverage, real.coverage);
    assert_eq!(mocked.attempts("call"), 3);
    let bodies: Vec<_> = real.coverage.bodies.iter().map(|body| (body.body.as_str(), body.run)).collect();
    assert_eq!(bodies, [("each.body", true), ("try.body", true), ("try.catch[0]", true), ("try.catch[1]", false)]);
    let edges: Vec<_> = real.coverage.edges.iter().map(|edge| (edge.to.as_str(), edge.taken, edge.not_taken)).collect();
    assert_eq!(edges, [("many", true, true), ("end", true, false), ("end", true, true)]);
    let never: Vec<_> =
        real.coverage.nodes.iter().filter(|node| node.went == Went::Never).map(|node| node.node.as_str()).collect();
    assert_eq!(never, ["odd"]);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_a_block_is_skipped_in_each_of_its_attempts() {
    let slow = json!({"name": "slow", "nodes": [
        {"id": "try", "type": "try", "timeout": "12h", "retry": {"max_attempts": 3, "initial": "1d"},
         "body": {"nodes": [{"id": "ask", "type": "task", "handler": "ask"}, {"id": "sleep", "type": "delay", "duration": "{{ input.hours }}h"}],
                  "edges": [["ask", "sleep"]]},
         "finally": {"nodes": [{"id": "log", "type": "set", "output": 1}]}}]});
    let (database, mut bench) = bench([slow]).await;
    let hours = |hours: &[u32]| hours.iter().map(|hours| Answer::output(json!({"hours": hours}))).collect::<Vec<_>>();
    let tested = bench.run(&Case::new("slow", &json!({})).mock("ask", hours(&[13, 14, 11]))).await.unwrap();
    no_complaints(&tested);
    assert_eq!((tested.state, tested.output.clone()), (RunState::Completed, Some(json!({"hours": 11}))));
    assert_eq!(words(tested.outcomes.get("try")), ["failed", "failed", "completed"]);
    let tested = bench.run(&Case::new("slow", &json!({})).mock("ask", hours(&[13]))).await.unwrap();
    assert_eq!((tested.state, tested.error.unwrap().name), (RunState::Failed, "timeout".to_owned()));
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_case_has_a_bound_and_leaves_nothing_that_goes_on() {
    let child = json!({"name": "child", "nodes": [{"id": "month", "type": "delay", "duration": "30d"}, {"id": "go", "type": "wait", "signal": "go"}],
        "edges": [["month", "go"]]});
    let parent = json!({"name": "parent", "nodes": [
        {"id": "start", "type": "subflow", "workflow": "child", "mode": "detached"}, {"id": "hang", "type": "task", "handler": "hang"}],
      "edges": [["start", "hang"]]});
    let (database, mut bench) = bench([child, parent]).await;
    bench.handler("hang", async |step: Step, _: Value| {
        step.cancellation().cancelled().await;
        Err::<Value, _>(Failure::canceled("told to stop"))
    });
    let case = Case::new("parent", &json!({})).bound(Duration::from_millis(300));
    let tested = bench.run(&case).await.unwrap();
    assert_eq!(tested.complaints, ["it has not ended within 300ms of real time"]);
    assert_eq!(tested.state, RunState::Canceled);
    let tested =
        bench.run(&case.mock("hang", [Answer::output(json!(1))]).bound(Duration::from_secs(30))).await.unwrap();
    no_complaints(&tested);
    let left = "select (select count(*) from longshore.workflow_runs where state < 3) + (select count(*) from longshore.lanes)";
    assert_eq!(database.number(left).await, 0, "the child runs are canceled");
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_where_others_work_is_refused_and_so_is_what_was_not_applied() {
    let mut fleet = TestFleet::publish([order()]).await;
    let waiting = fleet.start("order", json!({})).await;
    let refused = TestBench::connect(&fleet.database.url).await.unwrap_err();
    assert!(matches!(refused, Error::LiveRuns { count: 1 }), "{refused}");
    fleet.enqueuer.cancel(waiting).await.unwrap();
    let mut bench = TestBench::connect(&fleet.database.url).await.unwrap();
    assert!(matches!(bench.run(&Case::new("order", &json!({}))).await.unwrap_err(), Error::NotApplied { .. }));
    fleet.work(1).await;
    assert!(matches!(bench.run(&Case::new("order", &json!({}))).await.unwrap_err(), Error::LiveWorker { .. }));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reminders_and_edges_on_timeout_are_tested_like_anything_else() {
    let definition = json!({"name": "w", "nodes": [
        {"id": "boss", "type": "approval", "timeout": "10d", "reminder": {"handler": "mail", "after": "3d", "every": "2d"}},
        {"id": "call", "type": "subflow", "workflow": "elsewhere", "timeout": "1h"},
        {"id": "late", "type": "set", "output": "{{ error.name }}"}, {"id": "called", "type": "set", "output": "called"}],
      "edges": [["boss", "call"], {"from": "boss", "to": "late", "on": "timeout"},
        {"from": "call", "to": "called"}, {"from": "call", "to": "called", "on": "timeout"}]});
    let (database, mut bench) = bench([definition]).await;
    let mail = [Answer::permanent("no_mail", ""), Answer::output(json!(null))];
    let case = Case::new("w", &json!({})).mock("handler:mail", mail).mock("call", [Answer::timeout()]);
    let tested = bench.run(&case).await.unwrap();
    no_complaints(&tested);
    assert_eq!(tested.output, Some(json!({"late": "timeout"})), "nobody answered");
    assert_eq!(tested.attempts("boss.remind"), 4, "after 3, 5, 7 and 9 days");
    let tested = bench.run(&case.signal("approval:boss", &json!({"answer": 1}))).await.unwrap();
    no_complaints(&tested);
    assert_eq!((tested.output, tested.path.last().unwrap().as_str()), (Some(json!({"called": "called"})), "called"));
    let taken: Vec<_> =
        tested.coverage.edges.iter().filter(|edge| edge.from == "call").map(|edge| (edge.on, edge.taken)).collect();
    assert_eq!(taken, [("success", false), ("timeout", true)]);
    database.drop().await;
}
