//! A version, compiled: what a worker keeps in memory to decide everything about its runs without the database.
//!
//! It is immutable and shared as an `Arc`. What a node needs to be decided is known here, so that values are read
//! ahead in one statement. What follows from an ended node is in `successor`.

mod compile;
mod values;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jsonschema::Validator;
use serde_json::Value;

pub use crate::definition::{On, Problem, Problems};
pub(crate) use values::Extra;
pub use values::{Delay, NodeResult, RunFacts, Termination, Values};

use crate::check::Program;
use crate::definition::Definition;
use crate::expression::{Expression, Template};
use crate::retry::RetryPolicy;

/// A node's place in its definition, or one of the engine's own nodes, which are negative.
pub type NodeNumber = i32;
/// The engine's node that makes all entry nodes ready, when there are several.
pub const START: NodeNumber = -1;
/// The engine's node that ends a run with several things to wait for.
pub const END: NodeNumber = -2;

/// A compiled version of a workflow.
pub struct Graph {
    name: Arc<str>,
    nodes: Vec<Node>,
    edges: Vec<Edge>,
    numbers: HashMap<Arc<str>, NodeNumber>,
    entries: Vec<NodeNumber>,
    sinks: Vec<NodeNumber>,
    /// Things whose resolution ends a run: sinks and early-firing joins.
    open_ends: i32,
    chain: bool,
    input_schema: Option<(Value, Validator)>,
    output: Option<Template>,
    end_needs: Needs,
}

/// A node of a compiled version.
#[derive(Debug)]
pub struct Node {
    /// Its number.
    pub number: NodeNumber,
    /// Its id.
    pub id: Arc<str>,
    /// The queue its steps go to.
    pub queue: Arc<str>,
    /// What it does.
    pub kind: NodeKind,
    input: Option<Template>,
    program: Program,
    needs: Needs,
    /// Distinct predecessors.
    predecessors: Vec<NodeNumber>,
    /// Edges that leave it.
    pub(crate) outgoing: Vec<usize>,
    join: Option<Join>,
    /// All its edges are taken whenever it completes.
    pub(crate) plain: bool,
}

impl Node {
    /// What must be at hand before the node starts, so that running and ending it needs no further read.
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// The handler's name, if it is a task.
    pub fn handler(&self) -> Option<&Arc<str>> {
        match &self.kind {
            NodeKind::Task { handler, .. } => Some(handler),
            _ => None,
        }
    }

    /// True for nodes that the lane decides itself.
    pub fn is_engine_own(&self) -> bool {
        !matches!(self.kind, NodeKind::Task { .. })
    }

    /// The nodes from which edges lead here, each once, in definition order.
    pub fn predecessors(&self) -> &[NodeNumber] {
        &self.predecessors
    }
}

/// What a node does.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeKind {
    /// Runs a handler.
    Task {
        /// The handler's name.
        handler: Arc<str>,
        /// How long one attempt may run.
        timeout: Duration,
        /// What follows a failed attempt.
        retry: RetryPolicy,
    },
    /// Builds an output: [`Graph::set_output`].
    Set,
    /// Waits: [`Graph::delay`]. Its output is its input.
    Delay,
    /// Fails: [`Graph::failure`].
    Fail,
    /// Ends the run: [`Graph::termination`].
    Terminate,
}

impl NodeKind {
    /// The word in the definition's `type`.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Task { .. } => "task",
            Self::Set => "set",
            Self::Delay => "delay",
            Self::Fail => "fail",
            Self::Terminate => "terminate",
        }
    }
}

/// An edge of a compiled version, at its place in the definition.
#[derive(Debug)]
pub struct Edge {
    /// The node it leaves.
    pub from: NodeNumber,
    /// The node it leads to.
    pub to: NodeNumber,
    /// Which ending takes it.
    pub on: On,
    pub(crate) when: Option<Expression>,
}

impl Edge {
    /// The condition as it was written.
    pub fn when(&self) -> Option<&str> {
        self.when.as_ref().map(Expression::text)
    }
}

/// Values to be at hand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The run's input.
    pub run_input: bool,
    /// Results of these nodes, sorted. A node among them that has not ended, or was skipped, has none.
    pub nodes: Vec<NodeNumber>,
}

/// How the edges to a node are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Join {
    /// How many tokens come in all.
    pub indegree: i32,
    /// 0: fires when all are resolved, if at least one was taken. *n* > 0: fires as soon as *n* were taken.
    /// −1, for [`END`]: fires when all are resolved, whatever was taken.
    pub need: i32,
}

impl Join {
    /// True if it may fire before all its edges are resolved. Such a join owes `END` one more arrival when they
    /// are: [`Ending::Rested`](crate::successor::Ending::Rested).
    pub const fn fires_early(self) -> bool {
        self.need > 0
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Graph")
            .field("name", &self.name)
            .field("nodes", &self.nodes.len())
            .field("edges", &self.edges.len())
            .finish_non_exhaustive()
    }
}

impl Graph {
    /// Checks and compiles a definition. The error names every problem.
    pub fn compile(definition: &Definition) -> Result<Self, Problems> {
        Ok(compile::graph(definition, crate::check::check(definition)?))
    }

    /// The workflow's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The nodes by number.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node of the definition; `None` for the engine's own and unknown numbers.
    pub fn node(&self, number: NodeNumber) -> Option<&Node> {
        self.nodes.get(usize::try_from(number).ok()?)
    }

    /// The id of a node; `start` and `end` for the engine's own.
    pub fn id(&self, number: NodeNumber) -> &str {
        match number {
            START => "start",
            END => "end",
            number => self.node(number).map_or("unknown", |node| &node.id),
        }
    }

    /// The number of an id.
    pub fn number(&self, id: &str) -> Option<NodeNumber> {
        self.numbers.get(id).copied()
    }

    /// The edges, as they stand in the definition.
    pub fn edges(&self) -> &[Edge] {
        &self.edges
    }

    /// The nodes to which no edge leads.
    pub fn entries(&self) -> &[NodeNumber] {
        &self.entries
    }

    /// The nodes from which no edge leads.
    pub fn sinks(&self) -> &[NodeNumber] {
        &self.sinks
    }

    /// The node whose step starts a run: the entry node when there is just one, else [`START`].
    pub fn first_node(&self) -> NodeNumber {
        match self.entries.as_slice() {
            [only] => *only,
            _ => START,
        }
    }

    /// The queues of its nodes, sorted, each once.
    pub fn queues(&self) -> Vec<Arc<str>> {
        let mut queues: Vec<_> = self.nodes.iter().map(|node| Arc::clone(&node.queue)).collect();
        queues.sort_unstable();
        queues.dedup();
        queues
    }

    /// The JSON Schema of a run's input.
    pub fn input_schema_value(&self) -> Option<&Value> {
        self.input_schema.as_ref().map(|(schema, _)| schema)
    }

    /// True if nothing else of a run can be out when one of its nodes ends.
    pub fn is_chain(&self) -> bool {
        self.chain
    }

    /// How the edges to `number` are counted: for nodes with several, and for [`END`] when it is needed.
    pub fn join(&self, number: NodeNumber) -> Option<Join> {
        if number == END {
            return self.end_needed().then_some(Join { indegree: self.open_ends, need: -1 });
        }
        self.node(number)?.join
    }

    /// True if [`END`] ends a run: its end is a join of several things, or its output is a template, for whose values a step of its own reads.
    pub fn end_needed(&self) -> bool {
        self.open_ends > 1 || self.output.is_some()
    }

    /// What [`run_output`](Self::run_output) reads.
    pub fn end_needs(&self) -> &Needs {
        &self.end_needs
    }
}
