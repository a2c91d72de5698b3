//! How a handler says that it failed, and whether trying again can help.
//! A `Failure` is data: the lane turns it into the recorded error (which core makes storable) and the retry policy decides
//! what follows.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use longshore_core::error::{self, ErrorKind, StepError};
use serde::Serialize;
use serde_json::Value;

/// The name of a failure that its handler did not name.
pub const HANDLER_FAILED: &str = "handler_failed";

/// Longest chain of sources that is followed.
const SOURCES_LIMIT: usize = 32;

/// A failed attempt, as its handler tells it.
///
/// `?` on any [`std::error::Error`] gives a retryable failure whose message is the whole source chain. Errors that are not
/// `Error` themselves (such as `anyhow::Error`) go through a constructor: `.map_err(Failure::retryable)`.
pub struct Failure {
    kind: ErrorKind,
    name: Option<String>,
    message: String,
    details: Option<Value>,
    after: Option<Duration>,
}

impl Failure {
    /// Trying again may help: the node's retry policy decides whether and when.
    pub fn retryable<'e>(error: impl Into<Box<dyn Error + Send + Sync + 'e>>) -> Self {
        Self::new(ErrorKind::Retryable, with_sources(error.into().as_ref()))
    }

    /// Trying again cannot help: the step gives up at once, failure edges apply.
    pub fn permanent<'e>(error: impl Into<Box<dyn Error + Send + Sync + 'e>>) -> Self {
        Self::new(ErrorKind::Permanent, with_sources(error.into().as_ref()))
    }

    /// Trying again helps after a known time, such as a rate limit's. The attempt counts toward `max_attempts`; `after`
    /// takes the place of the policy's backoff.
    pub fn retry_after<'e>(error: impl Into<Box<dyn Error + Send + Sync + 'e>>, after: Duration) -> Self {
        Self { after: Some(after), ..Self::new(ErrorKind::Retryable, with_sources(error.into().as_ref())) }
    }

    /// The handler stopped because it was asked to (see [`crate::Step::cancellation`]).
    pub fn canceled<'e>(error: impl Into<Box<dyn Error + Send + Sync + 'e>>) -> Self {
        Self::new(ErrorKind::Canceled, with_sources(error.into().as_ref()))
    }

    /// As if the step's time had been over.
    pub(crate) fn timeout(message: &str) -> Self {
        Self { name: Some(error::TIMEOUT.to_owned()), ..Self::new(ErrorKind::Timeout, message.to_owned()) }
    }

    /// Give the failure a name that `retry_on` and failure edges can match, such as `card_declined`.
    /// Without one it is `handler_failed`, or `canceled`.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Add facts for whoever reads the error, or for an expression on a failure edge. What cannot be
    /// stored as JSON or is larger than 64 KiB is left out, and the record says so.
    #[must_use]
    pub fn details(mut self, details: impl Serialize) -> Self {
        let details = serde_json::to_value(details);
        self.details = Some(details.unwrap_or_else(|error| Value::String(format!("left out: {error}"))));
        self
    }

    /// The error to record for this attempt, and the wait the handler asked for.
    pub(crate) fn into_error(self, node: &str, attempt: i32) -> (StepError, Option<Duration>) {
        let name = self.name.as_deref().unwrap_or(match self.kind {
            ErrorKind::Canceled => error::CANCELED,
            _ => HANDLER_FAILED,
        });
        let mut error = StepError::new(name, self.kind, &self.message).at(node, attempt);
        error.details = self.details;
        (error, self.after)
    }

    fn new(kind: ErrorKind, message: String) -> Self {
        Self { kind, name: None, message, details: None, after: None }
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(ErrorKind::Retryable, with_sources(&error))
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure")
            .field("kind", &self.kind)
            .field("name", &self.name)
            .field("message", &self.message)
            .field("details", &self.details)
            .field("after", &self.after)
            .finish()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The error's text and those of its sources, joined by `: `; a source whose text the one above already ends with is not
/// said twice.
fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    // An error may, by mistake, be its own source.
    for _ in 0..SOURCES_LIMIT {
        let Some(cause) = source else { break };
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::json;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("bank does not answer")]
    struct Bank(#[source] std::io::Error);

    fn bank() -> Bank {
        Bank(std::io::Error::other("connection reset"))
    }

    fn fails() -> Result<(), Failure> {
        Err(bank())?;
        Ok(())
    }

    #[test]
    fn a_question_mark_gives_a_retryable_failure_with_its_sources() {
        let (error, after) = fails().unwrap_err().into_error("charge", 2);
        assert_eq!(error.message, "bank does not answer: connection reset");
        assert_eq!((error.kind, after), (ErrorKind::Retryable, None));
        assert_eq!(
            (error.name.as_str(), error.node.as_deref(), error.attempt),
            ("handler_failed", Some("charge"), Some(2))
        );
    }

    #[test]
    fn each_constructor_has_its_kind_and_takes_text_or_errors() {
        let text = String::from("card");
        let kind = |failure: Failure| failure.into_error("charge", 1).0.kind;
        assert_eq!(kind(Failure::retryable(bank())), ErrorKind::Retryable);
        assert_eq!(kind(Failure::retryable(anyhow::anyhow!("any"))), ErrorKind::Retryable);
        assert_eq!(kind(Failure::permanent(text.as_str())), ErrorKind::Permanent);
        assert_eq!(kind(Failure::permanent(text)), ErrorKind::Permanent);
        let canceled = Failure::canceled("told to stop").into_error("charge", 1).0;
        assert_eq!((canceled.kind, canceled.name.as_str()), (ErrorKind::Canceled, "canceled"));
        let (_, after) = Failure::retry_after("slow down", Duration::from_secs(9)).into_error("charge", 1);
        assert_eq!(after, Some(Duration::from_secs(9)));
    }

    #[test]
    fn name_and_details_are_recorded() {
        let failure = Failure::permanent("declined").named("card_declined").details(json!({ "code": 51 }));
        let (error, _) = failure.into_error("charge", 1);
        assert_eq!((error.name.as_str(), error.details), ("card_declined", Some(json!({ "code": 51 }))));
    }

    #[test]
    fn details_that_are_no_json_are_left_out_and_an_error_that_is_its_own_source_ends() {
        let keys = std::collections::HashMap::from([((1, 2), 3)]);
        let (error, _) = Failure::permanent("odd").details(keys).into_error("charge", 1);
        assert!(error.details.unwrap().to_string().contains("left out"));

        #[derive(Debug)]
        struct Circle;
        impl fmt::Display for Circle {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("round and round ")
            }
        }
        impl Error for Circle {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&Circle)
            }
        }
        let (error, _) = Failure::from(Circle).into_error("charge", 1);
        assert!(error.message.starts_with("round and round "));
    }
}
