//! Filters for a document that is handed from step to step: where a path leads, a changed copy, times to compare.

use chrono::DateTime;
use minijinja::Error;
use minijinja::value::{Value, ValueKind};

use super::functions::failure;

/// The longest path of `put`.
const MAX_PATH: usize = 32;
/// How deep what `put` makes may nest: no deeper than JSON that can be stored.
const MAX_DEPTH: usize = 127;

/// `x.a|required`: the value, which may be null; an error where the path leads nowhere.
pub(super) fn required(value: Value) -> Result<Value, Error> {
    if value.is_undefined() { Err(failure("a path that is required leads nowhere")) } else { Ok(value) }
}

/// `x|put(["a", 0], value)`: the document with this value at the end of the path. Objects on the way are made where
/// nothing is; an item of a list must be there, and anything else on the way is an error.
pub(super) fn put(document: Value, path: Vec<Value>, value: Value) -> Result<Value, Error> {
    if path.len() > MAX_PATH {
        return Err(failure(&format!("the path of `put` has more than {MAX_PATH} steps")));
    }
    if nests_deeper(&value, MAX_DEPTH - path.len()) {
        return Err(failure(&format!("what `put` gives nests more than {MAX_DEPTH} levels deep")));
    }
    put_at(document, &path, value)
}

fn put_at(document: Value, path: &[Value], value: Value) -> Result<Value, Error> {
    let Some((step, rest)) = path.split_first() else {
        // a missing path is null
        return Ok(if value.is_undefined() { Value::from(()) } else { value });
    };
    match (document.kind(), step.as_str()) {
        (ValueKind::Map | ValueKind::Undefined, Some(key)) => {
            let mut fields = Vec::with_capacity(document.len().unwrap_or(0) + 1);
            let mut inner = Value::UNDEFINED;
            if document.kind() == ValueKind::Map {
                for name in document.try_iter()? {
                    let field = document.get_item(&name)?;
                    if name.as_str() == Some(key) { inner = field } else { fields.push((name, field)) }
                }
            }
            fields.push((step.clone(), put_at(inner, rest, value)?));
            Ok(Value::from_iter(fields))
        }
        (ValueKind::Seq | ValueKind::Iterable, None) => {
            let mut items: Vec<Value> = document.try_iter()?.collect();
            let place = usize::try_from(step.clone()).ok();
            let Some(item) = place.and_then(|place| items.get_mut(place)) else {
                return Err(failure(&format!("`put` finds no item {step} in a list of {}", items.len())));
            };
            *item = put_at(std::mem::take(item), rest, value)?;
            Ok(Value::from(items))
        }
        (kind, _) => Err(failure(&format!("`put` finds {kind} where the step {step} of its path leads on"))),
    }
}

/// Whether there are more brackets around something in it than `most`.
fn nests_deeper(value: &Value, most: usize) -> bool {
    let Some(object) = value.as_object() else { return false };
    if most == 0 {
        return true;
    }
    match value.kind() {
        ValueKind::Map => {
            object.try_iter_pairs().is_some_and(|mut pairs| pairs.any(|(_, field)| nests_deeper(&field, most - 1)))
        }
        ValueKind::Seq | ValueKind::Iterable => {
            object.try_iter().is_some_and(|mut items| items.any(|item| nests_deeper(&item, most - 1)))
        }
        _ => false,
    }
}

/// `x|timestamp`: the microseconds since 1970 that a time of RFC 3339 with a zone says; null for anything else.
pub(super) fn timestamp(value: Value) -> Option<i64> {
    DateTime::parse_from_rfc3339(value.as_str()?).ok().map(|time| time.timestamp_micros())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn json(value: &Value) -> String {
        serde_json::to_string(value).unwrap()
    }

    #[test]
    fn what_put_makes_is_no_deeper_than_what_can_be_stored() {
        let deep = |levels: usize| (0..levels).fold(Value::from(1), |value, _| Value::from(vec![value]));
        let path = |steps: usize| vec![Value::from("a"); steps];
        assert!(put(Value::from_iter([("b", 1)]), path(27), deep(100)).is_ok());
        assert!(put(Value::from_iter([("b", 1)]), path(28), deep(100)).is_err());
        assert!(put(Value::from_iter([("b", 1)]), path(33), Value::from(1)).is_err());
        assert!(put(Value::UNDEFINED, path(0), deep(128)).is_err());
    }

    #[test]
    fn a_time_is_a_number() {
        let times = ["2016-03-14T01:59:00Z", "2016-03-14T02:59:00.000001+01:00", "2016-03-14", "x"];
        let times = times.map(|time| timestamp(Value::from(time)));
        assert_eq!(times, [Some(1_457_920_740_000_000), Some(1_457_920_740_000_001), None, None]);
        assert_eq!(json(&Value::from(timestamp(Value::from(7)))), "null");
    }
}
