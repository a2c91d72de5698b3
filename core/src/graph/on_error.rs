//! What it means that a node gives up.

use super::{Extra, Graph, NodeNumber, NodeResult, On, Values};
use crate::error::{ErrorKind, StepError};
use crate::expression::{Reference, Scope, Template};
use crate::payload::Payload;

/// What it means that a node gives up.
#[derive(Debug, Default)]
pub enum OnError {
    /// An edge on failure takes it, else its body fails.
    #[default]
    Fail,
    /// It completes, with its error as output.
    Continue,
    /// It completes with this output.
    Fallback(Template),
    /// It counts as skipped.
    Skip,
}

impl OnError {
    /// The word in the tables.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Continue => "continue",
            Self::Fallback(_) => "fallback",
            Self::Skip => "skip",
        }
    }
}

/// What becomes of a node that gives up.
#[derive(Clone, Debug, PartialEq)]
pub enum GivesUp {
    /// It gives up.
    Up,
    /// It completes with this output after all.
    Completes(Payload),
    /// It counts as skipped.
    Skips,
}

impl Graph {
    /// Whether this is the node's own time that is over, and an edge says what then: it comes before the policy and the edges on failure. (In a child run
    /// the time of a step may have been over: that is a failure like any other.)
    pub(crate) fn takes_timeout(&self, number: NodeNumber, error: &StepError) -> bool {
        let Some(node) = self.node(number) else { return false };
        let mut edges = node.outgoing.iter().filter_map(|&edge| self.edges().get(edge));
        error.kind == ErrorKind::Timeout && !error.from_child && edges.any(|edge| edge.on == On::Timeout)
    }

    /// What becomes of a node that has this error and no attempt left. `values` has what it needs. `Err`: its fallback cannot be evaluated, which is
    /// why it gives up.
    pub fn gives_up(&self, number: NodeNumber, error: &StepError, values: &Values) -> Result<GivesUp, StepError> {
        if self.takes_timeout(number, error) {
            return Ok(GivesUp::Up);
        }
        Ok(match self.node(number).map(|node| &node.on_error) {
            None | Some(OnError::Fail) => GivesUp::Up,
            Some(OnError::Continue) => GivesUp::Completes(error.to_payload()),
            Some(OnError::Skip) => GivesUp::Skips,
            Some(OnError::Fallback(output)) => {
                let error = error.to_payload();
                let result = NodeResult::Failed(error.clone());
                let extra = Extra { own: Some((number, &result)), error: Some(&error), ..Extra::default() };
                let find = |reference: &Reference| self.find(reference, values, extra);
                GivesUp::Completes(output.render(&Scope::new(&find))?)
            }
        })
    }
}
