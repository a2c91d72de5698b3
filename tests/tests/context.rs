//! A run's context through a real fleet: what changes it, what reads it, what waits for it, and what may be asked of a run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

use longshore_enqueuer::Error;
use longshore_tests::TestFleet;
use longshore_tests::fleet::with;
use longshore_worker::{Failure, Slots, Step};
use serde_json::{Value, json};
use uuid::Uuid;

async fn fleet(definition: Value) -> TestFleet {
    let mut fleet = TestFleet::publish([definition]).await;
    let worker = fleet.worker().queue("default", Slots(8));
    fleet.add(worker.handler("pay", pay).handler("private", private).handler("once", once)).await;
    fleet
}

/// Adds its input to what was paid.
async fn pay(step: Step, amount: i64) -> Result<i64, Failure> {
    step.context().increment("paid", amount)?;
    step.context().append("by.amounts", &amount)?;
    Ok(amount)
}

/// Changes the context at each try, and fails at the first.
async fn once(step: Step, _: Value) -> Result<(), Failure> {
    step.context().append("tries", &step.attempt())?;
    if step.attempt() == 1 { Err(Failure::retryable("not yet")) } else { Ok(()) }
}

/// Changes the context and completes in a transaction of its own, which cannot be.
async fn private(step: Step, url: String) -> Result<(), Failure> {
    step.context().set("a", &1)?;
    let completion = step.transaction().await?;
    let pool = sqlx::PgPool::connect(&url).await.map_err(Failure::permanent)?;
    completion.complete_in(pool.begin().await.map_err(Failure::permanent)?, &()).await
}

/// Number, reason and node of each snapshot, and the context.
async fn snapshots(fleet: &TestFleet, run: Uuid) -> Vec<(i32, i16, Option<i32>, Value)> {
    sqlx::query_as(
        "select n, reason, node, context from longshore.execution_context_snapshots where run_id = $1 order by n",
    )
    .bind(run)
    .fetch_all(&fleet.database.pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_change_the_context_and_expressions_read_it() {
    let definition = json!({"name": "w", "context": {"paid": 1, "old": true}, "nodes": [
        {"id": "before", "type": "set", "output": "{{ run.context.paid }}"},
        {"id": "a", "type": "context", "input": {"n": 4}, "set": {"who.name": "{{ run.input.who }}"}, "append": {"log": "{{ run.context.paid }}"},
            "increment": {"paid": "{{ input.n }}"}, "merge": {"old": null, "who": {"age": 1.50}}},
        {"id": "b", "type": "context", "append": {"log": "{{ run.context.paid }}"}},
        {"id": "c", "type": "if", "when": "run.context.log|length == 2", "then": {"nodes": [{"id": "yes", "type": "set", "output": "yes"}]}}],
        "edges": [["before", "a"], ["a", "b"], ["b", "c"]], "output": {"before": "{{ nodes.before.output }}", "a": "{{ nodes.a.output }}", "c": "{{ nodes.c.output }}", "context": "{{ run.context }}"}});
    let fleet = fleet(definition).await;
    let (run, output) = fleet.complete("w", json!({"who": "ann"})).await;
    let last = json!({"paid": 5, "who": {"name": "ann", "age": 1.50}, "log": [1, 5]});
    assert_eq!(output, json!({"before": 1, "a": {"n": 4}, "c": "yes", "context": last}));
    let kept = snapshots(&fleet, run).await;
    let of = |at: usize| (kept[at].0, kept[at].1, kept[at].2);
    assert_eq!(
        (0..kept.len()).map(of).collect::<Vec<_>>(),
        [(0, 1, None), (1, 2, Some(1)), (2, 2, Some(2)), (3, 3, None)]
    );
    assert_eq!((&kept[0].3, &kept[2].3, &kept[3].3), (&json!({"paid": 1, "old": true}), &last, &last));
    let shown = longshore_core::context::snapshots(&fleet.database.pool, run, Some(1), 1).await.unwrap();
    assert_eq!(
        shown.iter().map(|one| (one.n, one.reason.as_str(), one.node.as_deref())).collect::<Vec<_>>(),
        [(1, "step", Some("a")), (0, "init", None)]
    );
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_changes_the_context_with_its_completion_and_not_with_a_failure() {
    let definition = json!({"name": "w", "context": {}, "nodes": [
        {"id": "t", "type": "task", "handler": "once", "retry": {"initial": "1ms"}},
        {"id": "p", "type": "task", "handler": "pay", "input": 3}], "edges": [["t", "p"]], "output": "{{ run.context }}"});
    let fleet = fleet(definition).await;
    let (run, output) = fleet.complete("w", json!({})).await;
    assert_eq!(output, json!({"tries": [2], "paid": 3, "by": {"amounts": [3]}}));
    assert_eq!(snapshots(&fleet, run).await.len(), 4);
    // a definition that says nothing of a context has none
    let undeclared = json!({"name": "u", "nodes": [{"id": "p", "type": "task", "handler": "pay", "input": 3}]});
    fleet.apply(undeclared).await;
    let (_, error) = fleet.run("u", json!({})).await;
    assert_eq!(error["name"], "context_invalid");
    let private = json!({"name": "p", "context": {}, "nodes": [{"id": "p", "type": "task", "handler": "private", "input": fleet.database.url}]});
    fleet.apply(private).await;
    let (_, error) = fleet.run("p", json!({})).await;
    assert_eq!(error["name"], "context_invalid");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_many_steps_change_at_once_is_all_there() {
    let definition = json!({"name": "w", "context": {"paid": 0}, "nodes": [
        {"id": "each", "type": "foreach", "items": "{{ run.input }}", "concurrency": 64, "body": {"nodes": [{"id": "p", "type": "task", "handler": "pay", "input": "{{ item }}"}]}}],
        "output": "{{ run.context }}"});
    let mut fleet = fleet(definition).await;
    let worker = fleet.worker().queue("default", Slots(8));
    fleet.add(worker.handler("pay", pay)).await;
    let items: Vec<i64> = (0..100).collect();
    let mut runs = Vec::new();
    for _ in 0..5 {
        runs.push(fleet.start("w", json!(items)).await);
    }
    for run in runs {
        let (_, output) = fleet.ended(run).await;
        let mut amounts: Vec<i64> = serde_json::from_value(output["by"]["amounts"].clone()).unwrap();
        amounts.sort_unstable();
        assert_eq!((&output["paid"], amounts), (&json!(4950), items.clone()));
        let numbers: Vec<i32> = snapshots(&fleet, run).await.iter().map(|one| one.0).collect();
        assert_eq!(numbers, (0..=101).collect::<Vec<_>>(), "init, a hundred changes and the end");
    }
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_does_not_fit_fails_its_step_and_no_other() {
    let one = |change: Value| with(json!({"id": "a", "type": "context", "on_error": "continue"}), change);
    let fleet = fleet(json!({"name": "good", "nodes": [{"id": "a", "type": "context", "set": {"n": "{{ run.input }}"}}], "output": "{{ run.context.n }}"})).await;
    let cases = [
        ("append", json!({"append": {"text": 1}}), "context_invalid"),
        ("increment", json!({"increment": {"text": 1}}), "context_invalid"),
        ("by-text", json!({"increment": {"n": "{{ 'x' }}"}}), "context_invalid"),
        ("through", json!({"set": {"text.a": 1}}), "context_invalid"),
        ("list", json!({"set": {"list.0.a": 1}}), "context_invalid"),
        ("whole", json!({"merge": "{{ 'x' }}"}), "context_invalid"),
        ("large", json!({"set": {"n": "{{ run.input.large }}"}}), "context_too_large"),
    ];
    let mut runs = Vec::new();
    for (name, change, _) in &cases {
        fleet.apply(json!({"name": name, "context": {"text": "t", "list": [1]}, "nodes": [one(change.clone())]})).await;
    }
    let large = "x".repeat(900_000);
    for (name, _, _) in &cases {
        let input = if *name == "large" { json!({"large": [large]}) } else { json!({}) };
        if *name == "large" {
            fleet.apply(json!({"name": name, "context": {"there": "x".repeat(200_000)}, "nodes": [one(cases[6].1.clone())]})).await;
        }
        runs.push((fleet.start(name, input).await, fleet.start("good", json!(7)).await));
    }
    for ((bad, good), (name, _, error)) in runs.into_iter().zip(&cases) {
        let (state, output) = fleet.ended(bad).await;
        assert_eq!((state.as_str(), &output["name"]), ("completed", &json!(error)), "{name}: {output}");
        assert_eq!(fleet.ended(good).await.1, 7);
        assert!(snapshots(&fleet, bad).await.is_empty(), "{name}: nothing was changed");
    }
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_milestone_goes_on_when_the_context_says_so() {
    let definition = json!({"name": "w", "context": {"paid": 0}, "nodes": [
        {"id": "all", "type": "milestone", "when": "run.context.paid >= 3", "input": "reached"},
        {"id": "late", "type": "milestone", "when": "run.context.paid > 100", "timeout": "{{ run.input.ms }}ms"},
        {"id": "over", "type": "set", "output": "{{ error.name }}"},
        {"id": "each", "type": "foreach", "items": [1, 1, 1], "body": {"nodes": [
            {"id": "pause", "type": "delay", "duration": "{{ index * 30 }}ms"}, {"id": "p", "type": "context", "increment": {"paid": "{{ item }}"}}], "edges": [["pause", "p"]]}}],
        "edges": [{"from": "late", "to": "over", "on": "timeout"}]});
    let fleet = fleet(definition).await;
    let (run, output) = fleet.complete("w", json!({"ms": 200})).await;
    assert_eq!((&output["all"], &output["over"]), (&json!("reached"), &json!("timeout")));
    let reached: bool = fleet
        .ask(
            "select a.finished_at >= s.at from longshore.execution_step_attempts a, longshore.execution_context_snapshots s
             where a.run_id = $1 and a.node = 0 and a.frame = 0 and s.run_id = a.run_id and s.n = 3",
            run,
        )
        .await;
    assert!(reached);
    let run = fleet.start("w", json!({"ms": 600_000})).await;
    fleet
        .until(&format!(
            "select count(*) = 3 from longshore.execution_context_snapshots where run_id = '{run}' and reason = 2"
        ))
        .await;
    fleet
        .until(&format!(
            "select count(*) = 1 from longshore.execution_steps where run_id = '{run}' and state = 'waiting'"
        ))
        .await;
    let mut connection = fleet.database.pool.acquire().await.unwrap();
    let told = longshore_core::explain::explain(&mut connection, run).await.unwrap().unwrap().to_string();
    assert!(told.contains("late") && told.contains("for the run's context to be as it asks"), "{told}");
    drop(connection);
    fleet.enqueuer.cancel(run).await.unwrap();
    fleet.finish().await;
}

/// The change is committed before, while and after the wait is announced; nobody misses the other.
#[tokio::test(flavor = "multi_thread")]
async fn no_milestone_misses_a_change() {
    let definition = json!({"name": "w", "context": {"n": 0}, "nodes": [
        {"id": "m", "type": "milestone", "when": "run.context.n == 2"}, {"id": "a", "type": "context", "increment": {"n": 1}},
        {"id": "t", "type": "task", "handler": "echo"}, {"id": "b", "type": "context", "increment": {"n": 1}}], "edges": [["t", "b"]]});
    let mut fleet = fleet(definition).await;
    fleet.work(8).await;
    let mut runs = Vec::new();
    for _ in 0..400 {
        runs.push(fleet.start("w", json!({})).await);
    }
    for run in runs {
        assert_eq!(fleet.ended(run).await.0, "completed");
    }
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_answers_what_its_definition_lets_one_ask() {
    let definition = json!({"name": "w", "context": {"paid": 0},
        "queries": {"paid": "run.context.paid", "where": "[run.state, nodes.a.state, nodes.wait.state, nodes.after.state]", "first": "nodes.a.output.x or run.input.default",
            "broken": "run.input + 1"},
        "nodes": [{"id": "a", "type": "set", "output": {"x": "{{ run.input.x }}"}}, {"id": "c", "type": "context", "increment": {"paid": 2}},
            {"id": "wait", "type": "wait", "signal": "go"}, {"id": "after", "type": "set", "output": 1}],
        "edges": [["a", "c"], ["c", "wait"], ["wait", "after"]]});
    let fleet = fleet(definition).await;
    let run = fleet.start("w", json!({"default": "d"})).await;
    fleet
        .until(&format!(
            "select exists (select from longshore.execution_steps where run_id = '{run}' and state = 'waiting')"
        ))
        .await;
    let ask = |name: &'static str| fleet.enqueuer.query::<Value>(run, name);
    assert_eq!(ask("paid").await.unwrap(), 2);
    assert_eq!(ask("first").await.unwrap(), "d");
    assert_eq!(ask("where").await.unwrap(), json!(["running", "completed", "waiting", null]));
    assert!(
        matches!(ask("nothing").await, Err(Error::UnknownQuery { known, .. }) if known == "broken, first, paid, where")
    );
    assert!(matches!(ask("broken").await, Err(Error::QueryFailed { .. })));
    assert!(matches!(fleet.enqueuer.query::<Value>(Uuid::nil(), "paid").await, Err(Error::NotFound { .. })));
    fleet.enqueuer.signal(run, "go", &Value::Null).await.unwrap();
    fleet.ended(run).await;
    assert_eq!(ask("where").await.unwrap(), json!(["completed", "completed", "completed", "completed"]));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_is_a_path_is_answered_in_sql_as_the_library_answers_it() {
    let paths = [
        "run.state",
        "run.input",
        "run.input.list[1]",
        "run.input.list[9]",
        "run.input['odd key'].x",
        "run.input[\"odd key\"]",
        "run.input.text.length",
        "run.input.no.where",
        "run.context",
        " run.context.paid ",
        "run.context.seen[0]",
        "nodes.a.output",
        "nodes.a.output.x",
        "nodes.a.error",
        "nodes.a.state",
        "nodes.bad.error.name",
        "nodes.bad.output",
        "nodes['wait-for'].state",
        "nodes.after.state",
        "nodes.after.output.x",
        "nodes.block.output.y[0]",
    ];
    let queries: serde_json::Map<String, Value> =
        paths.iter().zip(0..).map(|(path, n)| (format!("q{n}"), json!(path))).collect();
    let failing = json!({"id": "bad", "type": "task", "handler": "flaky", "input": {"fail": 9, "permanent": true, "name": "declined"}});
    let definition = json!({"name": "w", "context": {"paid": 0}, "queries": queries,
        "nodes": [{"id": "a", "type": "set", "output": {"x": [1, null]}}, {"id": "c", "type": "context", "increment": {"paid": 2}, "append": {"seen": "yes"}}, failing,
            {"id": "block", "type": "if", "when": "true", "then": {"nodes": [{"id": "inner", "type": "set", "output": {"y": [4]}}]}},
            {"id": "wait-for", "type": "wait", "signal": "go"}, {"id": "after", "type": "set", "output": 1}],
        "edges": [["a", "c"], ["c", "block"], ["block", "bad"], {"from": "bad", "to": "wait-for", "on": "failure"}, ["wait-for", "after"]]});
    let fleet = fleet(definition).await;
    fleet.apply(json!({"name": "other", "queries": {"sum": "run.input.x + 1"}, "nodes": [{"id": "a", "type": "set", "output": 1}]})).await;
    let run = fleet.start("w", json!({"list": [5, {"z": 6}], "odd key": {"x": 7}, "text": "t"})).await;
    let in_sql = async |run: Uuid, name: &str| -> Result<Value, sqlx::Error> {
        sqlx::query_scalar("select longshore.query($1, $2)").bind(run).bind(name).fetch_one(&fleet.database.pool).await
    };
    for moment in ["waiting", "ended"] {
        if moment == "waiting" {
            fleet
                .until(&format!(
                    "select exists (select from longshore.execution_steps where run_id = '{run}' and state = 'waiting')"
                ))
                .await;
        } else {
            fleet.enqueuer.signal(run, "go", &Value::Null).await.unwrap();
            fleet.ended(run).await;
        }
        let mut told = 0;
        for (path, n) in paths.iter().zip(0..) {
            let name = format!("q{n}");
            let answer = fleet.enqueuer.query::<Value>(run, &name).await.unwrap();
            assert_eq!(in_sql(run, &name).await.unwrap(), answer, "{path}, {moment}");
            told += usize::from(!answer.is_null());
        }
        assert!(told >= 13, "{told} of them have an answer, {moment}");
    }
    let (other, _) = fleet.complete("other", json!({"x": 1})).await;
    for (run, name, code) in [(Uuid::nil(), "q0", "LS010"), (run, "nothing", "LS013"), (other, "sum", "LS014")] {
        let error = in_sql(run, name).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().unwrap(), code);
    }
    fleet.finish().await;
}

#[tokio::test]
async fn a_patch_is_merged_as_rfc_7396_says() {
    let fleet = TestFleet::publish([]).await;
    let cases = [
        (json!({"a": {"b": "c", "d": 1}}), json!({"a": {"b": null, "e": [1]}}), json!({"a": {"d": 1, "e": [1]}})),
        (json!({"a": [1, 2]}), json!({"a": {"0": 7}}), json!({"a": {"0": 7}})),
        (json!({"a": 1}), json!({"b": {"c": null, "d": {"e": null}}}), json!({"a": 1, "b": {"d": {}}})),
        (json!([1]), json!({"a": null}), json!({})),
        (json!({"a": 1}), json!(null), json!(null)),
    ];
    for (target, patch, merged) in cases {
        let found: Value = sqlx::query_scalar("select longshore.merge_patch($1, $2)")
            .bind(&target)
            .bind(&patch)
            .fetch_one(&fleet.database.pool)
            .await
            .unwrap();
        assert_eq!(found, merged, "{target} {patch}");
    }
    fleet.finish().await;
}
