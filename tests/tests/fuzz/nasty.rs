//! Inputs made to hang, to overflow the stack or to eat memory: each ends within its time, on a worker's stack, and the whole within a bound of
//! memory. What random inputs rarely are: large, deep, or the worst case of an algorithm.

use std::fs;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use longshore_core::definition::{Definition, MAX_NODES};
use longshore_tests::fuzz;
use serde_json::{Value, json};

use crate::STACK;

/// The longest that one of these may take in the debug profile, on a busy machine.
const LONGEST: Duration = Duration::from_secs(15);
/// What the process may hold at most; the largest input here is a definition of twenty thousand nodes and a hundred thousand edges.
const MOST_MEMORY: u64 = 700 * 1024 * 1024;

/// One at a time, so that each is measured by itself.
static ALONE: Mutex<()> = Mutex::new(());

/// Does it on a small stack, and fails when it takes too long.
fn within_bounds(what: &str, act: impl FnOnce() + Send + 'static) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    fs::write("/proc/self/clear_refs", "5").ok(); // the most so far is what there is now
    let (done, told) = mpsc::channel();
    let began = Instant::now();
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(move || {
        act();
        done.send(()).ok();
    });
    if told.recv_timeout(LONGEST) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("{what} takes longer than {LONGEST:?}");
    }
    thread.unwrap().join().unwrap_or_else(|_| panic!("{what} failed"));
    eprintln!("{what}: {:?}, {} MiB", began.elapsed(), most_memory() >> 20);
    assert!(most_memory() < MOST_MEMORY, "{what}: {} bytes of memory", most_memory());
}

/// The most memory the process has held since that was reset; 0 where the system does not tell.
fn most_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Evaluates it as a template.
fn evaluate(what: &str, expression: &str, input: &Value) {
    let template = json!(format!("{{{{ {expression} }}}}"));
    let text = format!("{template}\n{input}");
    within_bounds(what, move || fuzz::template(text.as_bytes()));
}

fn deep(levels: usize) -> Value {
    (0..levels).fold(json!(1), |inner, _| json!({ "a": inner }))
}

#[test]
fn an_expression_ends_whatever_it_multiplies() {
    let text = "x".repeat(900_000);
    let large = json!({"text": text, "list": (0..150_000).collect::<Vec<_>>(), "objects": vec![json!({"a": 1}); 40_000], "deep": deep(120),
        "n": 7});
    // A list of which each item is the whole input, and a list of those.
    let many = "run.input.list|map(attribute='z', default=run.input)";
    let more = format!("run.input.list|map(attribute='z', default={many})");
    let texts = "run.input.list|map(attribute='z', default=run.input.text)";
    for (what, expression) in [
        ("two lists of inputs compared", format!("({many}) == ({many})")),
        ("two lists of lists compared", format!("({more}) < ({more})")),
        ("lists of lists sorted", format!("({more})|sort|length")),
        ("long texts sorted", format!("({texts})|sort|length")),
        ("long texts made unique", format!("({texts})|unique|length")),
        ("the largest of many inputs", format!("({many})|max|length")),
        ("an item looked for in many inputs", format!("run.input.deep in ({many})")),
        ("many texts summed", format!("({texts})|sum")),
        ("many texts joined", format!("({texts})|join('-')")),
        ("many texts as a text", format!("({texts})|upper|length")),
        ("many texts to be replaced", format!("'x'|replace({texts}, 'y')")),
        ("many texts as a replacement", format!("'x'|replace('x', {texts})")),
        ("many texts as the name of a test", format!("[1]|select({texts})")),
        ("many texts to start with", format!("({texts}) is startingwith({texts})")),
        ("many texts compared with one", format!("({texts})|select('eq', run.input.text)|length")),
        ("a place far in many texts", format!("({texts})|map(attribute='899999')|length")),
        ("many inputs as JSON", format!("({more})|tojson")),
        ("many inputs as text", format!("({more}) ~ ({more})")),
        ("objects sorted by an attribute", "run.input.objects|sort(attribute='a')|length".to_owned()),
        (
            "objects sorted by many attributes",
            format!("run.input.objects|sort(attribute='{}')|length", ["a"; 2_000].join(",")),
        ),
        (
            "objects mapped by a long path",
            format!("run.input.objects|map(attribute='{}')|length", ["a"; 2_000].join(".")),
        ),
        ("slices of slices", format!("run.input.list{}|length", "[1:]".repeat(90))),
        ("a list turned many times", format!("run.input.list{}|first", "|reverse".repeat(200))),
        ("a text cut to characters", format!("run.input.text{}|length", "|list|join".repeat(20))),
        ("a text split at nothing", "run.input.text|split('')|length".to_owned()),
        ("a text doubled", format!("{}run.input.text", "run.input.text ~ ".repeat(200))),
        ("texts added", format!("run.input.text{}", " + run.input.text".repeat(100))),
        ("lists added", format!("(run.input.list{})|length", " + run.input.list".repeat(100))),
        ("a list of lists", format!("[{}]|length", ["run.input.list"; 200].join(","))),
        (
            "nested lists of an input",
            (0..30).fold("run.input".to_owned(), |inner, _| format!("[{inner},run.input,run.input]")),
        ),
        ("powers of powers", format!("9{}", "**9".repeat(200))),
        ("a text repeated", "run.input.text * 1000000000".to_owned()),
        ("a list repeated", "run.input.list * 1000000000".to_owned()),
        ("a range", "range(1000000000)".to_owned()),
        ("a path into a large input", "run.input.deep".to_owned() + &".a".repeat(119)),
    ] {
        evaluate(what, &expression, &large);
    }
}

#[test]
fn an_expression_ends_however_deep_or_long_it_is() {
    for (what, expression) in [
        ("brackets", format!("{}1{}", "(".repeat(100_000), ")".repeat(100_000))),
        ("the most brackets", format!("{}1{}", "(".repeat(31), ")".repeat(31))),
        ("the most lists", format!("{}1{}", "[".repeat(31), "]".repeat(31))),
        ("the most objects", format!("{}1{}", "{'a':".repeat(31), "}".repeat(31))),
        ("the most subscripts", format!("{}1{}", "run.input[".repeat(31), "]".repeat(31))),
        ("the most arguments", format!("{}1{}", "1|default(".repeat(31), ")".repeat(31))),
        ("the most conditions", format!("1{}", " if 1 else 1".repeat(30))),
        ("minus signs", format!("{}1", "-".repeat(31))),
        ("negations", format!("{}1", "not ".repeat(31))),
        ("sums", format!("1{}", "+1".repeat(249))),
        ("conjunctions", format!("1{}", " and 1".repeat(249))),
        ("alternatives", format!("0{}", " or 0".repeat(249))),
        ("powers", format!("1{}", "**1".repeat(249))),
        ("filters", format!("1{}", "|abs".repeat(249))),
        ("tests", format!("1{}", " is odd".repeat(249))),
        ("dots", format!("run.input{}", ".a".repeat(248))),
        ("places", format!("run.input{}", "[0]".repeat(160))),
        ("slices", format!("run.input{}", "[:]".repeat(120))),
        ("a long text", format!("'{}'", "é".repeat(4_000))),
        ("a text too long", format!("'{}'", "é".repeat(400_000))),
        ("a long number", "9".repeat(8_000)),
        ("a long fraction", format!("0.{}", "9".repeat(8_000))),
        ("a long exponent", format!("1e{}", "9".repeat(8_000))),
        ("blanks", format!("1{}+ 1", " ".repeat(8_000))),
        ("a text without end", format!("'{}", "\\'".repeat(4_000))),
    ] {
        let input = deep(126);
        evaluate(what, &expression, &input);
        within_bounds(what, move || fuzz::expression(format!("{expression}\n{input}").as_bytes()));
    }
}

#[test]
fn a_template_ends_however_large_it_is() {
    let input = json!({"a": "x".repeat(500_000), "list": (0..100_000).collect::<Vec<_>>()});
    for (what, template) in [
        ("many paths", json!("{{ run.input.b }}".repeat(20_000))),
        ("many texts", json!("{{ run.input.a }}".repeat(20_000))),
        ("many walks", json!("{{ run.input == nodes.a.output }}".repeat(20_000))),
        ("many walks in a list", json!(vec!["{{ run.input.list|sum }}"; 10_000])),
        ("many constants", json!("{{ 1 }}".repeat(20_000))),
        ("many openings", json!("{{".repeat(200_000))),
        ("items below a long key", json!({"k".repeat(500_000): vec![0; 200_000]})),
        ("expressions below a long key", json!({"k".repeat(500_000): vec!["{{ error }}"; 5_000]})),
        (
            "wrong expressions below long keys",
            (0..100).fold(json!(vec!["{{ x }}"; 3_000]), |inner, _| json!({"k".repeat(5_000): inner})),
        ),
        ("the deepest", (0..126).fold(json!("{{ run.input.list }}"), |inner, _| json!([inner]))),
        ("deeper than can be read", (0..126).fold(json!("{{ [[run.input.list]] }}"), |inner, _| json!([inner]))),
    ] {
        let text = format!("{template}\n{input}");
        within_bounds(what, move || fuzz::template(text.as_bytes()));
    }
}

/// What it is, and how it is made: one is in memory at a time.
type Case<'a> = (&'a str, Box<dyn Fn() -> Value + 'a>);

#[test]
fn a_definition_is_checked_however_it_is_shaped() {
    let task = |number: usize| json!({"id": format!("n{number}"), "type": "task", "handler": "h"});
    let of = |count: usize, edges: Vec<Value>| json!({"name": "w", "nodes": (0..count).map(task).collect::<Vec<_>>(), "edges": edges});
    let edge = |from: usize, to: usize| json!([format!("n{from}"), format!("n{to}")]);
    let most = MAX_NODES;
    let read_by_all = |count: usize| {
        let mut whole = of(count, (1..count).map(|to| edge(0, to)).collect());
        for node in whole["nodes"].as_array_mut().unwrap() {
            node["input"] = json!(vec!["{{ nodes.n1.output }}{{ error }}"; 20]);
        }
        whole
    };
    let wrong = || {
        let mut whole = of(most, Vec::new());
        for node in whole["nodes"].as_array_mut().unwrap() {
            node["retry"] = json!({"max_attempts": 0, "factor": 0, "jitter": 9, "retry_on": []});
        }
        whole
    };
    let joined = || {
        let mut whole = of(most, (0..most - 1).map(|from| edge(from, most - 1)).collect());
        whole["nodes"][most - 1]["input"] = json!(vec!["{{ nodes.n1.output }}{{ error }}"; 20_000]);
        whole
    };
    let doubling: serde_json::Map<String, Value> = (1..40)
        .map(|n| {
            (
                format!("a{n}"),
                json!({"allOf": [{"$ref": format!("#/$defs/a{}", n - 1)}, {"$ref": format!("#/$defs/a{}", n - 1)}]}),
            )
        })
        .chain([("a0".to_owned(), json!({"type": "object"}))])
        .collect();
    let row = |refer: fn(String) -> Value| -> serde_json::Map<String, Value> {
        let others = (1..5_000).map(|n| (format!("a{n}"), refer(format!("#/$defs/a{}", n - 1))));
        others.chain([("a0".to_owned(), json!(true))]).collect()
    };
    let schema = |schema: Value| json!({"name": "w", "input_schema": schema, "nodes": [task(0)]});
    let cases: Vec<Case<'_>> = vec![
        ("the longest chain", Box::new(|| of(most, (1..most).map(|to| edge(to - 1, to)).collect()))),
        ("the longest circle", Box::new(|| of(most, (0..most).map(|from| edge(from, (from + 1) % most)).collect()))),
        (
            "as many circles as there can be",
            Box::new(|| of(most, (0..most).map(|from| edge(from, from ^ 1)).collect())),
        ),
        ("loops of one node", Box::new(|| of(most, (0..most).map(|node| edge(node, node)).collect()))),
        (
            "much behind a circle",
            Box::new(|| {
                of(
                    most,
                    (0..most).map(|to| edge((to + 1) % 3, to)).chain((3..most).map(|to| edge(to - 1, to))).collect(),
                )
            }),
        ),
        ("the widest join", Box::new(|| of(most, (0..most - 1).map(|from| edge(from, most - 1)).collect()))),
        ("the widest join, read often", Box::new(joined)),
        (
            "a dense graph",
            Box::new(|| of(400, (0..400).flat_map(|to| (0..to).map(move |from| edge(from, to))).collect())),
        ),
        ("one edge many times", Box::new(|| of(2, vec![edge(0, 1); 100_000]))),
        ("dangling edges", Box::new(|| of(2, (0..100_000).map(|n| edge(n + 5, n + 6)).collect()))),
        ("one id many times", Box::new(|| json!({"name": "w", "nodes": vec![task(0); most], "edges": []}))),
        ("many references", Box::new(|| read_by_all(500))),
        ("wrong policies", Box::new(wrong)),
        (
            "unknown fields",
            Box::new(
                || json!({"name": "w", "nodes": [task(0)], "x": 1, "edges": vec![json!({"from": "n0", "to": "n0", "y": 1}); 20_000]}),
            ),
        ),
        ("more nodes than there may be", Box::new(|| json!({"name": "w", "nodes": vec![task(0); most + 1]}))),
        ("a schema that is itself", Box::new(|| schema(json!({"$ref": "#"})))),
        ("a schema of itself", Box::new(|| schema(json!({"allOf": [{"$ref": "#"}]})))),
        (
            "schemas of each other",
            Box::new(|| {
                schema(json!({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]},
            "b": {"not": {"$ref": "#/$defs/a"}}}}))
            }),
        ),
        ("a schema that doubles", Box::new(|| schema(json!({"$ref": "#/$defs/a39", "$defs": doubling})))),
        ("a schema twice of itself", Box::new(|| schema(json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]})))),
        (
            "a row of schemas",
            Box::new(|| schema(json!({"$ref": "#/$defs/a4999", "$defs": row(|before| json!({"$ref": before}))}))),
        ),
        (
            "the longest row of schemas",
            Box::new(|| {
                schema(json!({"$ref": "#/$defs/a120", "$defs": row(|before| json!({"allOf": [{"$ref": before}]}))}))
            }),
        ),
        (
            "a row of properties",
            Box::new(|| {
                schema(json!({"$ref": "#/$defs/a4999",
            "$defs": row(|before| json!({"properties": {"a": {"$ref": before}}}))}))
            }),
        ),
        (
            "a schema of large patterns",
            Box::new(|| {
                schema(json!({"patternProperties": (0..200).map(|n| (format!("^a{{{}}}", 900 + n),
            json!({"pattern": "(a{30}){30}"}))).collect::<serde_json::Map<_, _>>()}))
            }),
        ),
        ("a schema with a slow pattern", Box::new(|| schema(json!({"properties": {"text": {"pattern": "^(a+)+$"}}})))),
    ];
    for (what, definition) in cases {
        let text = definition().to_string();
        within_bounds(what, move || fuzz::definition(text.as_bytes()));
    }
}

#[test]
fn deep_texts_are_refused_and_not_followed() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        for levels in [126, 127, 128, 500_000] {
            let text = format!("{}1{}", open.repeat(levels), close.repeat(levels));
            within_bounds(&format!("{levels} levels of {open}"), move || {
                fuzz::payload(text.as_bytes());
                fuzz::definition(text.as_bytes());
                fuzz::wfformat(text.as_bytes());
                fuzz::template(format!("{text}\n{text}").as_bytes());
            });
        }
    }
    // A definition whose templates are as deep as can be stored.
    let whole = json!({"name": "w", "nodes": [{"id": "a", "type": "set", "output": deep(124)}], "output": deep(126)});
    assert!(Definition::from_json(&whole).is_ok());
    within_bounds("deep templates", move || fuzz::definition(whole.to_string().as_bytes()));
}

#[test]
fn a_recorded_workflow_is_read_however_its_tasks_are_spelled() {
    let file = |tasks: Vec<Value>| {
        json!({"schemaVersion": "1.5", "workflow": {"specification": {"tasks": tasks}}}).to_string()
    };
    let same =
        |count: usize| (0..count).map(|n| json!({"id": "任".repeat(1 + n % 3) + &"\u{301}".repeat(n)})).collect();
    let script: Vec<Value> = (0..MAX_NODES as u32)
        .map(|n| {
            let id: String = [0x4e00 + n % 100, 0x4e00 + n / 100].into_iter().filter_map(char::from_u32).collect();
            json!({ "id": id })
        })
        .collect();
    for (what, text) in [
        ("ids in another script", file(script)),
        ("long ids in another script", file(same(1_000))),
        ("more tasks than there may be", file((0..=MAX_NODES).map(|n| json!({"id": format!("{n}")})).collect())),
        (
            "a chain",
            file(
                (0..MAX_NODES)
                    .map(|n| json!({"id": format!("{n}"), "children": [format!("{}", (n + 1).min(MAX_NODES - 1))]}))
                    .collect(),
            ),
        ),
    ] {
        within_bounds(what, move || fuzz::wfformat(text.as_bytes()));
    }
}
