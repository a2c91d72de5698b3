//! What a workflow's author writes: the types of a definition, its canonical JSON and its content hash.
//!
//! A definition comes from JSON with all its mistakes named at once (`from_json`), or is built in Rust and
//! checked when it is compiled to a [`Graph`](crate::graph::Graph). The same content has the same hash, however
//! it was spelled.

pub mod block;
pub mod context;
mod parse;
mod problem;
pub mod reminder;
pub mod subflow;
pub mod wait;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Map, Number, Value, json};
use sha2::{Digest, Sha256};

pub use block::{BlockDefinition, BlockType, BodyDefinition};
pub use context::ContextDefinition;
pub use problem::{Problem, Problems};
pub use reminder::{RemindedApproval, ReminderDefinition};
pub use subflow::{ChildVersion, ClosePolicy, SubflowDefinition, SubflowMode};
pub use wait::{ApprovalDefinition, MilestoneDefinition, WaitDefinition};

use crate::duration;
use crate::retry::RetryPolicies;
use crate::state::RunState;

/// How long one attempt of a task may run when its node does not say: 30 minutes.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// The queue of a node when neither it nor its workflow names one.
pub const DEFAULT_QUEUE: &str = "default";
/// The most nodes a definition may have, those of all bodies included.
pub const MAX_NODES: usize = 20_000;
/// The most edges a definition may have, those of all bodies included.
pub const MAX_EDGES: usize = 200_000;
/// The longest name of a workflow, node or queue in bytes.
pub const MAX_ID: usize = 128;

/// A workflow as its author writes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// The workflow's name.
    pub name: String,
    /// Queue of the nodes that name none.
    pub queue: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// JSON Schema that the input of a run must satisfy.
    pub input_schema: Option<Value>,
    /// The nodes of the run's own graph; those of bodies are within its blocks.
    pub nodes: Vec<NodeDefinition>,
    /// The edges among these nodes.
    pub edges: Vec<EdgeDefinition>,
    /// Template of the run's output; the sinks' outputs when not given.
    pub output: Option<Value>,
    /// The context that a run begins with, an object; handlers may change the context only where this is given.
    pub context: Option<Value>,
    /// Bare expressions that may be asked of a run by name.
    pub queries: BTreeMap<String, String>,
}

/// How large a definition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Its nodes.
    pub nodes: usize,
    /// Its edges.
    pub edges: usize,
}

/// One node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeDefinition {
    /// Its id, unique in the whole definition.
    pub id: String,
    /// What it does.
    pub kind: NodeType,
    /// Template of its input; replaces the default input.
    pub input: Option<Value>,
    /// The queue its steps go to.
    pub queue: Option<String>,
    /// When it starts, if several edges lead to it.
    pub join: JoinRule,
    /// What its giving up means.
    pub on_error: OnError,
}

/// What it means that a node gives up: it failed and has no attempt left.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum OnError {
    /// An edge on failure takes it; without one its body fails, at last the run.
    #[default]
    Fail,
    /// As `Fail`, and an edge on failure must be there.
    Route,
    /// It completes, with its error as output.
    Continue,
    /// It completes with this output, a template, which may read `error`.
    Fallback(Value),
    /// It counts as skipped: what hangs on it alone is skipped, too.
    Skip,
}

impl OnError {
    /// The word in the definition.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Route => "route",
            Self::Continue => "continue",
            Self::Fallback(_) => "fallback",
            Self::Skip => "skip",
        }
    }
}

/// What a node does.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeType {
    /// Runs a registered handler.
    Task {
        /// The handler's name.
        handler: String,
        /// How long one attempt may run; [`DEFAULT_TIMEOUT`] when not given.
        timeout: Option<Duration>,
        /// The retry policies; the default one when not given.
        retry: Option<RetryPolicies>,
    },
    /// Builds an output from a template.
    Set {
        /// The template.
        output: Value,
    },
    /// Waits for a time.
    Delay(DelayTime),
    /// Waits for a signal.
    Wait(Box<WaitDefinition>),
    /// Waits for the answer of a person.
    Approval(Box<ApprovalDefinition>),
    /// Waits until something is true of the run's context.
    Milestone(Box<MilestoneDefinition>),
    /// Changes the run's context.
    Context(Box<ContextDefinition>),
    /// Starts a run of a workflow.
    Subflow(Box<SubflowDefinition>),
    /// Fails this step for good; edges on failure apply.
    Fail {
        /// Name of the error, a template.
        name: String,
        /// Message of the error, a template.
        message: String,
        /// The retry policy of a block around may try it again.
        retryable: bool,
    },
    /// Ends the run at once and cancels the rest of it.
    Terminate {
        /// Completed, failed or canceled.
        state: RunState,
        /// Template of the run's output, for `completed`.
        output: Option<Value>,
        /// Name and message of the run's error, templates, for `failed`.
        error: Option<(String, String)>,
    },
    /// Holds bodies.
    Block(Box<BlockDefinition>),
}

impl NodeType {
    /// The word in the definition's `type`.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Task { .. } => "task",
            Self::Set { .. } => "set",
            Self::Delay(_) => "delay",
            Self::Wait(_) => "wait",
            Self::Approval(_) => "approval",
            Self::Milestone(_) => "milestone",
            Self::Context(_) => "context",
            Self::Subflow(_) => "subflow",
            Self::Fail { .. } => "fail",
            Self::Terminate { .. } => "terminate",
            Self::Block(block) => block.kind.word(),
        }
    }
}

/// How long a `delay` node waits. Both are templates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DelayTime {
    /// This long, such as `5s`.
    For(String),
    /// Until this time, RFC 3339 with a zone.
    Until(String),
}

/// When a node starts, if several edges lead to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum JoinRule {
    /// When all edges are resolved, if at least one was taken.
    #[default]
    All,
    /// When the first edge is taken.
    Any,
    /// When this many edges are taken.
    Count(u32),
}

impl JoinRule {
    /// As it is written; none for the usual rule.
    fn to_value(self) -> Option<Value> {
        match self {
            Self::All => None,
            Self::Any => Some(json!("any")),
            Self::Count(count) => Some(json!(count)),
        }
    }
}

/// Which ending of its node takes an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum On {
    /// The node completed.
    #[default]
    Success,
    /// The node gave up.
    Failure,
    /// The node completed or gave up; not when it was skipped.
    Always,
    /// The node's time was over (a `wait`, an `approval`, a `milestone`, a `subflow` that waits, a `task`); then no edge on failure is taken, if there is one
    /// of these.
    Timeout,
}

impl On {
    /// The word in the definition.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Always => "always",
            Self::Timeout => "timeout",
        }
    }
}

impl fmt::Display for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeDefinition {
    /// Id of the node it leaves.
    pub from: String,
    /// Id of the node it leads to.
    pub to: String,
    /// Which ending takes it.
    pub on: On,
    /// A bare expression that must be true as well.
    pub when: Option<String>,
}

impl Definition {
    /// Reads and checks a definition; all problems at once.
    pub fn from_json(value: &Value) -> Result<Self, Problems> {
        let (definition, mut problems) = parse::definition(value);
        let Some(definition) = definition else {
            return Err(Problems::of(problems));
        };
        if let Err(more) = crate::check::check(&definition) {
            problems.extend(more.0);
        }
        // A field that is wrong by itself is noted when it is read and again when it is checked.
        if problems.is_empty() { Ok(definition) } else { Err(Problems::of(problems)) }
    }

    /// The canonical JSON: edges as objects, durations in their shortest spelling, defaults left out. Reading it
    /// gives the same definition.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        map.insert("name".to_owned(), json!(self.name));
        put(&mut map, "queue", &self.queue);
        put(&mut map, "description", &self.description);
        put(&mut map, "input_schema", &self.input_schema);
        map.insert("nodes".to_owned(), self.nodes.iter().map(NodeDefinition::to_value).collect());
        map.insert("edges".to_owned(), self.edges.iter().map(EdgeDefinition::to_value).collect());
        put(&mut map, "output", &self.output);
        put(&mut map, "context", &self.context);
        put(&mut map, "queries", &(!self.queries.is_empty()).then_some(&self.queries));
        Value::Object(map)
    }

    /// How large it is, all bodies included.
    pub fn size(&self) -> Size {
        let mut size = Size { nodes: self.nodes.len(), edges: self.edges.len() };
        let mut open = vec![self.nodes.as_slice()];
        while let Some(nodes) = open.pop() {
            for node in nodes {
                let NodeType::Block(block) = &node.kind else { continue };
                for (_, body) in block.kind.bodies() {
                    size.nodes += body.nodes.len();
                    size.edges += body.edges.len();
                    open.push(&body.nodes);
                }
            }
        }
        size
    }

    /// The workflows that its nodes start, each with the path of the node.
    pub fn subflows(&self) -> Vec<(String, &str)> {
        let mut found = Vec::new();
        let mut open = vec![(String::new(), self.nodes.as_slice())];
        while let Some((path, nodes)) = open.pop() {
            for (place, node) in nodes.iter().enumerate() {
                let path = format!("{path}nodes[{place}]");
                match &node.kind {
                    NodeType::Subflow(subflow) => found.push((path, subflow.workflow.as_str())),
                    NodeType::Block(block) => {
                        let bodies = block.kind.bodies().into_iter();
                        open.extend(bodies.map(|(body, of)| (format!("{path}.{body}."), of.nodes.as_slice())));
                    }
                    _ => {}
                }
            }
        }
        found
    }

    /// SHA-256 of the canonical JSON with sorted keys, in lowercase hexadecimal. Equal hashes mean the same
    /// version.
    pub fn content_hash(&self) -> String {
        let mut text = String::new();
        write_sorted(&self.to_value(), &mut text);
        Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl NodeDefinition {
    /// A task with the default timeout, retry policy, queue, input and join.
    pub fn task(id: &str, handler: &str) -> Self {
        let kind = NodeType::Task { handler: handler.to_owned(), timeout: None, retry: None };
        Self { id: id.to_owned(), kind, input: None, queue: None, join: JoinRule::All, on_error: OnError::Fail }
    }

    fn to_value(&self) -> Value {
        let mut map = Map::new();
        map.insert("id".to_owned(), json!(self.id));
        map.insert("type".to_owned(), json!(self.kind.word()));
        match &self.kind {
            NodeType::Task { handler, timeout, retry } => {
                map.insert("handler".to_owned(), json!(handler));
                put(&mut map, "timeout", &timeout.map(duration::format));
                put(&mut map, "retry", retry);
            }
            NodeType::Set { output } => {
                map.insert("output".to_owned(), output.clone());
            }
            NodeType::Delay(DelayTime::For(time)) => {
                // A constant is spelled in its shortest form; a template stays as it is.
                let time = duration::parse(time).map_or_else(|_| time.clone(), duration::format);
                map.insert("duration".to_owned(), json!(time));
            }
            NodeType::Delay(DelayTime::Until(time)) => {
                map.insert("until".to_owned(), json!(time));
            }
            NodeType::Fail { name, message, retryable } => {
                map.insert("name".to_owned(), json!(name));
                map.insert("message".to_owned(), json!(message));
                put(&mut map, "retryable", &retryable.then_some(true));
            }
            NodeType::Terminate { state, output, error } => {
                map.insert("state".to_owned(), json!(state));
                put(&mut map, "output", output);
                let error = error.as_ref().map(|(name, message)| json!({"name": name, "message": message}));
                put(&mut map, "error", &error);
            }
            NodeType::Wait(wait) => wait.write(&mut map),
            NodeType::Approval(approval) => approval.write(&mut map),
            NodeType::Milestone(milestone) => milestone.write(&mut map),
            NodeType::Context(context) => context.write(&mut map),
            NodeType::Subflow(subflow) => subflow.write(&mut map),
            NodeType::Block(block) => block.write(&mut map),
        }
        put(&mut map, "input", &self.input);
        put(&mut map, "queue", &self.queue);
        put(&mut map, "join", &self.join.to_value());
        let on_error = match &self.on_error {
            OnError::Fail => None,
            OnError::Fallback(output) => Some(json!({"fallback": output})),
            other => Some(json!(other.word())),
        };
        put(&mut map, "on_error", &on_error);
        Value::Object(map)
    }
}

impl EdgeDefinition {
    /// An edge taken when `from` completes.
    pub fn success(from: &str, to: &str) -> Self {
        Self { from: from.to_owned(), to: to.to_owned(), on: On::Success, when: None }
    }

    fn to_value(&self) -> Value {
        let mut map = Map::new();
        map.insert("from".to_owned(), json!(self.from));
        map.insert("to".to_owned(), json!(self.to));
        if self.on != On::Success {
            map.insert("on".to_owned(), json!(self.on.as_str()));
        }
        put(&mut map, "when", &self.when);
        Value::Object(map)
    }
}

/// True for what may name a workflow, node or queue: 1 to 128 of `A-Z a-z 0-9 _ . : -`.
pub fn is_id(text: &str) -> bool {
    (1..=MAX_ID).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte))
}

fn put<T: serde::Serialize>(map: &mut Map<String, Value>, key: &str, value: &Option<T>) {
    if let Some(value) = value {
        map.insert(key.to_owned(), json!(value));
    }
}

/// Writes compact JSON with the keys of every object sorted, whatever order the map type keeps.
fn write_sorted(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            out.push('{');
            for (place, (key, item)) in entries.into_iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write_sorted(item, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                write_sorted(item, out);
            }
            out.push(']');
        }
        Value::Number(number) => out.push_str(&stored_number(number)),
        leaf => out.push_str(&leaf.to_string()),
    }
}

/// The number as it reads when it comes back from Postgres, whose `jsonb` knows no exponents and no negative zero: the
/// hash of a version must be that of what is stored.
fn stored_number(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() && float == 0.0 => "0.0".to_owned(),
        Some(float) if number.is_f64() && float.abs() >= 1e16 => match format!("{float}").parse::<Value>() {
            Ok(read) => read.to_string(),
            Err(_) => number.to_string(),
        },
        _ => number.to_string(),
    }
}
