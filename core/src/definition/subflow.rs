//! Child runs: nodes that start a run of a workflow. What its author writes, and its canonical JSON.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::put;
use crate::duration;
use crate::retry::RetryPolicies;

/// How many runs may be around a run.
pub const MAX_DEPTH: i16 = 32;

/// What a `subflow` node starts, and how it goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct SubflowDefinition {
    /// The workflow's name; its own is allowed.
    pub workflow: String,
    /// Which version of it.
    pub version: ChildVersion,
    /// Whether the node waits for the run.
    pub mode: SubflowMode,
    /// What becomes of the run when the node, or its run, ends before it.
    pub close_policy: ClosePolicy,
    /// How long the node waits; for ever when not given.
    pub timeout: Option<Duration>,
    /// What follows a failed attempt, each of which starts a run; one attempt when not given, as the run's own steps are tried again.
    pub retry: Option<RetryPolicies>,
}

/// Which version a `subflow` node starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ChildVersion {
    /// The newest when the version with the node is published.
    #[default]
    Pinned,
    /// The newest when the step starts.
    Latest,
}

/// Whether a `subflow` node waits for the run it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SubflowMode {
    /// The run's end is the node's.
    #[default]
    Wait,
    /// The node completes with the run's id.
    Detached,
}

impl SubflowMode {
    /// The close policy of a node that names none.
    pub const fn usual_policy(self) -> ClosePolicy {
        match self {
            Self::Wait => ClosePolicy::Terminate,
            Self::Detached => ClosePolicy::Abandon,
        }
    }
}

/// What becomes of a child run when the step or the run that started it ends before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosePolicy {
    /// It is canceled.
    Terminate,
    /// It goes on.
    Abandon,
    /// It is sent the signal `cancel_requested`, and goes on.
    RequestCancel,
}

impl ClosePolicy {
    /// The word in the definition.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Terminate => "terminate",
            Self::Abandon => "abandon",
            Self::RequestCancel => "request_cancel",
        }
    }

    /// The stored code.
    pub const fn code(self) -> i16 {
        match self {
            Self::Terminate => 1,
            Self::Abandon => 2,
            Self::RequestCancel => 3,
        }
    }
}

impl SubflowDefinition {
    /// Adds its fields to those of its node; what is as usual is left out.
    pub(super) fn write(&self, map: &mut Map<String, Value>) {
        map.insert("workflow".to_owned(), json!(self.workflow));
        put(map, "version", &(self.version == ChildVersion::Latest).then_some("latest"));
        put(map, "mode", &(self.mode == SubflowMode::Detached).then_some("detached"));
        put(map, "close_policy", &(self.close_policy != self.mode.usual_policy()).then(|| self.close_policy.word()));
        put(map, "timeout", &self.timeout.map(duration::format));
        put(map, "retry", &self.retry);
    }
}
