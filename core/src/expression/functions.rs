//! The operators, filters and tests of expressions, each with a bound on what it builds.
//!
//! MiniJinja's own are used where their result is no larger than what they are given. The others are ours, so that
//! no expression can build more than a mebibyte of text or a million items, text spells values as JSON does, and a
//! missing path is null. All but those that take no time pay for what they walk.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::io;
use std::sync::LazyLock;

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, filters, tests};

use super::document;
use super::slice::slice;
use super::work::{Cost, add_paid, pay};
use crate::pattern::matches;

/// The most bytes of text or JSON an expression may build.
pub(super) const MAX_TEXT: usize = 1024 * 1024;
/// The most items a list may get by `+`.
const MAX_ITEMS: usize = 1_000_000;
/// MiniJinja instructions per evaluation.
const FUEL: u64 = 100_000;

/// The filters an author may use.
pub(super) const FILTERS: &[&str] = &[
    "abs",
    "bool",
    "capitalize",
    "count",
    "default",
    "first",
    "float",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "put",
    "reject",
    "rejectattr",
    "replace",
    "required",
    "reverse",
    "round",
    "select",
    "selectattr",
    "sort",
    "split",
    "string",
    "sum",
    "timestamp",
    "title",
    "tojson",
    "trim",
    "unique",
    "upper",
];

/// The tests an author may use after `is`, and in `select` and its kin.
pub(super) const TESTS: &[&str] = &[
    "boolean",
    "defined",
    "divisibleby",
    "endingwith",
    "eq",
    "even",
    "false",
    "float",
    "ge",
    "gt",
    "integer",
    "le",
    "lt",
    "mapping",
    "matching",
    "ne",
    "none",
    "number",
    "odd",
    "present",
    "sequence",
    "startingwith",
    "string",
    "true",
    "undefined",
];

/// The one environment of all expressions.
pub(super) static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut env = Environment::empty();
    env.set_undefined_behavior(UndefinedBehavior::Chainable);
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(50);
    env.set_debug(false);
    add_operators(&mut env);
    add_filters(&mut env);
    add_tests(&mut env);
    env
});

fn add_operators(env: &mut Environment<'static>) {
    add_paid(env, "_add", Cost::Walk, add);
    env.add_filter("_sub", |a: Value, b: Value| arithmetic("-", &a, &b, i128::checked_sub, |a, b| a - b));
    env.add_filter("_mul", |a: Value, b: Value| arithmetic("*", &a, &b, i128::checked_mul, |a, b| a * b));
    env.add_filter("_div", divide);
    env.add_filter("_floordiv", |a: Value, b: Value| {
        arithmetic("//", &a, &b, i128::checked_div_euclid, |a, b| (a / b).floor())
    });
    env.add_filter("_rem", |a: Value, b: Value| arithmetic("%", &a, &b, i128::checked_rem_euclid, f64::rem_euclid));
    env.add_filter("_pow", |a: Value, b: Value| {
        arithmetic("**", &a, &b, |a, b| u32::try_from(b).ok().and_then(|b| a.checked_pow(b)), f64::powf)
    });
    env.add_filter("_neg", |a: Value| arithmetic("-", &Value::from(0), &a, i128::checked_sub, |a, b| a - b));
    env.add_filter("_not", |a: Value| !a.is_true());
    add_paid(env, "_concat", Cost::Walk, |a: Value, b: Value| bounded(text(&a)? + &text(&b)?));
    add_paid(env, "_eq", Cost::Walk, |a: Value, b: Value| null(a) == null(b));
    add_paid(env, "_ne", Cost::Walk, |a: Value, b: Value| null(a) != null(b));
    add_paid(env, "_lt", Cost::Walk, |a: Value, b: Value| null(a).cmp(&null(b)) == Ordering::Less);
    add_paid(env, "_le", Cost::Walk, |a: Value, b: Value| null(a).cmp(&null(b)) != Ordering::Greater);
    add_paid(env, "_gt", Cost::Walk, |a: Value, b: Value| null(a).cmp(&null(b)) == Ordering::Greater);
    add_paid(env, "_ge", Cost::Walk, |a: Value, b: Value| null(a).cmp(&null(b)) != Ordering::Less);
    add_paid(env, "_in", Cost::Walk, contained);
    add_paid(env, "_slice", Cost::Walk, slice);
    env.add_filter("_is", |state: &State<'_, '_>, a: Value, name: String, more: Rest<Value>| {
        let mut arguments = vec![a];
        arguments.extend(more.0);
        if arguments.len() > 1 {
            pay(Cost::Walk, &arguments)?; // a test without arguments looks at the kind only
        }
        state.perform_test(&name, &arguments)
    });
}

fn add_filters(env: &mut Environment<'static>) {
    // Results no larger than the value they are given.
    add_paid(env, "abs", Cost::Walk, filters::abs);
    add_paid(env, "bool", Cost::Walk, filters::bool);
    add_paid(env, "capitalize", Cost::Text, filters::capitalize);
    add_paid(env, "float", Cost::Walk, filters::float);
    add_paid(env, "int", Cost::Walk, filters::int);
    add_paid(env, "lower", Cost::Text, filters::lower);
    add_paid(env, "max", Cost::Walk, filters::max);
    add_paid(env, "min", Cost::Walk, filters::min);
    add_paid(env, "round", Cost::Walk, filters::round);
    add_paid(env, "sort", Cost::Sort, filters::sort);
    add_paid(env, "split", Cost::Split, filters::split);
    add_paid(env, "sum", Cost::Walk, filters::sum);
    add_paid(env, "title", Cost::Text, filters::title);
    add_paid(env, "trim", Cost::Text, filters::trim);
    add_paid(env, "unique", Cost::Sort, filters::unique);
    add_paid(env, "upper", Cost::Text, filters::upper);
    add_paid(env, "list", Cost::Split, filters::list);
    // The same, where the names they are given must be texts.
    add_paid(env, "reject", Cost::Each, |state: &State<'_, '_>, a: Value, test: Option<&str>, more: Rest<Value>| {
        filters::reject(state, a, test.map(Cow::from), more)
    });
    add_paid(env, "select", Cost::Each, |state: &State<'_, '_>, a: Value, test: Option<&str>, more: Rest<Value>| {
        filters::select(state, a, test.map(Cow::from), more)
    });
    add_paid(
        env,
        "rejectattr",
        Cost::Each,
        |state: &State<'_, '_>, a: Value, path: &str, test: Option<&str>, more: Rest<Value>| {
            filters::rejectattr(state, a, path.into(), test.map(Cow::from), more)
        },
    );
    add_paid(
        env,
        "selectattr",
        Cost::Each,
        |state: &State<'_, '_>, a: Value, path: &str, test: Option<&str>, more: Rest<Value>| {
            filters::selectattr(state, a, path.into(), test.map(Cow::from), more)
        },
    );
    // The same; MiniJinja's are lazy, so that each of a chain would walk all before it.
    add_paid(env, "items", Cost::Walk, |a: &Value| eager(filters::items(a)?));
    add_paid(env, "reverse", Cost::Walk, |a: &Value| eager(filters::reverse(a)?));
    // Ours.
    env.add_filter("count", length);
    env.add_filter("length", length);
    env.add_filter("default", |a: Value, other: Option<Value>, also_false: Option<bool>| {
        if is_null(&a) || also_false == Some(true) && !a.is_true() { other.unwrap_or_default() } else { a }
    });
    env.add_filter("first", |a: Value| if is_null(&a) { Ok(a) } else { filters::first(&a) });
    env.add_filter("last", |a: Value| if is_null(&a) { Ok(a) } else { filters::last(a) });
    add_paid(env, "join", Cost::Walk, join);
    add_paid(env, "map", Cost::Each, map);
    add_paid(env, "put", Cost::Walk, document::put);
    add_paid(env, "replace", Cost::Text, replace);
    env.add_filter("required", document::required);
    add_paid(env, "string", Cost::Walk, |a: Value| text(&a));
    env.add_filter("timestamp", document::timestamp);
    add_paid(env, "tojson", Cost::Walk, |a: Value| json(&a));
}

fn eager(value: Value) -> Result<Value, Error> {
    if is_list(&value) { Ok(value.try_iter()?.collect::<Vec<_>>().into()) } else { Ok(value) }
}

fn add_tests(env: &mut Environment<'static>) {
    env.add_test("boolean", tests::is_boolean);
    env.add_test("defined", |a: Value| !is_null(&a));
    env.add_test("divisibleby", divisible);
    env.add_test("endingwith", |a: Value, b: Value| match (plain_text(&a), plain_text(&b)) {
        (Some(a), Some(b)) => a.ends_with(&*b),
        _ => false,
    });
    env.add_test("eq", tests::is_eq);
    env.add_test("even", tests::is_even);
    env.add_test("false", tests::is_false);
    env.add_test("float", tests::is_float);
    env.add_test("ge", tests::is_ge);
    env.add_test("gt", tests::is_gt);
    env.add_test("integer", tests::is_integer);
    env.add_test("le", tests::is_le);
    env.add_test("lt", tests::is_lt);
    env.add_test("mapping", tests::is_mapping);
    env.add_test("matching", |a: Value, pattern: &str| a.as_str().is_some_and(|text| matches(pattern, text)));
    env.add_test("ne", tests::is_ne);
    env.add_test("none", |a: Value| is_null(&a));
    env.add_test("number", tests::is_number);
    env.add_test("odd", tests::is_odd);
    env.add_test("present", |a: Value| !a.is_undefined());
    env.add_test("sequence", tests::is_sequence);
    env.add_test("startingwith", |a: Value, b: Value| match (plain_text(&a), plain_text(&b)) {
        (Some(a), Some(b)) => a.starts_with(&*b),
        _ => false,
    });
    env.add_test("string", tests::is_string);
    env.add_test("true", tests::is_true);
    env.add_test("undefined", |a: Value| is_null(&a));
}

/// `a is divisibleby b`; nothing is divisible by zero. MiniJinja's own panics there.
fn divisible(a: Value, b: Value) -> bool {
    match (number(&a), number(&b)) {
        (Some(Number::Int(a)), Some(Number::Int(b))) => b != 0 && a.wrapping_rem(b) == 0,
        (Some(a), Some(b)) => float(a) % float(b) == 0.0,
        _ => false,
    }
}

/// The value as text where it is no list and no object.
fn plain_text(value: &Value) -> Option<Cow<'_, str>> {
    match value.as_str() {
        Some(text) => Some(Cow::Borrowed(text)),
        None if value.as_object().is_some() => None,
        None => text(value).ok().map(Cow::Owned),
    }
}

/// The value as text inside a template: `true`, `false`, nothing for null, compact JSON for objects and lists.
pub(super) fn text(value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    if is_null(value) { Ok(String::new()) } else { json(value) }
}

/// The value as compact JSON of at most [`MAX_TEXT`] bytes.
pub(super) fn json(value: &Value) -> Result<String, Error> {
    let mut out = Bounded(Vec::new());
    match serde_json::to_writer(&mut out, value) {
        Ok(()) => String::from_utf8(out.0).map_err(|_| failure("the value is no text")),
        Err(error) if error.is_io() => Err(too_large()),
        Err(error) => Err(failure(&format!("the value cannot be JSON: {error}"))),
    }
}

/// A buffer that refuses to grow beyond [`MAX_TEXT`].
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_TEXT {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn failure(message: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.to_owned())
}

fn too_large() -> Error {
    failure(&format!("the result is larger than {MAX_TEXT} bytes"))
}

fn bounded(text: String) -> Result<String, Error> {
    if text.len() > MAX_TEXT { Err(too_large()) } else { Ok(text) }
}

fn is_null(value: &Value) -> bool {
    value.is_undefined() || value.is_none()
}

/// A missing path is null.
fn null(value: Value) -> Value {
    if value.is_undefined() { Value::from(()) } else { value }
}

enum Number {
    Int(i128),
    Float(f64),
}

fn number(value: &Value) -> Option<Number> {
    if !value.is_number() {
        return None;
    }
    match i128::try_from(value.clone()) {
        Ok(int) if value.is_integer() => Some(Number::Int(int)),
        _ => f64::try_from(value.clone()).ok().map(Number::Float),
    }
}

fn arithmetic(
    sign: &str,
    a: &Value,
    b: &Value,
    ints: impl Fn(i128, i128) -> Option<i128>,
    floats: impl Fn(f64, f64) -> f64,
) -> Result<Value, Error> {
    let result = match (number(a), number(b)) {
        (Some(Number::Int(x)), Some(Number::Int(y))) => match ints(x, y) {
            Some(int) => Value::from(int),
            None if y == 0 => return Err(failure(&format!("`{sign}` by zero"))),
            None if sign == "**" && y < 0 => Value::from(floats(as_float(x), as_float(y))),
            None => return Err(failure(&format!("the result of `{sign}` is too large"))),
        },
        (Some(x), Some(y)) => Value::from(floats(float(x), float(y))),
        _ => {
            return Err(failure(&format!("`{sign}` needs numbers, not {} and {}", a.kind(), b.kind())));
        }
    };
    match f64::try_from(result.clone()) {
        Ok(result) if !result.is_finite() => Err(failure(&format!("the result of `{sign}` is no number"))),
        _ => Ok(result),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a double is what is asked for")]
fn as_float(int: i128) -> f64 {
    int as f64
}

fn float(number: Number) -> f64 {
    match number {
        Number::Int(int) => as_float(int),
        Number::Float(float) => float,
    }
}

fn divide(a: Value, b: Value) -> Result<Value, Error> {
    arithmetic("/", &a, &b, |_, _| None, |a, b| a / b).or_else(|error| match (number(&a), number(&b)) {
        (Some(a), Some(b)) => {
            let b = float(b);
            if b == 0.0 { Err(failure("`/` by zero")) } else { Ok(Value::from(float(a) / b)) }
        }
        _ => Err(error),
    })
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

fn add(a: Value, b: Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        return bounded([a, b].concat()).map(Value::from);
    }
    if is_list(&a) && is_list(&b) {
        let items: Vec<Value> = a.try_iter()?.chain(b.try_iter()?).take(MAX_ITEMS + 1).collect();
        return if items.len() > MAX_ITEMS { Err(too_large()) } else { Ok(Value::from(items)) };
    }
    if a.as_str().is_some() || b.as_str().is_some() {
        return Err(failure("`+` needs two numbers, texts or lists: join text and other values with `~`"));
    }
    arithmetic("+", &a, &b, i128::checked_add, |a, b| a + b)
}

/// `a in b`: an item of a list, a key of an object, a part of a text; nothing is in null.
fn contained(a: Value, b: Value) -> Result<bool, Error> {
    let a = null(a);
    if let Some(whole) = b.as_str() {
        return match a.as_str() {
            Some(part) => Ok(whole.contains(part)),
            None => Err(failure("only text can be `in` a text")),
        };
    }
    match b.kind() {
        ValueKind::Undefined | ValueKind::None => Ok(false),
        ValueKind::Map => Ok(b.get_item(&a).is_ok_and(|found| !found.is_undefined())),
        _ => Ok(b.try_iter()?.any(|item| item == a)),
    }
}

fn length(value: Value) -> Result<usize, Error> {
    if is_null(&value) { Ok(0) } else { filters::length(&value) }
}

fn join(value: Value, between: Option<Value>) -> Result<String, Error> {
    let between = between.map_or_else(|| Ok(String::new()), |between| text(&between))?;
    let mut out = String::new();
    if is_null(&value) {
        return Ok(out);
    }
    for (place, item) in value.try_iter()?.enumerate() {
        if place > 0 {
            out.push_str(&between);
        }
        out.push_str(&text(&item)?);
        if out.len() > MAX_TEXT {
            return Err(too_large());
        }
    }
    Ok(out)
}

/// `xs|map(attribute="a.b", default=c)`.
fn map(value: Value, options: Kwargs) -> Result<Vec<Value>, Error> {
    let path: &str = options.get("attribute")?;
    let default: Option<Value> = options.get("default")?;
    options.assert_all_used()?;
    let default = default.unwrap_or_else(|| Value::from(()));
    if is_null(&value) {
        return Ok(Vec::new());
    }
    let steps: Vec<Value> =
        path.split('.').map(|step| step.parse::<usize>().map_or_else(|_| Value::from(step), Value::from)).collect();
    let items = value.try_iter()?.map(|item| {
        let found = steps.iter().try_fold(item, |item, step| item.get_item(step).ok());
        found.filter(|found| !is_null(found)).unwrap_or_else(|| default.clone())
    });
    Ok(items.collect())
}

fn replace(value: Value, from: String, to: String) -> Result<String, Error> {
    let whole = text(&value)?;
    let times = whole.matches(from.as_str()).count();
    if (whole.len() - times * from.len()).saturating_add(times.saturating_mul(to.len())) > MAX_TEXT {
        return Err(too_large());
    }
    Ok(whole.replace(&from, &to))
}
