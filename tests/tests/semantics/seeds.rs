//! The rules of two engines, each in terms of ours.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use longshore_tests::TestFleet;
use longshore_tests::fleet::{Gate, TestHandlers};
use longshore_worker::{Failure, Slots, Step};
use serde_json::{Value, json};

use super::{Told, cases, json as read, same};

/// Their paths begin with `$`, ours with what was given to the run. What holds without a condition has none here.
fn condition(theirs: &str) -> Option<String> {
    (!theirs.is_empty()).then(|| theirs.replace('$', "run.input"))
}

/// A workflow in which `hit` runs where the condition holds.
fn guarded(when: Option<String>) -> Value {
    let mut edge = json!({"from": "a", "to": "hit"});
    if let Some(when) = when {
        edge["when"] = json!(when);
    }
    let set = |id: &str| json!({"id": id, "type": "set", "output": true});
    json!({"name": "guarded", "nodes": [set("a"), set("hit")], "edges": [edge]})
}

async fn hits(fleet: &TestFleet, when: Option<String>, input: Value) -> bool {
    fleet.apply(guarded(when)).await;
    let (run, _) = fleet.complete("guarded", input).await;
    fleet.tries(run, "hit").await == ["completed"]
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_comparisons_and_loops_give_what_that_engine_says() {
    let Some(folder) = cases() else { return };
    let seed = read(&folder.join("seed2-conditions.json"));
    let rows = |name: &str| seed[name].as_array().unwrap().clone();
    let mut told = Told::default();
    let mut fleet = TestFleet::publish([]).await;
    fleet.work(8).await;
    for row in rows("conditions") {
        let when = condition(row["expression"].as_str().unwrap());
        let hit = hits(&fleet, when, row["data"].clone()).await;
        let name = format!("condition: {}", row["name"].as_str().unwrap());
        told.tell(&name, same("result", &json!(hit), &row["expected"]).map(|()| row["expression"].to_string()));
    }
    for row in rows("truthy") {
        let hit = hits(&fleet, condition("$"), row[0].clone()).await;
        told.tell(&format!("truth of {}", row[0]), same("result", &json!(hit), &row[1]).map(|()| hit.to_string()));
    }
    let order = "{{ 0 if run.input[0] == run.input[1] else 1 if run.input[0] > run.input[1] else -1 }}";
    fleet.apply(json!({"name": "order", "nodes": [{"id": "o", "type": "set", "output": order}]})).await;
    for row in rows("compare") {
        let (_, sign) = fleet.complete("order", json!([row[0], row[1]])).await;
        told.tell(
            &format!("order of {} and {}", row[0], row[1]),
            same("sign", &sign, &row[2]).map(|()| sign.to_string()),
        );
    }
    for row in rows("loops") {
        let (config, expected) = (&row["config"], &row["expect"]);
        // a count is a condition on the number of passes; what caps it stops and does not fail
        let condition = match config["count"].as_u64() {
            Some(count) => format!("input.index < {count}"),
            None => config["condition"].as_str().unwrap().replace('$', "input"),
        };
        let pass =
            json!({"index": "{{ frame.input.index + 1 }}", "results": "{{ frame.input.results + [frame.index] }}"});
        let again = json!({
            "id": "again", "type": "while", "when": condition, "on_limit": "stop", "input": {"index": 0, "results": []},
            "max_iterations": config["max_iterations"].as_u64().unwrap_or(100),
            "body": {"nodes": [{"id": "pass", "type": "set", "output": pass}]}
        });
        fleet.apply(json!({"name": "loop", "nodes": [again]})).await;
        let (run, output) = fleet.complete("loop", row["input"].clone()).await;
        let passes: i64 =
            fleet.ask("select count(*) from longshore.frames where run_id = $1 and iteration >= 0", run).await;
        let results = output["results"].as_array().unwrap().len();
        let result = same("iterations", &json!(passes), &expected["iterations"])
            .and_then(|()| same("results", &json!(results), expected.get("results").unwrap_or(&json!(passes))));
        told.tell(&format!("loop: {}", row["name"].as_str().unwrap()), result.map(|()| format!("{passes} passes")));
    }
    fleet.finish().await;
    told.end(14 + 6 + 4 + 3);
}

/// The queries that a retriever was asked, in order.
type Asked = Arc<Mutex<Vec<String>>>;

/// Retrievers in the order of preference: the first that finds something is taken. `order` is a template of their list.
fn retrieval(order: Value) -> Value {
    let pick = json!({
        "id": "ask", "type": "task", "handler": "retrieve", "input": "{{ frame.input.left[0] }}"
    });
    let next = json!({"id": "next", "type": "set", "output": {
        "left": "{{ frame.input.left[1:] }}", "matches": "{{ nodes.ask.output }}", "selected": "{{ frame.input.left[0].key }}"
    }});
    json!({"name": "retrieval", "nodes": [
        {"id": "order", "type": "set", "output": {"left": order, "matches": []}},
        {"id": "first_non_empty", "type": "while", "when": "input.left and not input.matches",
         "body": {"nodes": [pick, next], "edges": [["ask", "next"]]}}],
      "edges": [["order", "first_non_empty"]]})
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_retrieval_and_waves_are_as_that_engine_says() {
    let Some(folder) = cases() else { return };
    let seed = read(&folder.join("seed1-engine.json"));
    let case = |id: &str| seed["cases"].as_array().unwrap().iter().find(|case| case["id"] == id).unwrap().clone();
    let mut told = Told::default();
    let mut fleet = TestFleet::publish([]).await;
    let (gate, asked) = (Gate::default(), Asked::default());
    let heard = asked.clone();
    let worker =
        fleet.worker().queue("default", Slots(8)).gate(&gate).handler("again", async |step: Step, _: Value| {
            if step.attempt() == 1 {
                return Err(
                    Failure::retry_after("asks to be tried again", Duration::from_millis(10)).named("retry_requested")
                );
            }
            Ok(json!({"ok": true}))
        });
    let worker = worker.handler("retrieve", move |_: Step, retriever: Value| {
        let heard = heard.clone();
        async move {
            heard.lock().unwrap().push(retriever["key"].as_str().unwrap_or_default().to_owned());
            let hit = ["q-hit", "q-dense"].iter().any(|query| retriever["query"] == *query);
            Ok::<_, Failure>(if hit { json!([{"score": 0.88}]) } else { json!([]) })
        }
    });
    fleet.add(worker).await;

    let retry = case("rex-p3-1");
    let attempts = retry["nodes"][0]["config"]["retryMaxAttempts"].clone();
    let task = json!({"id": "n1", "type": "task", "handler": "again", "retry": {"max_attempts": attempts}});
    fleet.apply(json!({"name": "retry", "nodes": [task]})).await;
    let (run, _) = fleet.complete("retry", json!({})).await;
    // what its memory says of the retry is in the records of the attempts
    let tries = fleet.tries(run, "n1").await;
    let result = same("attempts", &json!(tries.len()), &retry["expect"]["attemptCount"])
        .and_then(|()| same("outcomes", &tries, &vec!["failed".to_owned(), "completed".to_owned()]));
    told.tell("rex-p3-1", result.map(|()| "a retry that is asked for succeeds in attempt 2".to_owned()));

    // memory that one try leaves to the next is what a pass of a loop gives to the next one
    let memory = case("rex-p3-3");
    let pass = json!({"marker": "kept", "again": "{{ frame.index < 1 }}", "found": "{{ frame.input.marker }}"});
    let tries = json!({"id": "n1", "type": "while", "do_while": true, "when": "input.again",
        "max_iterations": memory["nodes"][0]["config"]["retryMaxAttempts"], "body": {"nodes": [{"id": "call", "type": "set", "output": pass}]}});
    fleet.apply(json!({"name": "memory", "nodes": [tries]})).await;
    let (run, output) = fleet.complete("memory", json!({})).await;
    let passes: i64 =
        fleet.ask("select count(*) from longshore.frames where run_id = $1 and iteration >= 0", run).await;
    let result = same("marker", &output["found"], &memory["expect"]["output.marker"])
        .and_then(|()| same("passes", &json!(passes), &memory["expect"]["attemptCount"]));
    told.tell(
        "rex-p3-3",
        result.map(|()| "otherwise on purpose: what the first pass gives is there in the second".to_owned()),
    );

    for (id, order) in [
        ("rex-p4-1", json!("{{ run.input.retrievers }}")),
        (
            "rex-p4-3",
            json!(
                "{{ run.input.retrievers|selectattr('key', 'eq', run.input.preferred)|list + run.input.retrievers|rejectattr('key', 'eq', run.input.preferred)|list }}"
            ),
        ),
    ] {
        let case = case(id);
        fleet.apply(retrieval(order)).await;
        asked.lock().unwrap().clear();
        let input = json!({"retrievers": case["retrieval"]["retrievers"], "preferred": case["memory"]["routing.preferredRetriever"]});
        let (_, output) = fleet.complete("retrieval", input).await;
        let expect = &case["expect"];
        let asked = asked.lock().unwrap().clone();
        let result = same("selected", &output["selected"], &expect["orchestration"]["selectedRetrieverKey"])
            .and_then(|()| {
                same("asked first", &json!(asked[0]), expect.get("query_order_first").unwrap_or(&json!(asked[0])))
            })
            .and_then(|()| same("asked", &json!(asked), expect.get("query_order").unwrap_or(&json!(asked))));
        told.tell(id, result.map(|()| format!("asked {}", asked.join(", "))));
    }

    // a wave is what starts together: both wait in the gate at once, and neither started before n1 was done
    let waves = case("rex-p4-5");
    let nodes: Vec<Value> = waves["nodes"].as_array().unwrap().iter()
        .map(|node| json!({"id": node["id"], "type": "task", "handler": if node["id"] == "n1" { "echo" } else { "gate" }})).collect();
    fleet.apply(json!({"name": "waves", "nodes": nodes, "edges": waves["edges"]})).await;
    let run = fleet.start("waves", json!({})).await;
    let second = waves["expect"]["wave2"].as_array().unwrap();
    gate.entered(second.len()).await;
    let before = fleet.outcomes(run).await;
    gate.open(second.len());
    let (state, _) = fleet.ended(run).await;
    let result = same("state", &state.as_str(), &"completed")
        .and_then(|()| same("before the second wave ended", &before, &json!({"completed": ["n1"], "running": second})));
    told.tell("rex-p4-5", result.map(|()| "two waves: n2 and n3 run at once when n1 is done".to_owned()));
    fleet.finish().await;
    told.end(5);
}
