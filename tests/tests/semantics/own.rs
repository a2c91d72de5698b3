//! State machines of our own through the importer, on a real fleet: what the recorded ones leave out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use longshore::asl;
use longshore_enqueuer::Enqueuer;
use longshore_tests::TestFleet;
use longshore_tests::fleet::with;
use longshore_worker::{Failure, Slots, Step};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use uuid::Uuid;

use super::aws::hurry;

/// A machine of these states, of which the first is the start.
fn machine(start: &str, states: Value) -> Value {
    json!({"StartAt": start, "States": states})
}

fn imported(name: &str, machine: &Value) -> Value {
    asl::definition(machine, name).unwrap_or_else(|refused| panic!("{name}: {refused}"))
}

/// A machine, what it is given, and its end: the output, or the error's name in the language of the machine.
type Row = (&'static str, Value, Value, Result<Value, &'static str>);

fn rows() -> Vec<Row> {
    let count =
        json!({"Type": "Pass", "Parameters": {"n.$": "States.MathAdd($.n, 1)", "to.$": "$.to"}, "Next": "enough"});
    let enough = |more: &str| {
        json!({"Type": "Choice", "Choices": [
            {"Variable": "$.n", "NumericGreaterThanPath": "$.to", "Next": "over"},
            {"Variable": "$.n", "NumericEqualsPath": "$.to", "Next": "done"}], "Default": more})
    };
    let end = json!({"Type": "Pass", "End": true});
    let looping = machine(
        "count",
        json!({"count": count, "enough": enough("wait"), "wait": {"Type": "Wait", "Seconds": 0, "Next": "count"},
            "done": end, "over": {"Type": "Fail", "Error": "Over", "Cause": "too far"}}),
    );
    let mut nested = looping.clone();
    // the inner loop counts; the outer one begins it anew for each item that is left
    nested["StartAt"] = json!("next item");
    nested["States"]["next item"] = json!({"Type": "Choice", "Choices": [
        {"Variable": "$.left[0]", "IsPresent": true, "Next": "set out"}], "Default": "all"});
    nested["States"]["set out"] =
        json!({"Type": "Pass", "Parameters": {"n": 0, "to.$": "$.left[0]", "left.$": "$.left"}, "Next": "count"});
    nested["States"]["count"]["Parameters"]["left.$"] = json!("$.left");
    nested["States"]["done"] =
        json!({"Type": "Task", "Resource": "rest", "InputPath": "$.left", "ResultPath": "$.left", "Next": "next item"});
    nested["States"]["all"] = json!({"Type": "Succeed", "OutputPath": "$.n"});
    let alternatives = machine(
        "which",
        json!({"which": {"Type": "Choice", "Choices": [{"Variable": "$.a", "BooleanEquals": true, "Next": "nothing"}], "Default": "both"},
            "nothing": {"Type": "Pass", "Result": null, "Next": "both"}, "both": end}),
    );
    let rule = |n: u32| json!({"Variable": "$.n", "NumericEquals": n, "Next": format!("{}", n % 3)});
    let states = ["0", "1", "2"].map(|name| (name.to_owned(), json!({"Type": "Pass", "Result": name, "End": true})));
    let mut many = serde_json::Map::from_iter(states);
    many.insert("many".to_owned(), json!({"Type": "Choice", "Choices": (0..100).map(rule).collect::<Vec<_>>()}));
    let many = machine("many", Value::Object(many));
    let task = |fields: Value| with(json!({"Type": "Task", "Resource": "flaky", "End": true}), fields);
    let caught = |fields: Value| {
        let mut states = json!({"t": task(fields), "kept": end, "other": {"Type": "Fail", "Error": "Other"}});
        states["t"]["Catch"] = json!([
            {"ErrorEquals": ["Busy", "States.Timeout"], "ResultPath": "$.error", "Next": "kept"}, {"ErrorEquals": ["States.ALL"], "Next": "other"}]);
        machine("t", states)
    };
    let each = machine(
        "each",
        json!({"each": {"Type": "Map", "ItemsPath": "$.list", "ItemSelector": {
                "item.$": "$$.Map.Item.Value", "at.$": "$$.Map.Item.Index", "all.$": "$.list", "run.$": "$$.Execution.Input.list[0]"},
            "ItemProcessor": {"StartAt": "both", "States": {"both": {"Type": "Parallel", "Branches": [
                    {"StartAt": "left", "States": {"left": {"Type": "Pass", "InputPath": "$.item", "End": true}}},
                    {"StartAt": "right", "States": {"right": {"Type": "Task", "Resource": "echo", "Parameters": {"at.$": "$.at", "of.$": "$.all[1]"}, "End": true}}}],
                "ResultSelector": {"left.$": "$[0]", "right.$": "$[1]"}, "ResultPath": "$.made", "OutputPath": "$.made", "End": true}}},
            "ResultPath": "$.each.made", "End": true}}),
    );
    let text = machine(
        "ä b",
        json!({"ä b": {"Type": "Pass", "Result": {"t": "{{ x }} {% y %}", "u": ["{{"]}, "ResultPath": "$.r", "Next": "c\"d"},
            "c\"d": {"Type": "Pass", "Parameters": {"say.$": "States.Format('it\\'s {} of {}', $.r.t, $['a b'])", "name.$": "$$.State.Name",
                "list.$": "States.Array($.r.u[0], 'x', 1.5, true, null, States.ArrayLength($.r.u))"}, "End": true}}),
    );
    let lazy = machine(
        "guard",
        json!({"guard": {"Type": "Choice", "Choices": [
            {"Variable": "$.x", "IsPresent": false, "Next": "none"},
            {"And": [{"Variable": "$.x.t", "TimestampGreaterThan": "2020-01-01T00:00:00Z"}, {"Not": {"Variable": "$.x.s", "StringMatches": "log-*.txt"}}], "Next": "new"}],
            "Default": "old"},
            "none": {"Type": "Pass", "Result": "none", "End": true}, "new": {"Type": "Pass", "Result": "new", "End": true},
            "old": {"Type": "Succeed", "OutputPath": null}}),
    );
    let mut slow = machine("slow", json!({"slow": {"Type": "Wait", "Seconds": 60, "End": true}}));
    slow["TimeoutSeconds"] = json!(1);
    let query = json!({"QueryLanguage": "JSONata", "StartAt": "a", "States": {
        "a": {"Type": "Task", "Resource": "echo", "Arguments": {"x": "{% $states.input.v[1] %}"},
            "Output": {"was": "{% $states.input.v %}", "is": "{% $states.result.x %}"}, "Next": "b"},
        "b": {"Type": "Choice", "Choices": [{"Condition": "{% $states.input.is.yes %}", "Next": "c"}], "Default": "d"},
        "c": {"Type": "Map", "Items": "{% $states.input.was %}", "ItemSelector": {"i": "{% $states.context.Map.Item.Index %}"},
            "ItemProcessor": {"StartAt": "e", "States": {"e": {"Type": "Pass", "Output": "{% $states.input.i %}", "End": true}}}, "End": true},
        "d": {"Type": "Fail", "Error": "{% $states.input.is.why %}"}}});
    vec![
        ("loop-done", looping.clone(), json!({"n": 0, "to": 4}), Ok(json!({"n": 4, "to": 4}))),
        ("loop-over", looping, json!({"n": 7, "to": 4}), Err("Over")),
        ("loops-nested", nested.clone(), json!({"left": [3, 1, 2], "n": 9}), Ok(json!(2))),
        ("loops-none", nested, json!({"left": [], "n": 9}), Ok(json!(9))),
        ("null-document", alternatives.clone(), json!({"a": true}), Ok(json!(null))),
        ("alternative", alternatives, json!({"a": false}), Ok(json!({"a": false}))),
        ("rule-first", many.clone(), json!({"n": 0}), Ok(json!("0"))),
        ("rule-late", many.clone(), json!({"n": 98}), Ok(json!("2"))),
        ("rule-none", many, json!({"n": -1}), Err("States.NoChoiceMatched")),
        (
            "caught-by-name",
            caught(json!({"Parameters": {"fail": 9, "name": "Busy"}})),
            json!({"x": 1}),
            Ok(json!({"x": 1, "error": {"Error": "Busy", "Cause": "attempt 1 of 9 that fail"}})),
        ),
        ("caught-by-all", caught(json!({"Parameters": {"fail": 9, "name": "Else"}})), json!({"x": 1}), Err("Other")),
        (
            "tried-again",
            caught(json!({"Parameters": {"fail": 1, "output": 5, "name": "Else"}, "ResultPath": "$.y",
                "Retry": [{"ErrorEquals": ["States.TaskFailed"], "MaxAttempts": 1, "IntervalSeconds": 1}]})),
            json!({"x": 1}),
            Ok(json!({"x": 1, "y": 5})),
        ),
        (
            "its-time-is-over",
            caught(
                json!({"Resource": "sleep", "Parameters": {"seconds": 60}, "TimeoutSeconds": 1, "ResultPath": null}),
            ),
            json!({"x": 1}),
            Ok(json!({"x": 1, "error": {"Error": "States.Timeout", "Cause": "the handler did not finish within 1s"}})),
        ),
        ("no-such-path", caught(json!({"Parameters": {"x.$": "$.a.b"}})), json!({"a": 1}), Err("States.Runtime")),
        (
            "map-and-parallel",
            each,
            json!({"list": [5, null]}),
            Ok(
                json!({"list": [5, null], "each": {"made": [{"left": 5, "right": {"at": 0, "of": null}}, {"left": null, "right": {"at": 1, "of": null}}]}}),
            ),
        ),
        (
            "texts",
            text,
            json!({"a b": 7}),
            Ok(json!({"say": "it's {{ x }} {% y %} of 7", "name": "c\"d", "list": ["{{", "x", 1.5, true, null, 1]})),
        ),
        ("guard", lazy.clone(), json!({}), Ok(json!("none"))),
        ("guarded", lazy.clone(), json!({"x": {"t": "2020-01-01T01:00:00+00:30", "s": "log-.txt2"}}), Ok(json!("new"))),
        ("guarded-not", lazy, json!({"x": {"t": "2020-01-01T01:00:00+01:00", "s": 7}}), Ok(json!({}))),
        ("machine-timeout", slow, json!({}), Err("States.Timeout")),
        ("query", query.clone(), json!({"v": [0, {"yes": true}]}), Ok(json!([0, 1]))),
        ("query-fails", query, json!({"v": [0, {"yes": 1, "why": "Because"}]}), Err("Because")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_of_our_own_do_what_they_say() {
    let rows = rows();
    let definitions: Vec<_> = rows.iter().map(|(name, machine, ..)| imported(name, machine)).collect();
    let mut fleet = TestFleet::publish(definitions).await;
    let worker = fleet.worker().queue("default", Slots(20));
    let worker = worker.handler("rest", async |_, items: Vec<Value>| Ok::<_, Failure>(items[1..].to_vec()));
    fleet.add(worker).await;
    let mut runs = Vec::new();
    for (name, _, input, _) in &rows {
        runs.push(fleet.start(name, input.clone()).await);
    }
    for ((name, _, _, expected), run) in rows.iter().zip(runs) {
        let (state, value) = fleet.ended(run).await;
        let given = match state.as_str() {
            "completed" => Ok(value.clone()),
            _ => Err(asl::error_name(value["name"].as_str().unwrap())),
        };
        assert_eq!(&given, expected, "{name}: {value}");
    }
    fleet.finish().await;
}

/// The example of the language's own documentation.
#[tokio::test(flavor = "multi_thread")]
async fn each_retrier_counts_the_failures_that_it_is_the_first_for() {
    let retry = json!([{"ErrorEquals": ["ErrorA", "ErrorB"], "IntervalSeconds": 1, "BackoffRate": 2, "MaxAttempts": 2},
        {"ErrorEquals": ["ErrorC"], "IntervalSeconds": 5}]);
    let state = json!({"Type": "Task", "Resource": "fails", "Retry": retry, "End": true, "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "caught"}]});
    let mut definition =
        imported("retriers", &machine("x", json!({"x": state, "caught": {"Type": "Pass", "End": true}})));
    hurry(&mut definition);
    let mut fleet = TestFleet::publish([definition]).await;
    let worker = fleet.worker().queue("default", Slots(4));
    let worker = worker.handler("fails", async |step: Step, names: Vec<String>| {
        match names.get(usize::try_from(step.attempt() - 1).unwrap()) {
            Some(name) => Err(Failure::retryable("").named(name)),
            None => Ok("done"),
        }
    });
    fleet.add(worker).await;
    let (run, output) = fleet.complete("retriers", json!(["ErrorA", "ErrorB", "ErrorC", "ErrorB"])).await;
    assert_eq!((&output["Error"], fleet.tries(run, "x").await.len()), (&json!("ErrorB"), 4));
    let (run, output) = fleet.complete("retriers", json!(["ErrorA", "ErrorB", "ErrorC", "ErrorC", "ErrorC"])).await;
    assert_eq!((output, fleet.tries(run, "x").await.len()), (json!("done"), 6));
    let (run, output) = fleet.complete("retriers", json!(["ErrorC", "ErrorD"])).await;
    assert_eq!((&output["Error"], fleet.tries(run, "x").await.len()), (&json!("ErrorD"), 2));
    fleet.finish().await;
}

/// Hands its token to the test, which answers.
fn asking() -> Value {
    let ask = |fields: Value| {
        let ask = json!({"Type": "Task", "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
            "Parameters": {"token.$": "$$.Task.Token", "of.$": "$"}, "TimeoutSeconds": 60, "End": true});
        with(ask, fields)
    };
    let caught = |names: Value| json!([{"ErrorEquals": names, "Next": "caught"}]);
    let items = json!({"StartAt": "ask", "States": {
        "ask": ask(json!({"HeartbeatSeconds": 5, "Catch": caught(json!(["Refused", "States.HeartbeatTimeout"]))})),
        "caught": {"Type": "Pass", "End": true}}});
    machine("all", json!({"all": {"Type": "Map", "ItemProcessor": items, "End": true}}))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_waits_for_its_token_takes_the_answer_that_is_sent_to_it() {
    let mut definition = imported("asking", &asking());
    // less time for the item that nobody answers
    let text = definition.to_string().replace("\"5s\"", "\"2s\"");
    definition = serde_json::from_str(&text).unwrap();
    let mut fleet = TestFleet::publish([definition]).await;
    let (sender, mut tokens) = tokio::sync::mpsc::unbounded_channel::<Value>();
    let worker = fleet.worker().queue("default", Slots(20)).handler("sqs:sendMessage", move |_: Step, input: Value| {
        let sender = sender.clone();
        async move { sender.send(input).map_err(Failure::permanent) }
    });
    fleet.add(worker).await;
    let run = fleet.start("asking", json!(["yes", "no", "later", "never"])).await;
    let answer = async |enqueuer: &Enqueuer, token: &str, end: &str, payload: Value| {
        assert_eq!(token[..36].parse::<Uuid>().unwrap(), run, "the token names the run");
        enqueuer.signal(run, &format!("{token}{end}"), &payload).await.unwrap();
    };
    for _ in 0..4 {
        let asked = tokens.recv().await.unwrap();
        let token = asked["token"].as_str().unwrap().to_owned();
        let enqueuer = fleet.enqueuer.clone();
        match asked["of"].as_str().unwrap() {
            "yes" => answer(&enqueuer, &token, "", json!({"paid": 1})).await,
            "no" => answer(&enqueuer, &token, "/failure", json!({"error": "Refused", "cause": "no funds"})).await,
            "later" => {
                for pass in 1..=4 {
                    answer(&enqueuer, &token, "/heartbeat", json!(null)).await;
                    fleet.until(&format!("select count(*) > {pass} from longshore.block_group_runs where run_id = '{run}' and type = 'while'
                        and parent = (select parent from longshore.block_group_runs where run_id = '{run}' and type = 'while' and iteration = {pass})")).await;
                }
                answer(&enqueuer, &token, "", json!("at last")).await;
            }
            _ => {}
        }
    }
    let (state, output) = fleet.ended(run).await;
    assert_eq!(state, "completed", "{output}");
    assert_eq!(output[0], json!({"paid": 1}));
    assert_eq!(output[1], json!({"Error": "Refused", "Cause": "no funds"}));
    assert_eq!(output[2], json!("at last"));
    assert_eq!(output[3]["Error"], "States.Timeout");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_pays_back_what_a_person_agrees_to() {
    let sample = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/samples/refund.asl.json"));
    let mut definition = imported("refund", &serde_json::from_str(sample).unwrap());
    hurry(&mut definition);
    let mut fleet = TestFleet::publish([definition]).await;
    let enqueuer = fleet.enqueuer.clone();
    let looks = Arc::new(AtomicUsize::new(0));
    let looked = looks.clone();
    let worker = fleet.worker().queue("default", Slots(4));
    let worker = worker.handler("pay", async |step: Step, _: Value| match step.attempt() {
        1 => Err(Failure::retryable("a moment").named("Busy")),
        _ => Ok(json!({"id": "p-7"})),
    });
    let worker = worker.handler("payment_state", move |_: Step, payment: Value| {
        let paid = looked.fetch_add(1, Ordering::Relaxed) == 2 && payment["id"] == "p-7";
        async move { Ok::<_, Failure>(if paid { "paid" } else { "open" }) }
    });
    let worker = worker.handler("sqs:sendMessage", move |step: Step, asked: Value| {
        let enqueuer = enqueuer.clone();
        async move {
            assert_eq!(asked["question"], "refund 120?");
            let token = asked["answer_to"].as_str().unwrap_or_default();
            enqueuer.signal(step.run_id(), token, &json!({"by": "ann"})).await.map_err(Failure::permanent)
        }
    });
    fleet.add(worker).await;
    let (run, output) = fleet.complete("refund", json!({"amount": 120})).await;
    assert_eq!(output, json!({"id": "p-7", "state": "paid"}));
    assert_eq!(looks.load(Ordering::Relaxed), 3, "it looks until the bank says how it went");
    assert_eq!(fleet.tries(run, "Pay").await, ["failed", "completed"]);
    fleet.finish().await;
}

/// The most states that a machine of the next test goes through.
const STEPS: usize = 40;

/// A machine that leads anywhere, with loops of every kind. Each state counts and notes that it was there.
fn anywhere(rng: &mut StdRng) -> Value {
    let names: Vec<String> = (0..rng.random_range(2..9)).map(|n| format!("s{n}")).collect();
    let to = |rng: &mut StdRng| names[rng.random_range(0..names.len())].clone();
    let state = |rng: &mut StdRng, name: &String| match rng.random_range(0..10) {
        0 => json!({"Type": "Succeed"}),
        1 => json!({"Type": "Fail", "Error": name}),
        2..6 => {
            let rule = |rng: &mut StdRng| {
                let sign = ["NumericLessThan", "NumericEquals", "NumericGreaterThan"][rng.random_range(0..3)];
                json!({"Variable": "$.n", sign: rng.random_range(0..12), "Next": to(rng)})
            };
            let rules: Vec<_> = (0..rng.random_range(1..4)).map(|_| rule(rng)).collect();
            let mut choice = json!({"Type": "Choice", "Choices": rules});
            if rng.random_range(0..4) > 0 {
                choice["Default"] = json!(to(rng));
            }
            choice
        }
        _ => {
            let mut pass = json!({"Type": "Pass", "Parameters": {
                "n.$": "States.MathAdd($.n, 1)", "was.$": format!("States.Format('{{}} {name}', $.was)")}});
            match rng.random_range(0..6) {
                0 => pass["End"] = json!(true),
                _ => pass["Next"] = json!(to(rng)),
            }
            pass
        }
    };
    let states: serde_json::Map<_, _> = names.iter().map(|name| (name.clone(), state(rng, name))).collect();
    json!({"StartAt": names[0], "States": states})
}

/// What a machine of `anywhere` does; none when it goes on for too long.
fn walked(machine: &Value) -> Option<Result<Value, String>> {
    let (mut n, mut was) = (0, String::new());
    let mut name = machine["StartAt"].as_str()?;
    for _ in 0..STEPS {
        let state = &machine["States"][name];
        let done = || Some(Ok(json!({"n": n, "was": was})));
        match state["Type"].as_str()? {
            "Succeed" => return done(),
            "Fail" => return Some(Err(name.to_owned())),
            "Choice" => {
                let holds = |rule: &&Value| {
                    let is = |sign: &str, holds: fn(i64, i64) -> bool| {
                        rule[sign].as_i64().is_some_and(|than| holds(n, than))
                    };
                    is("NumericLessThan", |a, b| a < b)
                        || is("NumericEquals", |a, b| a == b)
                        || is("NumericGreaterThan", |a, b| a > b)
                };
                let rule = state["Choices"].as_array()?.iter().find(holds);
                match rule.map_or(&state["Default"], |rule| &rule["Next"]).as_str() {
                    Some(next) => name = next,
                    None => return Some(Err("States.NoChoiceMatched".to_owned())),
                }
            }
            _ => {
                n += 1;
                was = format!("{was} {name}");
                match state["Next"].as_str() {
                    Some(next) => name = next,
                    None => return Some(Ok(json!({"n": n, "was": was}))),
                }
            }
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_lead_anywhere_go_where_they_lead() {
    let seed = std::env::var("LONGSHORE_FUZZ_SEED").map_or_else(|_| rand::rng().random(), |seed| seed.parse().unwrap());
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut machines, mut refused, mut loops) = (Vec::new(), 0, 0);
    while machines.len() < 150 {
        let machine = anywhere(&mut rng);
        let Some(end) = walked(&machine) else { continue };
        match asl::definition(&machine, &format!("m{}", machines.len())) {
            Ok(definition) => {
                loops += usize::from(definition.to_string().contains("\"while\""));
                machines.push((machine, definition, end));
            }
            Err(why) => {
                let why = why.to_string();
                let known = why.contains("entered at several states") || why.contains("no state leads to it");
                assert!(known, "LONGSHORE_FUZZ_SEED={seed} repeats {machine}: {why}");
                refused += 1;
            }
        }
    }
    eprintln!("150 machines, {loops} of them with loops; {refused} were refused");
    assert!(loops > 30, "LONGSHORE_FUZZ_SEED={seed} repeats it");
    let mut fleet = TestFleet::publish(machines.iter().map(|(_, definition, _)| definition.clone())).await;
    fleet.work(20).await;
    let mut runs = Vec::new();
    for (_, definition, _) in &machines {
        runs.push(fleet.start(definition["name"].as_str().unwrap(), json!({"n": 0, "was": ""})).await);
    }
    for ((machine, _, end), run) in machines.iter().zip(runs) {
        let (state, value) = fleet.ended(run).await;
        let given = match state.as_str() {
            "completed" => Ok(value),
            _ => Err(value["name"].as_str().unwrap().to_owned()),
        };
        assert_eq!(&given, end, "LONGSHORE_FUZZ_SEED={seed} repeats {machine}");
    }
    fleet.finish().await;
}
