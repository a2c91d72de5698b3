//! One run to be tested: its input, mocks and signals.

use std::time::Duration;

use longshore_core::payload::Payload;
use serde::Serialize;

use super::Error;
use longshore_core::mock::{Answer, Answers as Mocks};

/// How long a case may take, unless it says otherwise. Time that is skipped does not count.
pub const DEFAULT_BOUND: Duration = Duration::from_secs(30);

/// One run to be tested.
#[derive(Clone, Debug)]
pub struct Case {
    pub(super) workflow: String,
    pub(super) input: Result<Payload, String>,
    pub(super) mocks: Mocks,
    pub(super) signals: Vec<ToSend>,
    pub(super) bound: Duration,
}

/// A signal to be sent.
#[derive(Clone, Debug)]
pub(super) struct ToSend {
    pub(super) name: String,
    pub(super) payload: Result<Payload, String>,
    pub(super) after: Option<String>,
}

impl Case {
    /// A run of this workflow with this input.
    pub fn new<T: Serialize + ?Sized>(workflow: &str, input: &T) -> Self {
        Self {
            workflow: workflow.to_owned(),
            input: Payload::of(input).map_err(|error| error.to_string()),
            mocks: Mocks::new(),
            signals: Vec::new(),
            bound: DEFAULT_BOUND,
        }
    }

    /// Answers for a task or a `subflow` instead of its handler or child run, call by call; the last one repeats. `what` is the id of a node; with
    /// `<workflow>/` before it, one of a child run's; with `handler:` before it, the name of a handler. The closest counts, in this order.
    #[must_use]
    pub fn mock(mut self, what: &str, answers: impl IntoIterator<Item = Answer>) -> Self {
        self.mocks.insert(what.to_owned(), answers.into_iter().collect());
        self
    }

    /// A signal to the run, sent when it has begun.
    #[must_use]
    pub fn signal<T: Serialize + ?Sized>(self, name: &str, payload: &T) -> Self {
        self.send(name, payload, None)
    }

    /// A signal to the run, sent when this node has ended and nothing is left to do but to wait; before any time passes, and after the signals given before.
    #[must_use]
    pub fn signal_after<T: Serialize + ?Sized>(self, node: &str, name: &str, payload: &T) -> Self {
        self.send(name, payload, Some(node.to_owned()))
    }

    /// How long the case may really take, [`DEFAULT_BOUND`] unless this is called.
    #[must_use]
    pub fn bound(self, bound: Duration) -> Self {
        Self { bound, ..self }
    }

    fn send<T: Serialize + ?Sized>(mut self, name: &str, payload: &T, after: Option<String>) -> Self {
        let payload = Payload::of(payload).map_err(|error| error.to_string());
        self.signals.push(ToSend { name: name.to_owned(), payload, after });
        self
    }
}

/// What was given as text for Postgres, if it can be stored.
pub(super) fn storable(what: &str, payload: &Result<Payload, String>) -> Result<Payload, Error> {
    payload.clone().map_err(|error| Error::NotStorable { what: what.to_owned(), error })
}
