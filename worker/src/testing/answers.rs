//! What the nodes of a tested run are answered: the mocks of its case, counted call by call, then handlers that are registered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use longshore_core::error::ErrorKind;
use longshore_core::mock::{Answer, Answers as Mocks, MOCK_INPUT, MOCK_MISSING, MockError, keys, qualified};
use longshore_core::payload::Payload;

use super::difference::{Compare, difference};
use crate::failure::Failure;
use crate::handler::{ErasedHandler, Handlers};
use crate::step::Step;

/// Answers the calls of one run.
pub(crate) struct Answers {
    /// The workflow that is tested, whose nodes are named without it.
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
        Arc::new(Self {
            workflow: workflow.to_owned(),
            mocks: qualified(workflow, mocks),
            handlers,
            told: Mutex::default(),
        })
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
        let key = keys(step.workflow(), step.node(), Some(handler)).find(|key| self.mocks.contains_key(key));
        let Some(key) = key else {
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
        if let Some(expected) = answer.expected()
            && let Some(difference) = difference("input", expected, &input.value(), Compare::Whole)
        {
            let own = key.strip_prefix(&*self.workflow).and_then(|key| key.strip_prefix('/'));
            let text = format!("call {} of mock `{}`: {difference}", call + 1, own.unwrap_or(&key));
            self.complain(text.clone());
            return Err(Failure::permanent(text).named(MOCK_INPUT));
        }
        give(answer)
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

/// What the call gives.
fn give(answer: &Answer) -> Result<Payload, Failure> {
    match answer.result() {
        Ok(output) => Payload::of(output).map_err(Failure::permanent),
        Err(MockError { message, kind: ErrorKind::Timeout, .. }) => Err(Failure::timeout(message)),
        Err(MockError { name, message, kind: ErrorKind::Retryable }) => {
            Err(Failure::retryable(message.as_str()).named(name))
        }
        Err(MockError { name, message, .. }) => Err(Failure::permanent(message.as_str()).named(name)),
    }
}
