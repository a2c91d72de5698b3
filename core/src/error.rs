//! What a failed attempt says: data that is stored, shown and matched by `retry_on`, not a Rust error chain.
//!
//! Every text in it can be stored by Postgres and has a bound, whatever the handler put in.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::payload::Payload;

/// The attempt ran longer than its node's timeout.
pub const TIMEOUT: &str = "timeout";
/// The handler panicked.
pub const PANIC: &str = "panic";
/// The handler's output cannot be stored as JSON.
pub const OUTPUT_INVALID: &str = "output_invalid";
/// The handler's output is larger than the limit.
pub const OUTPUT_TOO_LARGE: &str = "output_too_large";
/// The run's input does not satisfy the workflow's schema, or a handler cannot read its input.
pub const INPUT_INVALID: &str = "input_invalid";
/// An expression or template could not be evaluated.
pub const EXPRESSION_FAILED: &str = "expression_failed";
/// The step was lost with its lane too often.
pub const LOST: &str = "lost";
/// The attempt was canceled.
pub const CANCELED: &str = "canceled";
/// A `delay` node's template gave no duration or time.
pub const DELAY_INVALID: &str = "delay_invalid";
/// A `wait` node's template gave no name of a signal, or no duration.
pub const WAIT_INVALID: &str = "wait_invalid";
/// A `subflow` would start a run with too many runs around it.
pub const SUBFLOW_TOO_DEEP: &str = "subflow_too_deep";
/// The run that a `subflow` waited for was canceled.
pub const SUBFLOW_CANCELED: &str = "subflow_canceled";
/// A `foreach` has no list of items, or too many.
pub const ITEMS_INVALID: &str = "items_invalid";
/// More iterations failed than may.
pub const TOLERANCE_EXCEEDED: &str = "tolerance_exceeded";
/// Too few branches of a `parallel` completed.
pub const TOO_FEW_BRANCHES: &str = "too_few_branches";
/// A `while` would go on after its last pass.
pub const MAX_ITERATIONS: &str = "max_iterations";

/// A change of the run's context does not fit what is there.
pub const CONTEXT_INVALID: &str = "context_invalid";
/// The run's context would be too large.
pub const CONTEXT_TOO_LARGE: &str = "context_too_large";

/// The longest message in bytes; longer ones are cut and end in an ellipsis.
pub const MAX_MESSAGE: usize = 8 * 1024;
const MAX_NAME: usize = 128;
const MAX_DETAILS: usize = 64 * 1024;

/// What the engine needs to go on with a step is not there any more.
pub fn gone(what: &str) -> StepError {
    StepError::permanent(LOST, &format!("{what} is gone from the tables"))
}

/// What kind of failure it was: the retry policy decides by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorKind {
    /// May succeed when tried again.
    Retryable,
    /// Will not succeed: the step gives up at once.
    Permanent,
    /// Ran too long; retryable.
    Timeout,
    /// Panicked; retryable.
    Panic,
    /// Was told to stop; not retried.
    Canceled,
    /// Its lane was lost.
    Lost,
}

impl ErrorKind {
    /// The word used in JSON and in `retry_on`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retryable => "retryable",
            Self::Permanent => "permanent",
            Self::Timeout => "timeout",
            Self::Panic => "panic",
            Self::Canceled => "canceled",
            Self::Lost => "lost",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The error of an attempt, a step or a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepError {
    /// A short word for programs, such as `card_declined`; `retry_on` and edges match it.
    pub name: String,
    /// What kind of failure it was.
    pub kind: ErrorKind,
    /// A sentence for people, at most [`MAX_MESSAGE`] bytes.
    #[serde(default)]
    pub message: String,
    /// Anything else the handler wants to say, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
    /// The node whose attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The number of that attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i32>,
    /// It is the failure of a child run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_child: bool,
}

impl StepError {
    /// An error without details, node and attempt; texts are made storable and cut to their bounds.
    pub fn new(name: &str, kind: ErrorKind, message: &str) -> Self {
        Self {
            name: storable(name, MAX_NAME).into_owned(),
            kind,
            message: storable(message, MAX_MESSAGE).into_owned(),
            details: None,
            node: None,
            attempt: None,
            from_child: false,
        }
    }

    /// A permanent error.
    pub fn permanent(name: &str, message: &str) -> Self {
        Self::new(name, ErrorKind::Permanent, message)
    }

    /// A retryable error.
    pub fn retryable(name: &str, message: &str) -> Self {
        Self::new(name, ErrorKind::Retryable, message)
    }

    /// The same error with `details`.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// The same error, said of this attempt of this node.
    #[must_use]
    pub fn at(mut self, node: &str, attempt: i32) -> Self {
        self.node = Some(node.to_owned());
        self.attempt = Some(attempt);
        self
    }

    /// The error as JSON that Postgres stores. Never fails: details that cannot be stored or are larger than
    /// 64 KiB are left out, and the message says so.
    pub fn to_payload(&self) -> Payload {
        let fits = self
            .details
            .as_ref()
            .is_none_or(|details| Payload::of(details).is_ok_and(|payload| payload.len() <= MAX_DETAILS));
        let left_out = if fits { "" } else { " (details left out: too large or not storable)" };
        let mut error = Self::new(&self.name, self.kind, &format!("{}{left_out}", self.message));
        error.details = self.details.clone().filter(|_| fits);
        error.node = self.node.as_deref().map(|node| storable(node, MAX_NAME).into_owned());
        error.attempt = self.attempt;
        error.from_child = self.from_child;
        Payload::of(&error).unwrap_or_default()
    }

    /// The error a payload holds; text that is none becomes the message of a permanent error.
    pub fn from_payload(payload: &Payload) -> Self {
        payload.parse().unwrap_or_else(|_| Self::permanent("unknown", payload.as_str()))
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.message)
    }
}

impl std::error::Error for StepError {}

/// The text without U+0000 and of at most `limit` bytes.
fn storable(text: &str, limit: usize) -> Cow<'_, str> {
    let mut kept = Cow::Borrowed(text);
    if kept.len() > limit {
        let mut end = limit - '…'.len_utf8();
        while !kept.is_char_boundary(end) {
            end -= 1;
        }
        kept = Cow::Owned(format!("{}…", kept.split_at(end).0));
    }
    if kept.contains('\0') {
        kept = Cow::Owned(kept.replace('\0', " "));
    }
    kept
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_made_storable_and_bounded() {
        let error = StepError::retryable("a\0b", &"é".repeat(10_000));
        assert_eq!(error.name, "a b");
        assert!(error.message.len() <= MAX_MESSAGE && error.message.ends_with('…'));
        assert!(StepError::permanent("x", "short").message.ends_with("short"));
    }

    #[test]
    fn the_payload_always_stores_and_reads_back() {
        let error = StepError::permanent("card_declined", "no funds").with_details(json!({"code": 51})).at("charge", 3);
        assert_eq!(StepError::from_payload(&error.to_payload()), error);
        let of_child = StepError { from_child: true, ..error.clone() };
        assert_eq!(StepError::from_payload(&of_child.to_payload()), of_child);
        let bad = StepError::permanent("x", "y").with_details(json!("\0"));
        let stored = StepError::from_payload(&bad.to_payload());
        assert!(stored.details.is_none() && stored.message.contains("left out"));
        let sparse = Payload::from_text(r#"{"name": "n", "kind": "timeout"}"#).unwrap();
        assert_eq!(StepError::from_payload(&sparse).kind, ErrorKind::Timeout);
        assert_eq!(StepError::from_payload(&Payload::null()).message, "null");
        assert_eq!(error.to_string(), "card_declined: no funds");
    }
}
