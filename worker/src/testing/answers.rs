//! What the nodes of a tested run are answered: the mocks of its case, counted call by call, then handlers that are registered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use longshore_core::error::ErrorKind;
use longshore_core::payload::Payload;
use serde_json::Value;

use super::difference::{Compare, difference};
use crate::failure::Failure;
use crate::handler::{ErasedHandler, Handlers};
use crate::step::Step;

/// The error of a node that has neither mock nor handler.
pub const MOCK_MISSING: &str = "mock_missing";

/// The error of a call whose input is not what its mock expects.
pub const MOCK_INPUT: &str = "mock_input";

/// Before the name of a handler, where a mock stands for all its nodes.
pub const HANDLER: &str = "handler:";

/// What stands for a handler in one call.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    result: Result<Value, MockError>,
    input: Option<Value>,
}

#[derive(Clone, Debug, PartialEq)]
struct MockError {
    name: String,
    message: String,
    kind: ErrorKind,
}

impl Answer {
    /// The call gives this output.
    pub fn output(output: impl Into<Value>) -> Self {
        Self { result: Ok(output.into()), input: None }
    }

    /// The call fails, and trying again may help.
    pub fn retryable(name: &str, message: &str) -> Self {
        Self::error(name, message, ErrorKind::Retryable)
    }

    /// The call fails for good.
    pub fn permanent(name: &str, message: &str) -> Self {
        Self::error(name, message, ErrorKind::Permanent)
    }

    /// The call takes longer than the node's `timeout`.
    pub fn timeout() -> Self {
        Self::error("timeout", "the mock takes longer than there is time", ErrorKind::Timeout)
    }

    /// The call must be given this input, else it fails for good with `mock_input` and the run does not count as it should.
    #[must_use]
    pub fn given(self, input: impl Into<Value>) -> Self {
        Self { input: Some(input.into()), ..self }
    }

    fn error(name: &str, message: &str, kind: ErrorKind) -> Self {
        Self { result: Err(MockError { name: name.to_owned(), message: message.to_owned(), kind }), input: None }
    }

    fn give(&self) -> Result<Payload, Failure> {
        match &self.result {
            Ok(output) => Payload::of(output).map_err(Failure::permanent),
            Err(MockError { message, kind: ErrorKind::Timeout, .. }) => Err(Failure::timeout(message)),
            Err(MockError { name, message, kind: ErrorKind::Retryable }) => {
                Err(Failure::retryable(message.as_str()).named(name))
            }
            Err(MockError { name, message, .. }) => Err(Failure::permanent(message.as_str()).named(name)),
        }
    }
}

/// Answers by what they stand for, each call in turn; the last one repeats.
pub(crate) type Mocks = BTreeMap<String, Vec<Answer>>;

/// Answers the calls of one run.
pub(crate) struct Answers {
    /// The workflow that is tested: a mock of a plain node id is for its nodes.
    workflow: String,
    mocks: Mocks,
    handlers: Handlers,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    calls: BTreeMap<String, usize>,
    complaints: Vec<String>,
}

impl Answers {
    pub(crate) fn new(workflow: &str, mocks: Mocks, handlers: Handlers) -> Arc<Self> {
        Arc::new(Self { workflow: workflow.to_owned(), mocks, handlers, told: Mutex::default() })
    }

    /// What was wrong with the calls: no mock, or not the input that a mock expects.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).complaints.clone()
    }

    /// Handlers of these names, all of which answer from here.
    pub(crate) fn handlers(self: &Arc<Self>, names: &BTreeSet<String>) -> Handlers {
        let mut handlers = self.handlers.clone();
        for name in names {
            let (answers, handler) = (Arc::clone(self), name.clone());
            let erased: ErasedHandler = Arc::new(move |step, input| {
                let (answers, handler) = (Arc::clone(&answers), handler.clone());
                Box::pin(async move { answers.answer(&handler, step, input).await })
            });
            handlers.add_erased(name, erased);
        }
        handlers
    }

    async fn answer(&self, handler: &str, step: Step, input: Payload) -> Result<Payload, Failure> {
        let Some(key) = keys(&self.workflow, step.workflow(), step.node(), handler)
            .into_iter()
            .find(|key| self.mocks.contains_key(key))
        else {
            return match self.handlers.get(handler) {
                Some(known) => known(step, input).await,
                None => {
                    let text = format!("node `{}` has no mock, and handler `{handler}` is not registered", step.node());
                    self.complain(text.clone());
                    Err(Failure::permanent(text).named(MOCK_MISSING))
                }
            };
        };
        let list = self.mocks.get(&key).map(Vec::as_slice).unwrap_or_default();
        let call = self.count(&key);
        let Some(answer) = list.get(call).or(list.last()) else {
            return Ok(Payload::null());
        };
        if let Some(expected) = &answer.input
            && let Some(difference) = difference("input", expected, &input.value(), Compare::Whole)
        {
            let text = format!("call {} of mock `{key}`: {difference}", call + 1);
            self.complain(text.clone());
            return Err(Failure::permanent(text).named(MOCK_INPUT));
        }
        answer.give()
    }

    /// How many calls of this mock there were before this one.
    fn count(&self, key: &str) -> usize {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = told.calls.entry(key.to_owned()).or_default();
        *calls += 1;
        *calls - 1
    }

    fn complain(&self, text: String) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).complaints.push(text);
    }
}

/// What mocks of a node may be called, the closest first: its id, in the workflow that is tested; with its workflow before it; its handler.
pub(crate) fn keys(tested: &str, workflow: &str, node: &str, handler: &str) -> Vec<String> {
    let plain = (workflow == tested).then(|| node.to_owned());
    plain.into_iter().chain([format!("{workflow}/{node}"), format!("{HANDLER}{handler}")]).collect()
}
