#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;

/// A machine that begins with `a`.
fn machine(states: Value) -> Value {
    json!({"StartAt": "a", "States": states})
}

fn task(fields: Value) -> Value {
    let mut task = json!({"Type": "Task", "Resource": "x", "End": true});
    task.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    task
}

fn imported(states: Value) -> Value {
    definition(&machine(states), "w").unwrap_or_else(|refused| panic!("{refused}"))
}

fn node<'d>(definition: &'d Value, id: &str) -> &'d Value {
    let found = definition["nodes"].as_array().unwrap().iter().find(|node| node["id"] == id);
    found.unwrap_or_else(|| panic!("no node {id} in {definition}"))
}

fn refusals(machine: &Value) -> String {
    definition(machine, "w").unwrap_err().to_string()
}

#[test]
fn a_retrier_becomes_the_policy_and_without_one_a_task_is_tried_once() {
    let retry = |retrier: Value| node(&imported(json!({"a": task(json!({"Retry": [retrier]}))})), "a")["retry"].clone();
    let usual = json!({"max_attempts": 4, "initial": "1s", "factor": 2.0, "max": "36525d", "jitter": 0});
    assert_eq!(retry(json!({"ErrorEquals": ["States.ALL"]})), usual);
    // from nothing to the pause: half of it, spread by all of itself
    let full = json!({"ErrorEquals": ["Busy", "States.Timeout"], "IntervalSeconds": 3, "MaxAttempts": 2, "BackoffRate": 1.5,
        "MaxDelaySeconds": 5, "JitterStrategy": "FULL"});
    let policy = json!({"max_attempts": 3, "initial": "1s500ms", "factor": 1.5, "max": "2s500ms", "jitter": 1, "retry_on": ["Busy", "timeout"]});
    assert_eq!(retry(full), policy);
    let failed = retry(json!({"ErrorEquals": ["States.TaskFailed"], "MaxAttempts": 0}));
    assert_eq!((&failed["max_attempts"], &failed["retry_on"]), (&json!(1), &json!(["retryable", "panic", "lost"])));
    let several = json!({"Retry": [{"ErrorEquals": ["Busy"], "MaxAttempts": 1}, {"ErrorEquals": ["States.ALL"]}]});
    let several = node(&imported(json!({"a": task(several)})), "a")["retry"].clone();
    assert_eq!(
        (&several[0]["retry_on"], &several[0]["max_attempts"], &several[1]),
        (&json!(["Busy"]), &json!(2), &usual)
    );
    let alone = imported(json!({"a": task(json!({}))}));
    assert_eq!(node(&alone, "a")["retry"], json!({"max_attempts": 1}));
    assert_eq!(node(&alone, "a")["timeout"], "99999999s");
}

#[test]
fn a_resource_names_the_handler() {
    for (resource, handler) in [
        ("arn:aws:lambda:eu-west-1:123456789012:function:charge", "charge"),
        ("arn:aws:lambda:eu-west-1:123456789012:function:charge:PROD", "charge"),
        ("arn:aws:states:eu-west-1:123456789012:activity:approve", "approve"),
        ("arn:aws:states:::lambda:invoke", "lambda:invoke"),
        ("arn:aws:states:::ecs:runTask.sync", "ecs:runTask.sync"),
        ("charge", "charge"),
    ] {
        let definition = imported(json!({"a": task(json!({"Resource": resource}))}));
        assert_eq!(node(&definition, "a")["handler"], handler);
    }
}

#[test]
fn a_state_is_one_node_where_the_document_is_its_result() {
    let chain = imported(json!({
        "a": {"Type": "Task", "Resource": "x", "Next": "b"},
        "b": {"Type": "Wait", "Seconds": 5, "Next": "c"},
        "c": {"Type": "Succeed"}}));
    assert_eq!(chain["nodes"].as_array().unwrap().len(), 3);
    assert_eq!(chain["edges"], json!([["a", "b"], ["b", "c"]]));
    assert!(chain["nodes"].as_array().unwrap().iter().all(|node| node.get("input").is_none()), "{chain}");
    let kept =
        imported(json!({"a": task(json!({"ResultPath": "$.r", "InputPath": "$.i", "OutputPath": "$.r['x y'][0]"}))}));
    assert_eq!(node(&kept, "a")["input"], "{{ run.input.i|required }}");
    assert_eq!(
        node(&kept, "a.output")["output"],
        r#"{{ (run.input|put(["r"], nodes.a.output)).r["x y"][0]|required }}"#
    );
}

#[test]
fn ids_are_unique_whatever_states_are_called() {
    let definition = imported(json!({
        "a": {"Type": "Task", "Resource": "x", "ResultPath": "$.r", "Next": "a.output"},
        "a.output": {"Type": "Pass", "Next": "a/output"},
        "a/output": {"Type": "Pass", "Next": "ä".repeat(80)},
        "ä".repeat(80): {"Type": "Succeed"}}));
    let ids: HashSet<&str> =
        definition["nodes"].as_array().unwrap().iter().map(|node| node["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 5, "{ids:?}");
    assert!(ids.contains("a") && ids.contains("a.output") && ids.contains("a.output.2") && ids.contains("a_output"));
}

#[test]
fn what_has_no_translation_is_refused_with_the_state_and_the_reason() {
    let end = json!({"Type": "Pass", "End": true});
    for (state, why) in [
        (json!({"Type": "Nap"}), "its Type is none of"),
        (json!({"Type": "Pass"}), "it needs either Next, a name, or \"End\": true"),
        (json!({"Type": "Pass", "Next": "z"}), "it leads to \"z\", which is no state"),
        (json!({"Type": "Pass", "Assign": {"x": 1}, "End": true}), "Assign is not translated: a run has one context"),
        (json!({"Type": "Pass", "Arguments": {}, "End": true}), "Arguments is not translated"),
        (json!({"Type": "Pass", "Output": 1, "End": true}), "it belongs to JSONata, and the state is in JSONPath"),
        (json!({"Type": "Pass", "InputPath": "$.a[*]", "End": true}), "InputPath: `.a[*]` may lead to several places"),
        (json!({"Type": "Pass", "InputPath": "$..a", "End": true}), "may lead to several places"),
        (json!({"Type": "Pass", "OutputPath": "$x.a", "End": true}), "`$x.a` names a variable"),
        (json!({"Type": "Pass", "ResultPath": "x", "Result": 1, "End": true}), "ResultPath: `x` is no path"),
        (
            json!({"Type": "Pass", "Parameters": {"x.$": "$$.State.EnteredTime"}, "End": true}),
            "`.State.EnteredTime` of the context has no counterpart",
        ),
        (
            json!({"Type": "Pass", "Parameters": {"x.$": "$$.Task.Token"}, "End": true}),
            "`.Task.Token` of the context is not known here",
        ),
        (
            json!({"Type": "Pass", "Parameters": {"x.$": "States.UUID()"}, "End": true}),
            "`States.UUID` with 0 arguments is not translated",
        ),
        (
            json!({"Type": "Pass", "Parameters": {"x.$": 5}, "End": true}),
            "Parameters.x.$: the value of a name that ends in",
        ),
        (
            json!({"Type": "Pass", "QueryLanguage": "JSONata", "Output": "{% $sum($states.input) %}", "End": true}),
            "of JSONata only paths",
        ),
        (
            json!({"Type": "Pass", "QueryLanguage": "JSONata", "Output": "{% $states.result %}", "End": true}),
            "`$states.result` is not known here",
        ),
        (json!({"Type": "Wait", "Seconds": -1, "End": true}), "Seconds is no such time"),
        (json!({"Type": "Wait", "Seconds": 1, "SecondsPath": "$.s", "End": true}), "it needs one of Seconds"),
        (task(json!({"HeartbeatSeconds": 5})), "HeartbeatSeconds is translated with .waitForTaskToken only"),
        (task(json!({"TimeoutSecondsPath": "$.t"})), "a timeout here is the same for every run"),
        (task(json!({"TimeoutSeconds": 0})), "TimeoutSeconds is no whole number"),
        (
            task(json!({"Retry": [{"ErrorEquals": ["States.ALL"]}, {"ErrorEquals": ["B"]}]})),
            "only the last retrier may name States.ALL",
        ),
        (task(json!({"Retry": [{"ErrorEquals": []}]})), "Retry: ErrorEquals is no list of names"),
        (task(json!({"Retry": [{"ErrorEquals": ["A"], "JitterStrategy": "HALF"}]})), "there is no JitterStrategy HALF"),
        (
            task(json!({"Retry": [{"ErrorEquals": ["States.Runtime"]}]})),
            "States.Runtime is a mistake in the machine's own paths",
        ),
        (
            task(json!({"Catch": [{"ErrorEquals": ["States.HeartbeatTimeout"], "Next": "e"}]})),
            "the state waits for no heartbeat",
        ),
        (
            task(json!({"Catch": [{"ErrorEquals": ["A"], "Next": "e", "Assign": {}}]})),
            "Catch: Assign is not translated",
        ),
        (json!({"Type": "Choice", "Choices": [], "Default": "e"}), "Choices has no rule"),
        (
            json!({"Type": "Choice", "Choices": [{"Variable": "$.x", "StringEquals": 5, "Next": "e"}]}),
            "StringEquals compares with no such value as 5",
        ),
        (
            json!({"Type": "Choice", "Choices": [{"Variable": "$.x", "TimestampEquals": "today", "Next": "e"}]}),
            "TimestampEquals compares with no such value as \"today\"",
        ),
        (
            json!({"Type": "Choice", "Choices": [{"Variable": "$.x", "BooleanLessThan": true, "Next": "e"}]}),
            "there is no operator BooleanLessThan",
        ),
        (
            json!({"Type": "Choice", "Choices": [{"Variable": "$.x", "StringMatches": "\\*", "Next": "e"}]}),
            "StringMatches: `\\` is not translated",
        ),
        (json!({"Type": "Choice", "Choices": [{"Variable": "$.x", "IsNull": true}]}), "Next is missing"),
        (
            json!({"Type": "Map", "ItemReader": {}, "ItemProcessor": machine(json!({"b": end})), "End": true}),
            "StartAt names \"a\", which is no state",
        ),
        (
            json!({"Type": "Map", "ItemReader": {}, "ItemProcessor": {"StartAt": "b", "States": {"b": end}}, "End": true}),
            "ItemReader is not translated",
        ),
        (
            json!({"Type": "Map", "ItemProcessor": {"ProcessorConfig": {"Mode": "X"}, "StartAt": "b", "States": {"b": end}}, "End": true}),
            "ProcessorConfig.Mode \"X\" is not translated",
        ),
        (json!({"Type": "Parallel", "Branches": [], "End": true}), "Branches is no list of machines"),
        (
            json!({"Type": "Parallel", "Branches": [{"StartAt": "e", "States": {"e": end}}], "End": true}),
            "another state has this name",
        ),
    ] {
        let told = refusals(&machine(json!({"a": state, "e": end})));
        assert!(told.contains(why), "{state}: {told}");
        assert!(told.starts_with("state \""), "{told}");
    }
    assert!(refusals(&json!(7)).contains("the machine: a state machine is an object"));
    assert!(refusals(&machine(json!({"a": end, "b": end}))).contains("state \"b\": no state leads to it"));
    let unknown = json!({"StartAt": "a", "States": {"a": end}, "Speed": 1});
    assert_eq!(refusals(&unknown), "the machine: Speed of a machine is not translated");
    // all at once
    let two = machine(json!({"a": task(json!({"HeartbeatSeconds": 1, "TimeoutSeconds": "x"})), "b": end}));
    assert_eq!(refusals(&two).lines().count(), 3, "{}", refusals(&two));
}

#[test]
fn a_loop_that_begins_at_several_states_is_refused_by_its_states() {
    let rule = |next: &str| json!({"Variable": "$.x", "IsPresent": true, "Next": next});
    let told = refusals(&machine(json!({
        "a": {"Type": "Choice", "Choices": [rule("b")], "Default": "c"},
        "b": {"Type": "Pass", "Next": "c"},
        "c": {"Type": "Choice", "Choices": [rule("b")], "Default": "d"},
        "d": {"Type": "Succeed"}})));
    assert!(told.contains("state \"b\": the loop of \"b\", \"c\" is entered at several states"), "{told}");
    // while one that leads to itself is a loop of one state
    let own =
        imported(json!({"a": {"Type": "Choice", "Choices": [rule("b")], "Default": "a"}, "b": {"Type": "Succeed"}}));
    assert_eq!(node(&own, "a.loop")["type"], "while");
}

#[test]
fn a_large_machine_is_translated_in_little_time() {
    let began = std::time::Instant::now();
    let next = |n: usize| format!("{}", n + 1);
    let loops: serde_json::Map<_, _> = (0..4000)
        .flat_map(|n| {
            let rules = json!([{"Variable": "$.x", "IsPresent": true, "Next": format!("w{n}")}]);
            [
                (n.to_string(), json!({"Type": "Choice", "Choices": rules, "Default": next(n)})),
                (format!("w{n}"), json!({"Type": "Pass", "Next": n.to_string()})),
            ]
        })
        .chain([("4000".to_owned(), json!({"Type": "Succeed"}))])
        .collect();
    let many = definition(&json!({"StartAt": "0", "States": loops}), "w").map(|_| ());
    // more nodes than a definition may have: it is refused, and not after minutes
    assert!(many.unwrap_err().to_string().contains("there are"));
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
}
