//! The operators, filters and tests of expressions, each with a bound on what it builds.
//!
//! MiniJinja's own are used where their result is no larger than what they are given. The others are ours, so that
//! no expression can build more than a mebibyte of text or a million items, text spells values as JSON does, and a
//! missing path is null.

use std::cmp::Ordering;
use std::io;
use std::sync::LazyLock;

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, filters, tests};

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
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "select",
    "selectattr",
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
    "ne",
    "none",
    "number",
    "odd",
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
    env.add_filter("_add", add);
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
    env.add_filter("_concat", |a: Value, b: Value| bounded(text(&a)? + &text(&b)?));
    env.add_filter("_not", |a: Value| !a.is_true());
    env.add_filter("_eq", |a: Value, b: Value| null(a) == null(b));
    env.add_filter("_ne", |a: Value, b: Value| null(a) != null(b));
    env.add_filter("_lt", |a: Value, b: Value| null(a).cmp(&null(b)) == Ordering::Less);
    env.add_filter("_le", |a: Value, b: Value| null(a).cmp(&null(b)) != Ordering::Greater);
    env.add_filter("_gt", |a: Value, b: Value| null(a).cmp(&null(b)) == Ordering::Greater);
    env.add_filter("_ge", |a: Value, b: Value| null(a).cmp(&null(b)) != Ordering::Less);
    env.add_filter("_in", contained);
    env.add_filter("_is", |state: &State<'_, '_>, a: Value, name: String, more: Rest<Value>| {
        let mut arguments = vec![a];
        arguments.extend(more.0);
        state.perform_test(&name, &arguments)
    });
}

fn add_filters(env: &mut Environment<'static>) {
    // Results no larger than the value they are given.
    env.add_filter("abs", filters::abs);
    env.add_filter("bool", filters::bool);
    env.add_filter("capitalize", filters::capitalize);
    env.add_filter("float", filters::float);
    env.add_filter("int", filters::int);
    env.add_filter("items", filters::items);
    env.add_filter("lower", filters::lower);
    env.add_filter("max", filters::max);
    env.add_filter("min", filters::min);
    env.add_filter("reject", filters::reject);
    env.add_filter("rejectattr", filters::rejectattr);
    env.add_filter("reverse", filters::reverse);
    env.add_filter("round", filters::round);
    env.add_filter("select", filters::select);
    env.add_filter("selectattr", filters::selectattr);
    env.add_filter("sort", filters::sort);
    env.add_filter("split", filters::split);
    env.add_filter("sum", filters::sum);
    env.add_filter("title", filters::title);
    env.add_filter("trim", filters::trim);
    env.add_filter("unique", filters::unique);
    env.add_filter("upper", filters::upper);
    env.add_filter("list", filters::list);
    // Ours.
    env.add_filter("count", length);
    env.add_filter("length", length);
    env.add_filter("default", |a: Value, other: Option<Value>, also_false: Option<bool>| {
        if is_null(&a) || also_false == Some(true) && !a.is_true() { other.unwrap_or_default() } else { a }
    });
    env.add_filter("first", |a: Value| if is_null(&a) { Ok(a) } else { filters::first(&a) });
    env.add_filter("last", |a: Value| if is_null(&a) { Ok(a) } else { filters::last(a) });
    env.add_filter("join", join);
    env.add_filter("map", map);
    env.add_filter("replace", replace);
    env.add_filter("string", |a: Value| text(&a));
    env.add_filter("tojson", |a: Value| json(&a));
}

fn add_tests(env: &mut Environment<'static>) {
    env.add_test("boolean", tests::is_boolean);
    env.add_test("defined", |a: Value| !is_null(&a));
    env.add_test("divisibleby", tests::is_divisibleby);
    env.add_test("endingwith", tests::is_endingwith);
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
    env.add_test("ne", tests::is_ne);
    env.add_test("none", |a: Value| is_null(&a));
    env.add_test("number", tests::is_number);
    env.add_test("odd", tests::is_odd);
    env.add_test("sequence", tests::is_sequence);
    env.add_test("startingwith", tests::is_startingwith);
    env.add_test("string", tests::is_string);
    env.add_test("true", tests::is_true);
    env.add_test("undefined", |a: Value| is_null(&a));
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

fn failure(message: &str) -> Error {
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

fn join(value: Value, between: Option<String>) -> Result<String, Error> {
    let between = between.unwrap_or_default();
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
    let path: String = options.get("attribute")?;
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
