//! `x[from:to:step]`, as in Python.
//!
//! MiniJinja's own panics when a list is empty and the step negative, and is lazy: each slice of a chain would walk
//! all before it.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// The part of a list or a text; the empty list of null.
pub(super) fn slice(value: Value, from: Option<Value>, to: Option<Value>, step: Option<Value>) -> Result<Value, Error> {
    let (from, to, step) = (place(from)?, place(to)?, place(step)?.unwrap_or(1));
    if step == 0 {
        return Err(failure("the step of a slice cannot be 0"));
    }
    if let Some(text) = value.as_str() {
        let chars: Vec<char> = text.chars().collect();
        let chosen = places(chars.len(), from, to, step).filter_map(|place| chars.get(place));
        return Ok(chosen.collect::<String>().into());
    }
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => Ok(Vec::<Value>::new().into()),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            let chosen = places(items.len(), from, to, step).filter_map(|place| items.get(place).cloned());
            Ok(chosen.collect::<Vec<_>>().into())
        }
        kind => Err(failure(&format!("a slice needs a list or a text, not {kind}"))),
    }
}

/// A place as it was written; none where it was left out.
fn place(value: Option<Value>) -> Result<Option<i64>, Error> {
    let Some(value) = value.filter(|value| !value.is_none() && !value.is_undefined()) else {
        return Ok(None);
    };
    i64::try_from(value).map(Some).map_err(|_| failure("the places of a slice must be whole numbers"))
}

/// The places that are chosen of so many, in order.
fn places(count: usize, from: Option<i64>, to: Option<i64>, step: i64) -> impl Iterator<Item = usize> {
    // Wide enough that no sum of two places overflows.
    let (count, step) = (count as i128, i128::from(step));
    let (low, high) = if step > 0 { (0, count) } else { (-1, count - 1) };
    let bounded = |place: i64| {
        let place = i128::from(place);
        (if place < 0 { place + count } else { place }).clamp(low, high)
    };
    let (first, last) = if step > 0 { (low, high) } else { (high, low) };
    let (from, to) = (from.map_or(first, bounded), to.map_or(last, bounded));
    std::iter::successors(Some(from), move |place| Some(place + step))
        .take_while(move |place| if step > 0 { *place < to } else { *place > to })
        .filter_map(|place| usize::try_from(place).ok())
}

fn failure(message: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn places_are_those_of_python() {
        let chosen = |count, from, to, step| places(count, from, to, step).collect::<Vec<_>>();
        assert_eq!(chosen(4, None, None, 1), [0, 1, 2, 3]);
        assert_eq!(chosen(4, Some(1), Some(-1), 1), [1, 2]);
        assert_eq!(chosen(4, Some(-9), Some(9), 2), [0, 2]);
        assert_eq!(chosen(4, None, None, -1), [3, 2, 1, 0]);
        assert_eq!(chosen(4, Some(2), Some(0), -1), [2, 1]);
        assert_eq!(chosen(4, Some(0), Some(2), -1), Vec::<usize>::new());
        assert_eq!(chosen(4, Some(i64::MIN), Some(i64::MAX), i64::MAX), [0]);
        assert_eq!(chosen(4, Some(i64::MAX), Some(i64::MIN), i64::MIN), [3]);
        assert_eq!(chosen(0, None, None, -1), Vec::<usize>::new());
        assert_eq!(chosen(0, None, None, 1), Vec::<usize>::new());
    }
}
