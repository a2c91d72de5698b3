//! Waits, approvals and milestones: nodes that go on when a signal comes, or the context changes. What its author writes, and its canonical JSON.

use serde_json::{Map, Value, json};

use super::put;
use crate::duration;

/// The most signals that one node waits for.
pub const MAX_SIGNALS: usize = 100;
/// The longest name of a signal in characters.
pub const MAX_SIGNAL: usize = 256;

/// What a `wait` node waits for.
#[derive(Clone, Debug, PartialEq)]
pub struct WaitDefinition {
    /// Names of signals, templates: the first that was sent is taken.
    pub signals: Vec<String>,
    /// A bare expression that is true of a signal for this node; any of that name when not given.
    pub matches: Option<String>,
    /// How long it waits, such as `1h`, a template; for ever when not given.
    pub timeout: Option<String>,
    /// JSON Schema of the payload. A signal that breaks it is taken and refused, and the node waits on.
    pub schema: Option<Value>,
}

/// What an `approval` node waits for: the signal `approval:<its id>` with `{"answer": …, "by": …}`.
#[derive(Clone, Debug, PartialEq)]
pub struct ApprovalDefinition {
    /// Who may answer, templates: `by` must be one of them; anyone when not given.
    pub approvers: Option<Vec<String>>,
    /// How long it waits, such as `1h`, a template; for ever when not given.
    pub timeout: Option<String>,
    /// JSON Schema of the answer. One that breaks it is refused, and the node waits on.
    pub schema: Option<Value>,
}

/// What a `milestone` node waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MilestoneDefinition {
    /// A bare expression over the run's context: the node goes on as soon as it is true.
    pub when: String,
    /// How long it waits, such as `1h`, a template; for ever when not given.
    pub timeout: Option<String>,
}

impl MilestoneDefinition {
    /// Adds its fields to those of its node.
    pub(super) fn write(&self, map: &mut Map<String, Value>) {
        put(map, "when", &Some(&self.when));
        put(map, "timeout", &self.timeout.as_deref().map(shortest));
    }
}

impl ApprovalDefinition {
    /// Adds its fields to those of its node.
    pub(super) fn write(&self, map: &mut Map<String, Value>) {
        put(map, "approvers", &self.approvers);
        put(map, "timeout", &self.timeout.as_deref().map(shortest));
        put(map, "schema", &self.schema);
    }
}

/// The signal that answers an `approval` node.
pub fn approval_signal(node: &str) -> String {
    format!("approval:{node}")
}

/// A constant is spelled in its shortest form; a template stays as it is.
fn shortest(time: &str) -> String {
    duration::parse(time).map_or_else(|_| time.to_owned(), duration::format)
}

impl WaitDefinition {
    /// Adds its fields to those of its node.
    pub(super) fn write(&self, map: &mut Map<String, Value>) {
        match self.signals.as_slice() {
            [only] => map.insert("signal".to_owned(), json!(only)),
            many => map.insert("signals".to_owned(), json!(many)),
        };
        put(map, "match", &self.matches);
        put(map, "timeout", &self.timeout.as_deref().map(shortest));
        put(map, "schema", &self.schema);
    }
}
