#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A scope in which `run.input` is this and node `a` gave it as well.
fn with<T>(input: &Value, read: impl FnOnce(&Scope<'_>) -> T) -> T {
    let payload = Payload::of(input).unwrap();
    let find = move |reference: &Reference| match reference {
        Reference::RunInput | Reference::Output(_) | Reference::Input => Found::Json(payload.clone()),
        Reference::RunId => Found::Text("id-1".to_owned()),
        Reference::RunVersion => Found::Number(3),
        _ => Found::Null,
    };
    read(&Scope::new(&find))
}

fn render(template: &Value, input: &Value) -> Result<String, String> {
    let mut problems = Vec::new();
    let template = Template::compile(template, "t", &mut problems);
    assert!(problems.is_empty(), "{problems:?}");
    with(input, |scope| {
        template.render(scope).map(|payload| payload.as_str().to_owned()).map_err(|error| error.message)
    })
}

/// The value of an expression as JSON text.
fn value(expression: &str, input: &Value) -> Result<String, String> {
    render(&json!(format!("{{{{ {expression} }}}}")), input)
}

fn refusal(expression: &str) -> String {
    Expression::compile(expression).map(|_| ()).unwrap_err()
}

#[test]
fn a_lone_expression_keeps_its_type_and_text_spells_as_json_does() {
    let input = json!({"order": {"id": 7}, "yes": true, "none": null, "list": [1, "a"], "big": u64::MAX, "f": 1.0});
    for (template, expected) in [
        (json!("{{ run.input.order }}"), json!({"id": 7})),
        (json!("{{run.input.order.id}}"), json!(7)),
        (json!("{{ run.input.big }}"), json!(u64::MAX)),
        (json!("{{ run.input.missing.deeper }}"), json!(null)),
        (json!("{{ run.input.list[1] }}"), json!("a")),
        (json!("{{ run.input.list.0 }}"), json!(1)),
        (json!("{{ run.input.list[-1] }}"), json!("a")),
        (json!("{{ run.input['order']['id'] }}"), json!(7)),
        (json!("{{ run.input.list[5] }}"), json!(null)),
        (json!("{{ run.version }}"), json!(3)),
        (json!("{{ run.key }}"), json!(null)),
        (json!("no. {{ run.input.order.id }}"), json!("no. 7")),
        (json!("{{ run.input.yes }}!"), json!("true!")),
        (json!("<{{ run.input.none }}{{ run.input.missing.x }}>"), json!("<>")),
        (json!("{{ run.input.order }} {{ run.input.list }}"), json!("{\"id\":7} [1,\"a\"]")),
        (json!("{{ run.input.f }} {{ run.input.big }}"), json!("1.0 18446744073709551615")),
        (json!({"a": ["{{ run.id }}", 1], "b": {"c": "x"}}), json!({"a": ["id-1", 1], "b": {"c": "x"}})),
        (json!("{{ {'a': {'b': [1, true]}} }}"), json!({"a": {"b": [1, true]}})),
        (json!("{{ {'a': {}}}}"), json!({"a": {}})),
        (json!("{{ '}}' ~ \"{{\" }}"), json!("}}{{")),
        (json!("plain } text { %"), json!("plain } text { %")),
        (json!(""), json!("")),
        (json!(12), json!(12)),
    ] {
        let rendered = render(&template, &input).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&rendered).unwrap(), expected, "{template}");
    }
}

#[test]
fn numbers_pass_digit_for_digit() {
    let payload =
        Payload::from_text(r#"{"n": 123456789012345678901234567890.10, "n": 123456789012345678901234567890}"#);
    let payload = payload.unwrap();
    let find = |_: &Reference| Found::Json(payload.clone());
    let template = Template::compile(&json!(["{{ run.input.n }}", "{{ run.input }}"]), "t", &mut Vec::new());
    let rendered = template.render(&Scope::new(&find)).unwrap();
    assert_eq!(rendered.as_str(), format!("[123456789012345678901234567890,{}]", payload.as_str()));
}

#[test]
fn expressions_compute() {
    let input = json!({"n": 5, "t": "abc", "xs": [3, 1, 2], "os": [{"k": 1, "on": true}, {"k": 2}], "none": null});
    for (expression, expected) in [
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * 3 - -1", "10"),
        ("7 // 2", "3"),
        ("-7 // 2", "-4"),
        ("7 % 4", "3"),
        ("7 / 2", "3.5"),
        ("6 / 2", "3.0"),
        ("2 ** 10", "1024"),
        ("2 ** -1", "0.5"),
        ("9223372036854775807 + 1", "9223372036854775808"),
        ("1.5 + 1", "2.5"),
        ("'a' + 'b'", "\"ab\""),
        ("[1] + [2]", "[1,2]"),
        ("'n=' ~ run.input.n ~ ' ' ~ true ~ run.input.none ~ [1]", "\"n=5 true[1]\""),
        ("run.input.n > 4 and run.input.n <= 5", "true"),
        ("run.input.n == 5.0", "true"),
        ("run.input.missing == none", "true"),
        ("run.input.missing == run.input.none", "true"),
        ("run.input.missing is none and run.input.none is not defined", "true"),
        ("run.input.missing is undefined", "true"),
        ("run.input.n != none", "true"),
        ("2 in run.input.xs", "true"),
        ("9 not in run.input.xs", "true"),
        ("'b' in run.input.t", "true"),
        ("'t' in run.input", "true"),
        ("'x' in run.input.missing", "false"),
        ("not run.input.missing", "true"),
        ("not not run.input.xs", "true"),
        ("'big' if run.input.n > 3 else 'small'", "\"big\""),
        ("'big' if run.input.n > 9", "null"),
        ("1 if false else 2 if false else 3", "3"),
        ("run.input.missing or run.input.n", "5"),
        ("run.input.xs | sort | join('-')", "\"1-2-3\""),
        ("run.input.xs | length", "3"),
        ("run.input.missing | length", "0"),
        ("run.input.missing | default('d')", "\"d\""),
        ("run.input.none | default('d')", "\"d\""),
        ("'' | default('d')", "\"\""),
        ("'' | default('d', true)", "\"d\""),
        ("run.input.os | map(attribute='k') | sum", "3"),
        ("run.input.os | selectattr('on') | map(attribute='k') | list", "[1]"),
        ("run.input.os | selectattr('k', 'gt', 1) | length", "1"),
        ("run.input.xs | select('odd') | list", "[3,1]"),
        ("run.input.xs | max - run.input.xs | min", "2"),
        ("run.input.xs | first", "3"),
        ("run.input.xs[1:]", "[1,2]"),
        ("run.input.xs[::-1]", "[2,1,3]"),
        ("run.input.missing[::-1]", "[]"),
        ("[][::-1]", "[]"),
        ("''[::-1]", "\"\""),
        ("run.input.xs[0:2:-1]", "[]"),
        ("run.input.xs[-1:0:-1]", "[2,1]"),
        ("run.input.xs[::-9223372036854775807 - 1]", "[2]"),
        ("run.input.xs[1:][-1:]", "[2]"),
        ("run.input.t[0]", "\"a\""),
        ("run.input.t | upper | replace('A', 'é')", "\"éBC\""),
        ("run.input.os[0] | tojson", "\"{\\\"k\\\":1,\\\"on\\\":true}\""),
        ("run.input.t is startingwith('a')", "true"),
        ("run.input.n is divisibleby 5", "true"),
        ("run.input.n is divisibleby 0", "false"),
        ("run.input.xs | select('divisibleby', 0)", "[]"),
        ("(-170141183460469231731687303715884105727 - 1) is divisibleby(-1)", "true"),
        ("[1, 'a', none] | upper", "\"[1,\\\"A\\\",NULL]\""),
        ("{'b': 2} | items | list", "[[\"b\",2]]"),
        ("-run.input.n | abs", "5"),
        ("'3' | int + 1", "4"),
        ("{'a': 1, \"b\": [1, 2,],}.b.1", "2"),
        ("'line\\n\\u00e9'", "\"line\\né\""),
        ("nodes.a.output.n + nodes['a-b'].output.n", "10"),
        ("run.input.n and None", "null"),
    ] {
        assert_eq!(value(expression, &input), Ok(expected.to_owned()), "{expression}");
    }
}

#[test]
fn evaluation_errors_name_the_expression() {
    let input = json!({"t": "abc", "m": 1});
    for (expression, why) in [
        ("run.input.t + 1", "join text and other values with `~`"),
        ("run.input.t * 3", "`*` needs numbers, not string and number"),
        ("1 / 0", "by zero"),
        ("1.5 // 0", "no number"),
        ("1 % 0", "by zero"),
        ("10 ** 1000", "too large"),
        ("1e308 * 10", "no number"),
        ("1 in 2", "not iterable"),
        ("run.input.t[::0]", "cannot be 0"),
        ("run.input.t[1.5:]", "whole numbers"),
        ("run.input.m[1:]", "needs a list or a text"),
        ("run.input.missing + 1", "`+` needs numbers, not undefined and number"),
    ] {
        let error = value(expression, &input).unwrap_err();
        assert!(error.contains(why) && error.contains(expression), "{expression}: {error}");
    }
}

#[test]
fn what_is_not_the_language_is_refused_with_a_reason() {
    for (expression, why) in [
        ("", "empty"),
        ("   ", "empty"),
        ("1 +", "expected a value, found the end"),
        ("(1", "expected `)`"),
        ("1 2", "expected an operator or the end"),
        ("340282366920938463463374607431768211456", "too large for a whole one"),
        ("a", "there is no `a`"),
        ("range(10)", "the function `range` does not exist"),
        ("run.input.x()", "functions and methods cannot be called"),
        ("nodes", "computed reference"),
        ("nodes[run.input.x].output", "computed reference"),
        ("nodes[0].output", "computed reference"),
        ("nodes | length", "computed reference"),
        ("(nodes).a.output", "computed reference"),
        ("nodes.a", "must be followed by .output or .error"),
        ("nodes.a.x", "must be followed by .output or .error"),
        ("run", "must be followed by"),
        ("run.x", "must be followed by"),
        ("frame", "`frame` must be followed by .input or .index"),
        ("frame.item", "`frame` must be followed by .input or .index"),
        ("frames", "the id of a block around"),
        ("frames[run.input.x].input", "the id of a block around"),
        ("frames.b", "`frames.b` must be followed by .input or .index"),
        ("frames.b.output", "`frames.b` must be followed by .input or .index"),
        ("run[run.input.x]", "must be followed by"),
        ("1 | shell", "there is no filter `shell`"),
        ("1 is odd_one", "there is no test `odd_one`"),
        ("1 < 2 < 3", "cannot be chained"),
        ("run.input.x = 1", "compare with `==`"),
        ("1, 2", "expected an operator"),
        ("(1, 2)", "no tuples"),
        ("'abc", "does not end"),
        ("run.input.a-b.c", "there is no `b`"),
        ("run.input.1a", "must follow the dot"),
        ("a", "text goes in quotes"),
        ("1 ! 2", "`!` has no meaning"),
        ("1 & é", "`&` has no meaning"),
        ("{{ run.input.x }}", "leave out the `{{`"),
        ("{a: 1}", "a key in quotes"),
        ("_add", "there is no `_add`"),
        ("1 | _add(2)", "there is no filter `_add`"),
        ("r0", "there is no `r0`"),
        ("loop", "there is no `loop`"),
    ] {
        let refused = refusal(expression);
        assert!(refused.contains(why), "{expression}: {refused}");
    }
    for (template, why) in [
        ("{% if true %}x{% endif %}", "statements are not part"),
        ("a {# b #}", "comments are not part"),
        ("{{ 1", "closing `}}` is missing"),
        ("{{ }}", "empty"),
        ("{{- 1 }}", "leave a space"),
        ("{{ 1 }} {{ 'a }}", "does not end"),
        ("{{ 1 -}}", "expected a value"),
    ] {
        let mut problems = Vec::new();
        Template::compile(&json!({"x": [template]}), "t", &mut problems);
        assert!(problems.iter().any(|p| p.message.contains(why) && p.path == "t.x[0]"), "{template}: {problems:?}");
    }
    let mut problems = Vec::new();
    Template::compile(&json!({"{{ run.id }}": 1}), "t", &mut problems);
    assert!(problems.iter().any(|p| p.message.contains("key cannot be a template")));
}

#[test]
fn references_are_found_wherever_they_stand() {
    let expression = Expression::compile(
        "nodes.a.output.x if nodes['b-1.c'].error is defined else [run.input, {'k': error}] | map(attribute=run.key)",
    );
    let mut found: Vec<_> = expression.unwrap().references().iter().map(ToString::to_string).collect();
    found.sort();
    assert_eq!(found, ["error", "nodes.a.output", "nodes.b-1.c.error", "run.input", "run.key"]);
}

#[test]
fn what_blocks_give_is_read() {
    for (text, reference) in [
        ("item", Reference::Item),
        ("index", Reference::Index),
        ("frame.input", Reference::FrameInput(None)),
        ("frame.index", Reference::FrameIndex(None)),
        ("frames.each.input", Reference::FrameInput(Some("each".to_owned()))),
        ("frames['each-1'].index", Reference::FrameIndex(Some("each-1".to_owned()))),
        ("frames.each['index']", Reference::FrameIndex(Some("each".to_owned()))),
    ] {
        for text in [text, &format!("[{text}.a, {text}]")] {
            assert_eq!(Expression::compile(text).unwrap().references(), std::slice::from_ref(&reference), "{text}");
        }
        if !text.contains('[') {
            assert_eq!(reference.to_string(), text);
        }
    }
    let find = |reference: &Reference| match reference {
        Reference::Item => Found::Json(Payload::of(&json!({"id": 7})).unwrap()),
        Reference::FrameIndex(Some(_)) => Found::Number(3),
        _ => Found::Null,
    };
    let template = Template::compile(&json!("{{ item.id }}-{{ frames.each.index + 1 }}"), "t", &mut Vec::new());
    assert_eq!(template.render(&Scope::new(&find)).unwrap().as_str(), "\"7-4\"");
}

/// Everything here ends with an error, or with a small result, in bounded time and stack. It runs on a thread with
/// the small stack of a runtime's worker, in the debug profile's large frames.
#[test]
fn big_and_deep_expressions_end_with_an_error() {
    let run = || {
        for text in [
            format!("{}1{}", "(".repeat(10_000), ")".repeat(10_000)),
            format!("{}1", "-".repeat(100_000)),
            format!("{}1", "not ".repeat(1_500)),
            format!("{}1", "[".repeat(5_000)),
            format!("{}1", "{'a':".repeat(1_000)),
            format!("1{}", "+1".repeat(4_000)),
            format!("1{}", " if 1 else 1".repeat(600)),
            "x".repeat(1_000_000),
            format!("'{}'", "x".repeat(100_000)),
            format!("1{}", "|abs".repeat(3_000)),
            format!("run.input{}", ".a".repeat(3_000)),
        ] {
            assert!(Expression::compile(&text).is_err(), "{}", text.chars().take(20).collect::<String>());
            let mut problems = Vec::new();
            Template::compile(&json!(format!("{{{{ {text} }}}}")), "t", &mut problems);
            assert!(!problems.is_empty());
        }
        // The largest that are allowed work.
        let input = json!({"t": "abc", "xs": (0..50_000).collect::<Vec<_>>(), "long": "x".repeat(100_000)});
        for text in [
            format!("{}1{}", "(".repeat(30), ")".repeat(30)),
            format!("1{}", "+1".repeat(240)),
            format!("1{}", " and 1".repeat(240)),
            format!("1{}", "|abs".repeat(240)),
            format!("'a'{}", "~'a'".repeat(240)),
            format!("run.input{}", ".a".repeat(240)),
            format!("{}1{}", "[".repeat(30), "]".repeat(30)),
            format!("1{}", " if 1 else 1".repeat(25)),
        ] {
            value(&text, &input).unwrap();
        }
        let double = |times: usize| "run.input.long".to_owned() + &" ~ run.input.long".repeat(times);
        for (text, why) in [
            ("\"x\" * 1000000000".to_owned(), "needs numbers"),
            ("[1] * 1000000000".to_owned(), "needs numbers"),
            (double(20), "larger than"),
            (format!("[{}]", vec!["run.input.long"; 20].join(",")), "larger than"),
            ("run.input.long | replace('x', run.input.long)".to_owned(), "larger than"),
            ("run.input.long | replace('', run.input.long)".to_owned(), "larger than"),
            ("run.input.xs | join(run.input.long)".to_owned(), "larger than"),
            (
                format!(
                    "({0}) + ({0}) + ({0})",
                    "run.input.xs + run.input.xs + run.input.xs + run.input.xs + run.input.xs + run.input.xs + run.input.xs"
                ),
                "larger than",
            ),
            ("run.input.xs | select('in', run.input.xs)".to_owned(), "unknown test"),
            ("run.input.xs | map('upper')".to_owned(), ""),
        ] {
            let error = value(&text, &input).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        // A template of many parts is bounded as a whole.
        let many = json!(vec!["{{ run.input.long }}"; 50]);
        assert!(render(&many, &input).unwrap_err().contains("more than"));
        assert!(render(&json!("{{ run.input.long }} ".repeat(50)), &input).unwrap_err().contains("more than"));
    };
    std::thread::Builder::new().stack_size(2 * 1024 * 1024).spawn(run).unwrap().join().unwrap();
}

#[test]
fn what_cannot_be_stored_is_an_error() {
    assert!(value("'a\\u0000b'", &json!(1)).unwrap_err().contains("cannot be stored"));
}

/// Filters are cheap for MiniJinja's fuel, however large what they are given.
#[test]
fn work_is_paid_for_by_the_size_of_values() {
    let input = json!({"t": "x".repeat(100_000), "xs": (0..100_000).collect::<Vec<_>>()});
    let many = "run.input.xs | map(attribute='z', default=run.input.t)";
    for expression in [format!("{many} | sort"), format!("({many}) == ({many})"), format!("'x' | replace({many}, 'y')")]
    {
        assert!(value(&expression, &input).unwrap_err().contains("too much work"), "{expression}");
    }
    assert_eq!(value("run.input.xs | sort(reverse=true) | first", &input), Ok("99999".to_owned()));
    // What is left is one for all expressions of a template.
    let often = json!(vec!["{{ run.input.xs | sum }}"; 1_000]);
    assert!(render(&often, &input).unwrap_err().contains("too much work"));
}

#[test]
fn a_value_that_cannot_be_read_is_an_error_and_not_null() {
    let deep = Payload::trusted(Arc::from(format!("{}1{}", "[".repeat(200), "]".repeat(200))));
    let find = |_: &Reference| Found::Json(deep.clone());
    let error = Expression::compile("run.input is none").unwrap().is_true(&Scope::new(&find)).unwrap_err();
    assert!(error.message.contains("run.input cannot be read"), "{error:?}");
}

#[test]
fn a_deep_payload_is_read_on_a_small_stack() {
    let text = format!("{}1{}", "{\"a\":".repeat(120), "}".repeat(120));
    let payload = Payload::from_text(&text).unwrap();
    let run = move || {
        let find = |_: &Reference| Found::Json(payload.clone());
        let scope = Scope::new(&find);
        let expression = Expression::compile("run.input == nodes.a.output and run.input.a.a != 1").unwrap();
        assert!(expression.is_true(&scope).unwrap());
        assert!(Expression::compile("[run.input] | tojson | length").unwrap().json(&scope).unwrap() > String::new());
    };
    std::thread::Builder::new().stack_size(2 * 1024 * 1024).spawn(run).unwrap().join().unwrap();
}

proptest! {
    /// No text makes the parser, the compiler or the evaluation panic, and what our parser accepts MiniJinja compiles.
    #[test]
    fn no_expression_panics(
        parts in prop::collection::vec(prop_oneof![
            Just("run.input"), Just("nodes.a.output"), Just("nodes"), Just("error"), Just("item"), Just("frame"), Just("frames.b"), Just(".index"), Just(".x"), Just("[0]"), Just("[1:]"), Just("(")
            , Just(")"), Just("["), Just("]"), Just("{"), Just("}"), Just("'k'"), Just(":"), Just(","), Just("1"), Just("2.5"), Just("-")
            , Just("+"), Just("*"), Just("**"), Just("~"), Just("|length"), Just("|join"), Just("|sort"), Just("|first"), Just("|items")
            , Just(" is "), Just("none"), Just(" not "), Just(" in "), Just(" and "), Just(" or "), Just(" if "), Just(" else ")
            , Just("=="), Just("<"), Just("é"), Just("\""), Just("}}"), Just("{{"), Just("99999999999999999999"), Just("|round")
            , Just("|sum"), Just("|reverse"), Just("|int"), Just("|default(1)"), Just("|unique"), Just("|split"), Just("|max"),
        ], 1..9),
    ) {
        let text = parts.concat();
        let input = json!({"x": [1, "a", null, {"k": 2}], "k": "text"});
        if parse::bare(&text).is_ok() {
            let compiled = Expression::compile(&text);
            prop_assert!(compiled.is_ok() || text.contains("{{"), "{} {:?}", text, compiled.err());
            if let Ok(expression) = compiled {
                let _ = with(&input, |scope| (expression.is_true(scope).is_ok(), expression.json(scope).is_ok()));
            }
        }
        let mut problems = Vec::new();
        let template = Template::compile(&json!(text), "t", &mut problems);
        let _ = with(&input, |scope| template.render(scope));
    }

    /// The constant path through the text finds what MiniJinja finds.
    #[test]
    fn the_short_way_finds_the_same(
        steps in prop::collection::vec(prop_oneof![Just(".a"), Just(".b"), Just("[0]"), Just("[1]"), Just("['a']"), Just(".0")], 0..5),
    ) {
        let input = json!({"a": {"a": [1, {"b": "t"}], "b": null, "0": 5}, "b": [{"a": [[true], 2]}, "text"]});
        let path = steps.concat();
        let short = value(&format!("run.input{path}"), &input);
        let long = value(&format!("(run.input|default(1)){path}"), &input);
        prop_assert_eq!(short, long, "{}", path);
    }
}

#[test]
fn a_document_is_changed_by_put_and_what_is_required_must_be_there() {
    let input = json!({"a": {"b": 1, "n": null}, "list": [{"x": 1}, 2], "t": "a*b"});
    for (expression, expected) in [
        ("run.input.a|put(['c'], 7)", json!({"b": 1, "n": null, "c": 7})),
        ("run.input.a|put(['b'], run.input.list)", json!({"b": [{"x": 1}, 2], "n": null})),
        ("run.input.a|put(['c', 'd'], run.input.missing)", json!({"b": 1, "n": null, "c": {"d": null}})),
        ("run.input.list|put([0, 'y'], 2)", json!([{"x": 1, "y": 2}, 2])),
        ("(run.input|put(['a'], 1)).list[1]", json!(2)),
        ("run.input.missing|put(['a'], 1)", json!({"a": 1})),
        ("run.input|put([], 1)", json!(1)),
        ("run.input.a.n|required", json!(null)),
        ("[run.input.a.n is present, run.input.a.m is present, run.input.x.y is present]", json!([true, false, false])),
        ("['aXb' is matching 'a*b', 'aXc' is matching 'a*b', 7 is matching '*']", json!([true, false, false])),
        ("'2016-03-14T01:59:00Z'|timestamp < '2016-03-14T01:58:59-00:01'|timestamp", json!(true)),
    ] {
        let given: Value = serde_json::from_str(&value(expression, &input).expect(expression)).unwrap();
        assert_eq!(given, expected, "{expression}");
    }
    for (expression, why) in [
        ("run.input.a.m|required", "leads nowhere"),
        ("run.input.a|put(['b', 'c'], 1)", "`put` finds number where the step c"),
        ("run.input.a|put(['n', 'c'], 1)", "`put` finds none where the step c"),
        ("run.input.list|put([2], 1)", "`put` finds no item 2 in a list of 2"),
        ("run.input.list|put(['a'], 1)", "`put` finds sequence where"),
    ] {
        let failed = value(expression, &input).unwrap_err();
        assert!(failed.contains(why), "{expression}: {failed}");
    }
}
