//! Changing the run's context from a handler: collected while it runs, committed with the completion of its step.

use std::sync::{Mutex, PoisonError};

use longshore_core::context::{Change, MAX_BYTES, Op};
use longshore_core::definition::context::path as names;
use longshore_core::error::{CONTEXT_INVALID, CONTEXT_TOO_LARGE};
use longshore_core::payload::Payload;
use serde::Serialize;

use crate::failure::Failure;

/// The most changes that one attempt makes.
const MAX_CHANGES: usize = 1000;

/// What an attempt has changed so far.
#[derive(Debug, Default)]
pub(crate) struct Changes(Mutex<Vec<Change>>);

impl Changes {
    /// All of them; none are left.
    pub(crate) fn take(&self) -> Vec<Change> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// The context of a step's run, for changes. From [`Step::context`](crate::Step::context).
///
/// Nothing is changed before the step completes: an attempt that fails leaves the context as it was. What the context is, a handler is told through its
/// input, such as `{"paid": "{{ run.context.paid }}"}`. A path is names with dots between them, such as `totals.paid`; objects on the way are made. A change
/// that does not fit what is there when the step completes (a number added to a text) fails the step for good with `context_invalid`.
#[derive(Clone, Copy, Debug)]
pub struct StepContext<'s> {
    changes: Option<&'s Changes>,
}

impl<'s> StepContext<'s> {
    pub(crate) fn new(changes: Option<&'s Changes>) -> Self {
        Self { changes }
    }

    /// Puts a value at a path. Of two steps that do so at once, the one that is committed last stays.
    pub fn set<T: Serialize + ?Sized>(&self, path: &str, value: &T) -> Result<(), Failure> {
        self.add(Op::Set, at(path)?, value)
    }

    /// Adds a value to the end of the list at a path. Of several steps that do so at once, all are kept.
    pub fn append<T: Serialize + ?Sized>(&self, path: &str, value: &T) -> Result<(), Failure> {
        self.add(Op::Append, at(path)?, value)
    }

    /// Adds to the number at a path, 0 if nothing is there. What several steps add at once is added up.
    pub fn increment(&self, path: &str, by: impl Into<serde_json::Number>) -> Result<(), Failure> {
        self.add(Op::Increment, at(path)?, &by.into())
    }

    /// Patches the whole, RFC 7396: members replace those that are there, null removes one, objects are merged.
    pub fn merge<T: Serialize + ?Sized>(&self, patch: &T) -> Result<(), Failure> {
        self.add(Op::Merge, Vec::new(), patch)
    }

    fn add<T: Serialize + ?Sized>(&self, op: Op, path: Vec<String>, value: &T) -> Result<(), Failure> {
        let Some(changes) = self.changes else {
            let text =
                "the workflow's definition has no `context`: give it one, such as {}, before a handler changes it";
            return Err(invalid(text));
        };
        let value = Payload::of(value).map_err(|error| invalid(&error.to_string()))?;
        if op == Op::Merge && !value.as_str().starts_with('{') {
            return Err(invalid("a patch of the whole context is an object"));
        }
        let mut changes = changes.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: usize = changes.iter().map(|change| change.value.len()).sum();
        if changes.len() >= MAX_CHANGES || bytes + value.len() > MAX_BYTES {
            let text = format!("a step changes its context at most {MAX_CHANGES} times, by {MAX_BYTES} bytes in all");
            return Err(Failure::permanent(text).named(CONTEXT_TOO_LARGE));
        }
        changes.push(Change { op, path, value });
        Ok(())
    }
}

fn at(path: &str) -> Result<Vec<String>, Failure> {
    names(path).map_err(|why| invalid(&format!("`{}`: {why}", path.chars().take(60).collect::<String>())))
}

fn invalid(text: &str) -> Failure {
    Failure::permanent(text).named(CONTEXT_INVALID)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn changes_are_collected_and_wrong_ones_are_refused() {
        let changes = Changes::default();
        let context = StepContext::new(Some(&changes));
        context.set("a.b", "x").unwrap();
        context.increment("n", 2).unwrap();
        context.merge(&serde_json::json!({"k": null})).unwrap();
        for refused in [context.set("", &1), context.append("a..b", &1), context.merge(&1), context.set("s", "\0")] {
            assert!(refused.is_err());
        }
        let large = "x".repeat(MAX_BYTES);
        assert!(context.append("l", &large).is_err());
        let taken = changes.take();
        assert_eq!(taken.iter().map(|change| change.op).collect::<Vec<_>>(), [Op::Set, Op::Increment, Op::Merge]);
        assert_eq!(taken[0].path, ["a", "b"]);
        assert!(changes.is_empty());
        assert!(StepContext::new(None).set("a", &1).is_err(), "the definition has no context");
    }
}
