//! Inputs that are nearly right: expressions, templates, definitions and files grown from their grammars, so that fuzzing gets past the readers.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Map, Value, json};

/// A new input of this target.
pub(crate) fn grow(rng: &mut StdRng, target: &str) -> Vec<u8> {
    match target {
        "definition" => definition(rng).to_string().into_bytes(),
        "expression" => format!("{}\n{}", expression(rng, 4), value(rng, 4)).into_bytes(),
        "template" => format!("{}\n{}", template(rng, 3), value(rng, 4)).into_bytes(),
        "duration" => duration(rng).into_bytes(),
        "wfformat" => wfformat(rng),
        "asl" => machine(rng, 2).to_string().into_bytes(),
        _ => value(rng, 6).to_string().into_bytes(),
    }
}

fn pick<'a>(rng: &mut StdRng, words: &[&'a str]) -> &'a str {
    words[rng.random_range(0..words.len())]
}

fn value(rng: &mut StdRng, depth: usize) -> Value {
    match rng.random_range(0..if depth == 0 { 7 } else { 10 }) {
        0 => Value::Null,
        1 => json!(rng.random::<bool>()),
        2 => json!(rng.random_range(-3..10_i64)),
        3 => json!(rng.random::<i64>()),
        4 => json!(f64::from_bits(rng.random())),
        5 => json!(pick(rng, &["", "a", "b,c", "é😀", "nan", "inf", "1e400", "3", "\u{7f}\t", "ǰΐ", "{{ 1 }}"])),
        6 => json!(u64::MAX - rng.random_range(0..3)),
        7 | 8 => (0..rng.random_range(0..5)).map(|_| value(rng, depth - 1)).collect(),
        _ => {
            let keys =
                (0..rng.random_range(0..5)).map(|_| pick(rng, &["a", "b", "n", "text", "x y", "0", ""]).to_owned());
            let keys: Vec<_> = keys.collect();
            Value::Object(keys.into_iter().map(|key| (key, value(rng, depth - 1))).collect::<Map<_, _>>())
        }
    }
}

fn expression(rng: &mut StdRng, depth: usize) -> String {
    if depth == 0 {
        return pick(
            rng,
            &[
                "run.input",
                "run.input.a",
                "run.input.text",
                "nodes.a.output",
                "run.key",
                "run.version",
                "1",
                "0",
                "-1",
                "2.5",
                "1e300",
                "9223372036854775807",
                "170141183460469231731687303715884105727",
                "'a'",
                "\"b,c\"",
                "''",
                "true",
                "none",
                "[]",
                "{}",
                "'1e999'",
                "error",
                "'nan'|float",
                "item",
                "frames.n1.input",
            ],
        )
        .to_owned();
    }
    let part = |rng: &mut StdRng| {
        let depth = rng.random_range(0..depth);
        expression(rng, depth)
    };
    let (a, b, c) = (part(rng), part(rng), part(rng));
    let binary =
        ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or"];
    match rng.random_range(0..14) {
        0..=2 => format!("({a}) {} ({b})", pick(rng, &binary)),
        3 => format!("{a} if {b} else {c}"),
        4 => format!("not ({a})"),
        5 => format!("-({a})"),
        6 => format!("[{a}, {b}, {c}]"),
        7 => format!("{{'a': {a}, \"n\": {b}}}"),
        8 => format!("({a})[{b}]"),
        9 => format!(
            "({a})[{}:{}:{}]",
            pick(rng, &["", "0", "-1", "5"]),
            b,
            pick(rng, &["", "1", "-1", "-2", "-9223372036854775808", "0"])
        ),
        10 => format!("({a}).{}", pick(rng, &["a", "b", "n", "0", "99", "text"])),
        11 => {
            let tests = [
                "defined", "none", "even", "odd", "number", "string", "sequence", "mapping", "true", "integer", "float",
            ];
            format!("({a}) is {}{}", pick(rng, &["", "not "]), pick(rng, &tests))
        }
        12 => {
            let tests = ["divisibleby", "eq", "ne", "lt", "le", "gt", "ge", "startingwith", "endingwith"];
            format!("({a}) is {}({b})", pick(rng, &tests))
        }
        _ => {
            let plain = [
                "abs",
                "bool",
                "capitalize",
                "count",
                "first",
                "float",
                "int",
                "items",
                "join",
                "last",
                "length",
                "list",
                "lower",
                "max",
                "min",
                "reverse",
                "round",
                "select",
                "reject",
                "sort",
                "split",
                "string",
                "sum",
                "title",
                "tojson",
                "trim",
                "unique",
                "upper",
            ];
            let filter = pick(rng, &plain);
            match rng.random_range(0..10) {
                0 => format!("({a})|replace({b}, {c})"),
                1 => format!("({a})|map(attribute=\"a.b\", default={b})"),
                2 => format!("({a})|default({b}, {c})"),
                3 => format!("({a})|{filter}({b})"),
                4 => format!(
                    "({a})|select(\"{}\", {b})",
                    pick(rng, &["divisibleby", "eq", "lt", "startingwith", "odd", "none"])
                ),
                5 => format!("({a})|selectattr(\"a\", \"eq\", {b})"),
                6 => format!("({a})|sort(attribute=\"a,b.c\", reverse={b})"),
                7 => format!("({a})|{}({b}, {c})", pick(rng, &["split", "trim", "round", "join"])),
                _ => format!("({a})|{filter}"),
            }
        }
    }
}

fn template(rng: &mut StdRng, depth: usize) -> Value {
    match rng.random_range(0..if depth == 0 { 4 } else { 7 }) {
        0 | 1 => json!(format!("{{{{ {} }}}}", expression(rng, 3))),
        2 => json!(format!("a {{{{ {} }}}} b{{{{{}}}}}", expression(rng, 2), expression(rng, 2))),
        3 => value(rng, 2),
        4 | 5 => (0..rng.random_range(0..4)).map(|_| template(rng, depth - 1)).collect(),
        _ => json!({"k": template(rng, depth - 1), "a\"b": template(rng, depth - 1)}),
    }
}

fn duration(rng: &mut StdRng) -> String {
    let units = ["w", "d", "h", "m", "s", "ms", "us", "", "y", "."];
    (0..rng.random_range(0..5))
        .map(|_| match rng.random_range(0..4) {
            0 => format!("{}{}", rng.random_range(0..100), pick(rng, &units)),
            1 => {
                format!("{}.{}{}", rng.random_range(0..100), rng.random_range(0..1_000_000_000_u64), pick(rng, &units))
            }
            2 => format!("{}{}", rng.random::<u64>(), pick(rng, &units)),
            _ => format!("0{}", pick(rng, &units)),
        })
        .collect()
}

fn definition(rng: &mut StdRng) -> Value {
    let mut whole = graph(rng, "n", 2);
    whole["name"] = json!(pick(rng, &["w", "order-1", "é", ""]));
    if rng.random_range(0..4) == 0 {
        whole["input_schema"] = schema(rng, 3);
    }
    whole
}

/// Nodes and edges of a definition, or of a body; the ids of its nodes begin with `prefix`, those of bodies within it with longer ones.
fn graph(rng: &mut StdRng, prefix: &str, depth: usize) -> Value {
    let count = rng.random_range(1..if prefix.len() > 1 { 4 } else { 8 });
    let id = |number: usize| format!("{prefix}{number}");
    let nodes: Vec<Value> = (0..count)
        .map(|number| {
            let mut node = match rng.random_range(0..if depth == 0 { 9 } else { 11 }) {
                0 => json!({"type": "set", "output": template(rng, 2)}),
                1 => json!({"type": "delay", "duration": duration(rng)}),
                2 => json!({"type": "delay", "until": pick(rng, &["2030-01-31T08:00:00Z", "{{ run.input.text }}", "+999999-01-01T00:00:00Z"])}),
                3 => json!({"type": "fail", "name": "x", "message": template(rng, 0)}),
                4 => json!({"type": "terminate", "state": pick(rng, &["completed", "failed", "canceled"]), "output": template(rng, 1)}),
                5 => json!({"type": "subflow", "workflow": pick(rng, &["w", "other", "{{ x }}"]), "mode": pick(rng, &["wait", "detached"]), "timeout": duration(rng),
                    "version": pick(rng, &["pinned", "latest"]), "close_policy": pick(rng, &["terminate", "abandon", "request_cancel"])}),
                9 | 10 => block(rng, &format!("{prefix}{number}-"), depth - 1),
                _ => json!({"type": "task", "handler": "h", "timeout": duration(rng), "retry": retry(rng)}),
            };
            node["id"] = json!(if rng.random_range(0..30) == 0 { id(0) } else { id(number) });
            if rng.random_range(0..3) == 0 {
                node["input"] = template(rng, 2);
            }
            if rng.random_range(0..4) == 0 {
                node["join"] = [json!("any"), json!("all"), json!(2), json!({"n": 1}), json!(-1)][rng.random_range(0..5)].clone();
            }
            for field in ["timeout", "retry", "output"] {
                if rng.random_range(0..2) == 0 {
                    node.as_object_mut().unwrap().remove(field);
                }
            }
            node
        })
        .collect();
    let edges: Vec<Value> = (0..rng.random_range(0..10))
        .map(|_| {
            let to = rng.random_range(0..count);
            let from =
                if rng.random_range(0..15) == 0 { rng.random_range(0..=count) } else { rng.random_range(0..=to) };
            let mut edge = json!({"from": id(from), "to": id(to)});
            if rng.random() {
                edge["on"] = json!(pick(rng, &["success", "failure", "always"]));
            }
            if rng.random_range(0..4) == 0 {
                edge["when"] = json!(expression(rng, 2));
            }
            edge
        })
        .filter(|edge| edge["from"] != edge["to"])
        .collect();
    let mut whole = json!({"nodes": nodes, "edges": edges});
    if rng.random_range(0..4) == 0 {
        whole["output"] = template(rng, 2);
    }
    whole
}

/// A block without an id; the ids of the nodes in it begin with `prefix`.
fn block(rng: &mut StdRng, prefix: &str, depth: usize) -> Value {
    let [first, second, third] = ["a", "b", "c"].map(|place| graph(rng, &format!("{prefix}{place}"), depth));
    let mut block = match rng.random_range(0..6) {
        0 => {
            let branch = |id: &str, mut body: Value| {
                body["id"] = json!(id);
                body
            };
            json!({"type": "parallel", "branches": [branch("left", first), branch("right", second)], "fail_fast": rng.random::<bool>(),
                "ends": rng.random_range(0..4), "concurrency": number(rng)})
        }
        1 => {
            let items = [template(rng, 2), json!("{{ run.input.list }}"), value(rng, 2)];
            let items = &items[rng.random_range(0..3)];
            json!({"type": "foreach", "items": items, "body": first, "concurrency": number(rng),
                "tolerate": {"count": number(rng), "share": number(rng)}})
        }
        2 => {
            json!({"type": "while", "when": expression(rng, 2), "do_while": rng.random::<bool>(), "max_iterations": rng.random_range(0..200),
            "on_limit": pick(rng, &["fail", "stop"]), "keep": rng.random_range(0..3), "body": first})
        }
        3 => json!({"type": "if", "when": expression(rng, 2), "then": first, "else": second}),
        4 => {
            json!({"type": "switch", "cases": [{"when": expression(rng, 2), "body": first}, {"when": "input", "body": second}], "default": third})
        }
        _ => {
            json!({"type": "try", "body": first, "catch": [{"on": [pick(rng, &["timeout", "*", "http_*", ""])], "body": second}], "finally": third})
        }
    };
    for field in ["ends", "concurrency", "tolerate", "keep", "else", "default", "finally"] {
        if rng.random() {
            block.as_object_mut().unwrap().remove(field);
        }
    }
    block
}

fn number(rng: &mut StdRng) -> Value {
    let numbers = [json!(1), json!(0), json!(0.5), json!("{{ run.input.n }}"), value(rng, 0)];
    numbers[rng.random_range(0..5)].clone()
}

fn retry(rng: &mut StdRng) -> Value {
    if rng.random_range(0..4) == 0 {
        return (0..rng.random_range(0..3)).map(|_| retry(rng)).collect();
    }
    json!({"max_attempts": rng.random_range(0..5), "factor": rng.random_range(0..4), "initial": duration(rng), "jitter": 0.5})
}

fn schema(rng: &mut StdRng, depth: usize) -> Value {
    match rng.random_range(0..if depth == 0 { 4 } else { 8 }) {
        0 => json!({"type": pick(rng, &["object", "array", "string", "number", "nothing"])}),
        1 => json!({"$ref": pick(rng, &["#", "#/properties/a", "#/allOf/0", "#/nowhere", "https://example.com/x"])}),
        2 => json!({"pattern": pick(rng, &["^a+$", "(a+)+$", "(?=a)", "[", "a{1000}"])}),
        3 => json!(rng.random::<bool>()),
        4 => json!({"properties": {"a": schema(rng, depth - 1)}, "required": ["a"]}),
        5 => json!({"allOf": [schema(rng, depth - 1), schema(rng, depth - 1)]}),
        6 => json!({"items": schema(rng, depth - 1)}),
        _ => json!({"not": schema(rng, depth - 1)}),
    }
}

/// A state machine of a few states that lead anywhere.
fn machine(rng: &mut StdRng, depth: usize) -> Value {
    let names: Vec<String> = (0..rng.random_range(1..6_u32))
        .map(|n| format!("{depth}{}{n}", pick(rng, &["", "é ", "\"", "a.output"])))
        .collect();
    let states: Map<String, Value> = names.iter().map(|name| (name.clone(), state(rng, &names, depth))).collect();
    let mut machine = json!({"StartAt": names[0], "States": states});
    if rng.random_range(0..10) == 0 {
        machine["TimeoutSeconds"] = json!(rng.random_range(0..9));
    }
    machine
}

fn state(rng: &mut StdRng, names: &[String], depth: usize) -> Value {
    let to = |rng: &mut StdRng| names[rng.random_range(0..names.len())].clone();
    let path = |rng: &mut StdRng| {
        json!(pick(
            rng,
            &["$", "$.a", "$.a[0]", "$.text", "$['x y'].n", "$$.Map.Item.Index", "$$.Task.Token", "$.a[*]", "{{"]
        ))
    };
    let mut state = match rng.random_range(0..8) {
        0 => {
            json!({"Type": "Choice", "Choices": [{"Variable": path(rng), pick(rng, &["NumericLessThan", "StringEquals", "IsPresent", "IsNull", "TimestampEqualsPath"]): value(rng, 0), "Next": to(rng)},
            {"And": [{"Variable": "$.n", "NumericEquals": 5}, {"Not": {"Variable": "$.text", "StringMatches": "*"}}], "Next": to(rng)}]})
        }
        1 => json!({"Type": "Wait", "SecondsPath": path(rng)}),
        2 => json!({"Type": "Fail", "Error": value(rng, 0)}),
        3 => json!({"Type": "Succeed"}),
        4 if depth > 0 => json!({"Type": "Parallel", "Branches": [machine(rng, depth - 1)]}),
        5 if depth > 0 => {
            json!({"Type": "Map", "ItemsPath": path(rng), "ItemSelector": {"a.$": path(rng)}, "MaxConcurrencyPath": path(rng), "ItemProcessor": machine(rng, depth - 1)})
        }
        6 => json!({"Type": "Pass", "Result": value(rng, 2)}),
        _ => json!({"Type": "Task", "Resource": pick(rng, &["x", "arn:aws:states:::sqs:sendMessage.waitForTaskToken"]),
            "Parameters": {"b.$": path(rng), "c": value(rng, 2)}, "HeartbeatSeconds": 5,
            "Retry": [{"ErrorEquals": ["States.ALL"], "MaxAttempts": rng.random_range(0..4)}],
            "Catch": [{"ErrorEquals": [pick(rng, &["States.ALL", "A", "States.Timeout", "States.TaskFailed"])], "ResultPath": path(rng), "Next": to(rng)}]}),
    };
    match rng.random_range(0..5) {
        0 => state["End"] = json!(true),
        _ => state["Next"] = json!(to(rng)),
    }
    if state["Type"] == "Choice" || state["Type"] == "Succeed" || state["Type"] == "Fail" {
        let map = state.as_object_mut().unwrap();
        map.remove("Next");
        map.remove("End");
        if map["Type"] == "Choice" && rng.random() {
            map.insert("Default".to_owned(), json!(to(rng)));
        }
    }
    if state["Resource"] == "x" {
        state.as_object_mut().unwrap().remove("HeartbeatSeconds");
    }
    for field in ["InputPath", "ResultPath", "OutputPath"] {
        if rng.random_range(0..4) == 0 {
            state[field] = path(rng);
        }
    }
    state
}

fn wfformat(rng: &mut StdRng) -> Vec<u8> {
    let count = rng.random_range(0..12_usize);
    let id = |number: usize, rng: &mut StdRng| match rng.random_range(0..40) {
        0 => "é".repeat(number % 3),
        1 => "x".repeat(200),
        _ => format!("task {number}"),
    };
    let tasks: Vec<Value> = (0..count)
        .map(|number| {
            let parents: Vec<String> =
                (0..number).filter(|_| rng.random_range(0..3) == 0).map(|parent| format!("task {parent}")).collect();
            json!({"id": id(number, rng), "parents": parents, "children": []})
        })
        .collect();
    let executed: Vec<Value> = (0..count)
        .map(|number| {
            let seconds = [json!(1.5), json!(0), json!(1e308), json!(-1), json!(1e9), json!(null)];
            let most = if rng.random() { 2 } else { 6 };
            json!({"id": format!("task {number}"), "runtimeInSeconds": seconds[rng.random_range(0..most)]})
        })
        .collect();
    let file = json!({"schemaVersion": pick(rng, &["1.5", "1.5", "1.6", "1.4"]),
        "workflow": {"specification": {"tasks": tasks}, "execution": {"tasks": executed}}});
    let text = file.to_string().into_bytes();
    if rng.random() {
        return text;
    }
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(&text).unwrap();
    packer.finish().unwrap()
}
