//! How much work the expressions of one decision may do, so that none of them can hang a lane.
//!
//! MiniJinja's fuel counts instructions, and one filter over a large value is one instruction. So whatever walks its
//! arguments pays for their size first: a unit is a value or 64 bytes of text, and a part that a value holds a
//! thousand times counts a thousand times.

use std::cell::Cell;

use minijinja::functions::Function;
use minijinja::value::{FunctionArgs, FunctionResult, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};

use super::functions::text;

/// What one decision may spend: less than a second. As many objects as fit into a mebibyte can be sorted.
pub(super) const MAX_WORK: u64 = 10_000_000;
/// Bytes of text in a unit.
const TEXT: usize = 64;

thread_local! {
    /// What is left to the evaluation that runs on this thread; filters have no other way to reach it.
    static LEFT: Cell<u64> = const { Cell::new(0) };
}

/// Evaluates with what is `left`, and leaves there what remains.
pub(super) fn within<T>(left: &Cell<u64>, evaluate: impl FnOnce() -> T) -> T {
    LEFT.set(left.get());
    let value = evaluate();
    left.set(LEFT.get());
    value
}

/// What a filter pays for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Cost {
    /// Its arguments, once.
    Walk,
    /// The same, and lists and objects among them become their JSON first: as text they have no bound.
    Text,
    /// The same, and each byte of a text that is taken apart.
    Split,
    /// The same for each item of a list: its first argument, with the parts of the paths in the others.
    Each,
    /// The same for each comparison of a sort.
    Sort,
}

/// Adds a filter that pays before it runs.
pub(super) fn add_paid<F, Rv, Args>(env: &mut Environment<'static>, name: &'static str, cost: Cost, filter: F)
where
    F: Function<Rv, Args> + for<'a> Function<Rv, <Args as FunctionArgs<'a>>::Output>,
    Rv: FunctionResult,
    Args: for<'a> FunctionArgs<'a>,
{
    let filter = Value::from_function::<F, Rv, Args>(filter);
    env.add_filter(name, move |state: &State<'_, '_>, mut arguments: Rest<Value>| {
        pay(cost, &arguments.0)?;
        for argument in arguments.0.iter_mut().filter(|_| cost == Cost::Text) {
            if argument.as_object().is_some() {
                *argument = text(argument)?.into();
            }
        }
        filter.call(state, &arguments.0)
    });
}

pub(super) fn pay(cost: Cost, arguments: &[Value]) -> Result<(), Error> {
    let mut walked = 0;
    for argument in arguments {
        walked += pay_walk(argument)?;
    }
    let Some((list, others)) = arguments.split_first() else { return Ok(()) };
    match cost {
        Cost::Walk | Cost::Text => return Ok(()),
        Cost::Split => return pay_units(list.as_str().map_or(0, str::len) as u64),
        Cost::Each | Cost::Sort => {}
    }
    let items = list.len().unwrap_or(0) as u64;
    let looks = if cost == Cost::Sort { u64::from(items.checked_ilog2().unwrap_or(0)) } else { 1 };
    pay_units((looks.saturating_sub(1)).saturating_mul(walked))?;
    pay_units(items.saturating_mul(looks).saturating_mul(parts(others)))
}

/// How many steps the paths among these arguments have: each item pays for them.
fn parts(arguments: &[Value]) -> u64 {
    let of_text = |value: &Value| value.as_str().map_or(1, |text| 1 + text.matches(['.', ',']).count() as u64);
    let of = |value: &Value| match value.as_object().filter(|_| value.kind() == ValueKind::Map) {
        Some(options) => options.try_iter_pairs().into_iter().flatten().map(|(_, option)| of_text(&option)).sum(),
        None => of_text(value),
    };
    arguments.iter().map(of).sum()
}

/// Pays this many units; an error when they are not left, and then nothing is.
pub(super) fn pay_units(units: u64) -> Result<(), Error> {
    let rest = LEFT.get().checked_sub(units);
    LEFT.set(rest.unwrap_or(0));
    rest.map(|_| ()).ok_or_else(|| Error::from(ErrorKind::OutOfFuel))
}

/// Pays for a walk over this value; how many units that was.
fn pay_walk(value: &Value) -> Result<u64, Error> {
    let before = LEFT.get();
    let mut left = before;
    let walked = walk(value, &mut left);
    LEFT.set(if walked.is_some() { left } else { 0 });
    walked.map(|()| before - left).ok_or_else(|| Error::from(ErrorKind::OutOfFuel))
}

/// Units of a text.
pub(super) fn units(text: &str) -> u64 {
    1 + (text.len() / TEXT) as u64
}

/// Takes the size of the value from `left`; none as soon as that is not enough. A value is no deeper than the inputs
/// of a run and the brackets of an expression.
fn walk(value: &Value, left: &mut u64) -> Option<()> {
    *left = left.checked_sub(value.as_str().map_or(1, units))?;
    let Some(object) = value.as_object() else { return Some(()) };
    match value.kind() {
        ValueKind::Map => object.try_iter_pairs()?.try_for_each(|(key, item)| {
            walk(&key, left)?;
            walk(&item, left)
        }),
        ValueKind::Seq | ValueKind::Iterable => object.try_iter()?.try_for_each(|item| walk(&item, left)),
        _ => Some(()),
    }
}
