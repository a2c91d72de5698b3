//! Blocks: nodes that hold bodies, each a graph of its own. What its author writes, and its canonical JSON.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::reminder::RemindedApproval;
use super::{EdgeDefinition, JoinRule, NodeDefinition, put};
use crate::duration;
use crate::retry::RetryPolicies;

/// How deep blocks may be nested.
pub const MAX_DEPTH: usize = 16;
/// The most branches, cases or catches of a block.
pub const MAX_BODIES: usize = 1000;
/// The most items of a `foreach`.
pub const MAX_ITEMS: usize = 100_000;
/// The most passes of a `while`.
pub const MAX_ITERATIONS: u32 = 1_000_000;
/// How many iterations of a `foreach` go on at a time when it does not say.
pub const DEFAULT_CONCURRENCY: u32 = 256;
/// How many passes a `while` makes at most when it does not say.
pub const DEFAULT_MAX_ITERATIONS: u32 = 100;

/// A graph within a block.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct BodyDefinition {
    /// The nodes. Their ids are unique in the whole definition.
    pub nodes: Vec<NodeDefinition>,
    /// The edges, among these nodes.
    pub edges: Vec<EdgeDefinition>,
    /// Template of the body's output; the sinks' outputs when not given.
    pub output: Option<Value>,
}

/// What every block has.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockDefinition {
    /// What it does with its bodies.
    pub kind: BlockType,
    /// How long one attempt of the block may take, from its start to its end; as long as it takes when not given.
    pub timeout: Option<Duration>,
    /// What follows a failed attempt of the block as a whole; nothing when not given.
    pub retry: Option<RetryPolicies>,
}

/// What a block does with its bodies.
#[derive(Clone, Debug, PartialEq)]
pub enum BlockType {
    /// Runs its branches at once.
    Parallel {
        /// Each with its name, in the order of the output.
        branches: Vec<(String, BodyDefinition)>,
        /// How many branches must complete; the rest is canceled then.
        ends: JoinRule,
        /// The first failed branch fails the block; else all branches go on to their end first.
        fail_fast: bool,
        /// How many branches go on at a time, a number or a template of one; all of them when not given.
        concurrency: Option<Value>,
    },
    /// Runs its body for each item.
    Foreach {
        /// The items: a list, or a template of one.
        items: Value,
        /// What runs for each.
        body: BodyDefinition,
        /// How many iterations go on at a time, a number or a template of one; [`DEFAULT_CONCURRENCY`] when not given.
        concurrency: Option<Value>,
        /// How many iterations may fail.
        tolerate: Option<Tolerance>,
    },
    /// Runs its body again and again.
    While {
        /// A bare expression: another pass is made while it is true. `input` is what that pass would be given.
        when: String,
        /// The first pass is made without asking.
        do_while: bool,
        /// The most passes.
        max_iterations: u32,
        /// What happens when the condition still holds after the last of them.
        on_limit: OnLimit,
        /// Only the frames of so many last passes are kept; all when not given.
        keep: Option<u32>,
        /// What a pass does.
        body: BodyDefinition,
    },
    /// Runs one of two bodies, or none.
    If {
        /// A bare expression.
        when: String,
        /// Runs when it is true.
        then: BodyDefinition,
        /// Runs when it is not.
        otherwise: Option<BodyDefinition>,
    },
    /// Runs the body of the first case that holds.
    Switch {
        /// Bare expressions and what runs when they are true.
        cases: Vec<(String, BodyDefinition)>,
        /// Runs when none holds.
        default: Option<BodyDefinition>,
    },
    /// Runs its body, and another when it fails.
    Try {
        /// What is tried.
        body: BodyDefinition,
        /// The first that takes the error runs.
        catches: Vec<CatchDefinition>,
        /// Runs after all that, whatever came of it.
        finally: Option<BodyDefinition>,
    },
    /// Waits for the answer of a person, and runs a handler meanwhile.
    Reminded(Box<RemindedApproval>),
}

/// How many iterations of a `foreach` may fail. Each is a number or a template of one; both may be given.
#[derive(Clone, Debug, PartialEq)]
pub struct Tolerance {
    /// So many.
    pub count: Option<Value>,
    /// Such a share of all items, 0 to 1.
    pub share: Option<Value>,
}

/// What a `while` does when its condition still holds after its last pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnLimit {
    /// It fails with `max_iterations`.
    #[default]
    Fail,
    /// It completes with the output of the last pass.
    Stop,
}

/// One `catch` of a `try`.
#[derive(Clone, Debug, PartialEq)]
pub struct CatchDefinition {
    /// Names or kinds of errors, `*` standing for any text within them. Empty: every error.
    pub on: Vec<String>,
    /// Runs with the error as its input.
    pub body: BodyDefinition,
}

impl BlockType {
    /// The word in the definition's `type`.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Parallel { .. } => "parallel",
            Self::Foreach { .. } => "foreach",
            Self::While { .. } => "while",
            Self::If { .. } => "if",
            Self::Switch { .. } => "switch",
            Self::Try { .. } => "try",
            Self::Reminded(_) => "approval",
        }
    }

    /// Its bodies in the order of the definition, each with its path below the node: branches, cases and catches by
    /// number, then `default` or `finally`.
    pub fn bodies(&self) -> Vec<(String, &BodyDefinition)> {
        match self {
            Self::Parallel { branches, .. } => {
                branches.iter().enumerate().map(|(at, (_, body))| (format!("branches[{at}]"), body)).collect()
            }
            Self::Foreach { body, .. } | Self::While { body, .. } => vec![("body".to_owned(), body)],
            Self::If { then, otherwise, .. } => {
                let otherwise = otherwise.iter().map(|body| ("else".to_owned(), body));
                std::iter::once(("then".to_owned(), then)).chain(otherwise).collect()
            }
            Self::Switch { cases, default } => {
                let cases = cases.iter().enumerate().map(|(at, (_, body))| (format!("cases[{at}].body"), body));
                cases.chain(default.iter().map(|body| ("default".to_owned(), body))).collect()
            }
            Self::Try { body, catches, finally } => {
                let catches = catches.iter().enumerate().map(|(at, catch)| (format!("catch[{at}].body"), &catch.body));
                let finally = finally.iter().map(|body| ("finally".to_owned(), body));
                std::iter::once(("body".to_owned(), body)).chain(catches).chain(finally).collect()
            }
            Self::Reminded(reminded) => {
                vec![("answer".to_owned(), &reminded.answer), ("reminder".to_owned(), &reminded.reminders)]
            }
        }
    }

    /// The same bodies in the same order, to be changed.
    pub fn bodies_mut(&mut self) -> Vec<&mut BodyDefinition> {
        match self {
            Self::Parallel { branches, .. } => branches.iter_mut().map(|(_, body)| body).collect(),
            Self::Foreach { body, .. } | Self::While { body, .. } => vec![body],
            Self::If { then, otherwise, .. } => std::iter::once(then).chain(otherwise).collect(),
            Self::Switch { cases, default } => cases.iter_mut().map(|(_, body)| body).chain(default).collect(),
            Self::Try { body, catches, finally } => {
                std::iter::once(body).chain(catches.iter_mut().map(|catch| &mut catch.body)).chain(finally).collect()
            }
            Self::Reminded(reminded) => vec![&mut reminded.answer, &mut reminded.reminders],
        }
    }
}

impl BlockDefinition {
    /// Adds its fields to those of its node; what is as usual is left out.
    pub(super) fn write(&self, map: &mut Map<String, Value>) {
        put(map, "timeout", &self.timeout.map(duration::format));
        put(map, "retry", &self.retry);
        match &self.kind {
            BlockType::Parallel { branches, ends, fail_fast, concurrency } => {
                let branch = |(id, body): &(String, BodyDefinition)| {
                    let mut map = Map::from_iter([("id".to_owned(), json!(id))]);
                    body.write(&mut map);
                    Value::Object(map)
                };
                map.insert("branches".to_owned(), branches.iter().map(branch).collect());
                put(map, "ends", &ends.to_value());
                put(map, "fail_fast", &(!fail_fast).then_some(false));
                put(map, "concurrency", concurrency);
            }
            BlockType::Foreach { items, body, concurrency, tolerate } => {
                map.insert("items".to_owned(), items.clone());
                put(map, "concurrency", concurrency);
                put(map, "tolerate", &tolerate.as_ref().map(Tolerance::to_value));
                map.insert("body".to_owned(), body.to_value());
            }
            BlockType::While { when, do_while, max_iterations, on_limit, keep, body } => {
                map.insert("when".to_owned(), json!(when));
                put(map, "do_while", &do_while.then_some(true));
                let max_iterations = (*max_iterations != DEFAULT_MAX_ITERATIONS).then_some(max_iterations);
                put(map, "max_iterations", &max_iterations);
                put(map, "on_limit", &(*on_limit == OnLimit::Stop).then_some("stop"));
                put(map, "keep", keep);
                map.insert("body".to_owned(), body.to_value());
            }
            BlockType::If { when, then, otherwise } => {
                map.insert("when".to_owned(), json!(when));
                map.insert("then".to_owned(), then.to_value());
                put(map, "else", &otherwise.as_ref().map(BodyDefinition::to_value));
            }
            BlockType::Switch { cases, default } => {
                let case = |(when, body): &(String, BodyDefinition)| json!({"when": when, "body": body.to_value()});
                map.insert("cases".to_owned(), cases.iter().map(case).collect());
                put(map, "default", &default.as_ref().map(BodyDefinition::to_value));
            }
            BlockType::Try { body, catches, finally } => {
                map.insert("body".to_owned(), body.to_value());
                let catches: Vec<_> = catches.iter().map(CatchDefinition::to_value).collect();
                put(map, "catch", &(!catches.is_empty()).then_some(catches));
                put(map, "finally", &finally.as_ref().map(BodyDefinition::to_value));
            }
            BlockType::Reminded(reminded) => reminded.write(map),
        }
    }
}

impl BodyDefinition {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        self.write(&mut map);
        Value::Object(map)
    }

    fn write(&self, map: &mut Map<String, Value>) {
        map.insert("nodes".to_owned(), self.nodes.iter().map(NodeDefinition::to_value).collect());
        if !self.edges.is_empty() {
            map.insert("edges".to_owned(), self.edges.iter().map(EdgeDefinition::to_value).collect());
        }
        put(map, "output", &self.output);
    }
}

impl Tolerance {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        put(&mut map, "count", &self.count);
        put(&mut map, "share", &self.share);
        Value::Object(map)
    }
}

impl CatchDefinition {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        put(&mut map, "on", &(!self.on.is_empty()).then_some(&self.on));
        map.insert("body".to_owned(), self.body.to_value());
        Value::Object(map)
    }

    /// True if no error passes it.
    pub(crate) fn takes_everything(&self) -> bool {
        self.on.is_empty() || self.on.iter().any(|word| !word.is_empty() && word.bytes().all(|byte| byte == b'*'))
    }
}
