//! A version, compiled: what a worker keeps in memory to decide everything about its runs without the database.
//!
//! It is immutable and shared as an `Arc`. What a node needs to be decided is known here, so that values are read
//! ahead in one statement. What follows from an ended node is in `successor`.

mod block;
mod compile;
mod on_error;
mod query;
mod values;
mod wait;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jsonschema::Validator;
use serde_json::Value;

pub use crate::definition::{On, Problem, Problems};
pub use block::{Block, BlockKind, BodyNumber};
pub use on_error::{GivesUp, OnError};
pub use query::Query;
pub(crate) use values::Extra;
pub use values::{Bounds, Delay, FrameFacts, NodeResult, RunFacts, Termination, Values, concerning};
pub use wait::{Announcement, Signal, Verdict, timed_out};

use crate::check::Program;
use crate::definition::{ChildVersion, ClosePolicy, Definition, SubflowMode};
use crate::expression::{Expression, Template};
use crate::payload::Payload;
use crate::retry::RetryPolicies;

/// A node's place in its definition, or one of the engine's own nodes, which are negative.
pub type NodeNumber = i32;
/// The engine's node that makes all entry nodes ready, when there are several.
pub const START: NodeNumber = -1;
/// The engine's node that ends a run or a frame with several things to wait for.
pub const END: NodeNumber = -2;
/// The engine's node of a block that runs its bodies at once: a join of those that failed.
pub const FAILURES: NodeNumber = -3;
/// The engine's node that opens more iterations of a block.
pub const OPEN: NodeNumber = -4;
/// The engine's node that says what a block does after one of its bodies.
pub const NEXT: NodeNumber = -5;
/// The engine's node that ends a block whose time is over.
pub const TIMEOUT: NodeNumber = -6;
/// The engine's node that a sent signal or a changed context makes, in frame 0: it has those looked for that may have waited for it.
pub const DELIVER: NodeNumber = -7;
/// The engine's node of a waiting step, in its frame: it looks for a signal that is there. Its number (`attempt`) is the node's that waits.
pub const LOOK: NodeNumber = -8;
/// The engine's node that ends a wait whose time is over. Its number is the node's that waits.
pub const TIME_UP: NodeNumber = -9;
/// The engine's node of a step that waits for a run, in its frame: that run has ended. Its number is the node's that waits.
pub const CHILD: NodeNumber = -10;
/// The engine's node of a `try` that was cut off, which begins its `finally`; or of a `finally` at work when that happened, whose time it bounds.
pub const CLEAN_UP: NodeNumber = -11;

/// A compiled version of a workflow.
pub struct Graph {
    name: Arc<str>,
    nodes: Vec<Node>,
    edges: Vec<Edge>,
    numbers: HashMap<Arc<str>, NodeNumber>,
    /// The run's own graph, then the bodies of blocks.
    bodies: Vec<Body>,
    input_schema: Option<(Value, Validator)>,
    /// What its runs' context begins with; none where nothing can change it.
    context: Option<Payload>,
    waits_for_context: bool,
    queries: BTreeMap<String, Query>,
    closes_children: bool,
    finally: bool,
}

/// One graph of a version: the run's own, or a body of a block.
#[derive(Debug)]
pub struct Body {
    /// The block that holds it; none for the run's own.
    pub block: Option<NodeNumber>,
    /// The body that holds that block.
    pub around: BodyNumber,
    entries: Vec<NodeNumber>,
    sinks: Vec<NodeNumber>,
    /// Things whose resolution ends it: sinks and early-firing joins.
    open_ends: i32,
    chain: bool,
    output: Option<Template>,
    end_needs: Needs,
}

impl Body {
    /// The nodes to which no edge leads.
    pub fn entries(&self) -> &[NodeNumber] {
        &self.entries
    }

    /// The nodes from which no edge leads.
    pub fn sinks(&self) -> &[NodeNumber] {
        &self.sinks
    }

    /// True if nothing else of its instance can be out when one of its nodes ends.
    pub fn is_chain(&self) -> bool {
        self.chain
    }

    /// True if [`END`] ends it: its end is a join of several things, or its output is a template, for whose values a step of its own reads.
    pub fn end_needed(&self) -> bool {
        self.open_ends > 1 || self.output.is_some()
    }

    /// How its ends are counted, when [`END`] is needed.
    pub fn end_join(&self) -> Option<Join> {
        self.end_needed().then_some(Join { indegree: self.open_ends, need: -1 })
    }

    /// What [`Graph::body_output`] reads.
    pub fn end_needs(&self) -> &Needs {
        &self.end_needs
    }
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
    /// The body it belongs to.
    pub body: BodyNumber,
    input: Option<Template>,
    program: Program,
    needs: Needs,
    /// Distinct predecessors.
    predecessors: Vec<NodeNumber>,
    /// Edges that leave it.
    pub(crate) outgoing: Vec<usize>,
    join: Option<Join>,
    /// What its giving up means.
    pub on_error: OnError,
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

    /// What it does with its bodies, if it is a block.
    pub fn block(&self) -> Option<&Block> {
        match &self.kind {
            NodeKind::Block(block) => Some(block),
            _ => None,
        }
    }

    /// What it starts, if it is a `subflow`.
    pub fn subflow(&self) -> Option<&Subflow> {
        match &self.kind {
            NodeKind::Subflow(subflow) => Some(subflow),
            _ => None,
        }
    }

    /// What follows a failed attempt; none for a node that has one attempt.
    pub fn retry(&self) -> Option<&RetryPolicies> {
        match &self.kind {
            NodeKind::Task { retry, .. } => Some(retry),
            NodeKind::Block(block) => Some(&block.retry),
            NodeKind::Subflow(subflow) => Some(&subflow.retry),
            _ => None,
        }
    }

    /// Waits in a row of its own: for a signal, or for the end of a run.
    pub fn waits(&self) -> bool {
        matches!(self.kind, NodeKind::Wait { .. } | NodeKind::Subflow(_))
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

/// What a node waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitKind {
    /// A signal.
    Signal,
    /// The answer of a person, which is a signal.
    Approval,
    /// The run's context.
    Milestone,
}

/// What a node does.
#[derive(Debug)]
pub enum NodeKind {
    /// Runs a handler.
    Task {
        /// The handler's name.
        handler: Arc<str>,
        /// How long one attempt may run.
        timeout: Duration,
        /// What follows a failed attempt.
        retry: RetryPolicies,
    },
    /// Builds an output: [`Graph::set_output`].
    Set,
    /// Waits: [`Graph::delay`]. Its output is its input.
    Delay,
    /// Fails: [`Graph::failure`].
    Fail,
    /// Waits: [`Graph::announcement`], [`Graph::judge`], [`Graph::is_reached`], [`Graph::taken`].
    Wait(WaitKind),
    /// Changes the run's context: [`Graph::changes`]. Its output is its input.
    Context,
    /// Starts a run.
    Subflow(Box<Subflow>),
    /// Ends the run: [`Graph::termination`].
    Terminate,
    /// Holds bodies: what it does with them is in `frame`.
    Block(Box<Block>),
}

impl NodeKind {
    /// The word in the definition's `type`.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Task { .. } => "task",
            Self::Set => "set",
            Self::Delay => "delay",
            Self::Wait(WaitKind::Signal) => "wait",
            Self::Wait(WaitKind::Approval) => "approval",
            Self::Wait(WaitKind::Milestone) => "milestone",
            Self::Context => "context",
            Self::Fail => "fail",
            Self::Subflow(_) => "subflow",
            Self::Terminate => "terminate",
            Self::Block(block) => block.word,
        }
    }
}

/// What a `subflow` node starts, and how it goes on. Which workflow and version that is in the tables is known of the published version
/// ([`LoadedVersion`](crate::workflow::LoadedVersion)).
#[derive(Debug)]
pub struct Subflow {
    /// The workflow's name.
    pub workflow: Arc<str>,
    /// Which version of it.
    pub version: ChildVersion,
    /// Whether the node waits for the run.
    pub mode: SubflowMode,
    /// What becomes of the run when the node, or its run, ends before it.
    pub close_policy: ClosePolicy,
    /// How long the node waits.
    pub timeout: Option<Duration>,
    /// What follows a failed attempt.
    pub retry: RetryPolicies,
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
    /// The run's context.
    pub run_context: bool,
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

    /// Whether the tokens that brought it to `resolved` and `taken` make it fire, when `before` of its edges had been taken.
    pub(crate) const fn fires(self, before: i32, resolved: i32, taken: i32) -> bool {
        let whole = resolved >= self.indegree;
        match self.need {
            0 => whole && taken > 0,
            need if need < 0 => whole,
            need => before < need && taken >= need,
        }
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

    /// What its runs' context begins with; none where it declares none and no node of its changes it: then handlers may not either.
    pub fn context(&self) -> Option<&Payload> {
        self.context.as_ref()
    }

    /// True if a node of its waits for the context: a milestone, or a wait that takes signals by it.
    pub fn waits_for_context(&self) -> bool {
        self.waits_for_context
    }

    /// What may be asked of its runs, by name.
    pub fn queries(&self) -> &BTreeMap<String, Query> {
        &self.queries
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

    /// The run's own graph, then the bodies of blocks, each after the body that holds it.
    pub fn bodies(&self) -> &[Body] {
        &self.bodies
    }

    /// A body; `None` for unknown numbers.
    pub fn body(&self, number: BodyNumber) -> Option<&Body> {
        self.bodies.get(number)
    }

    /// The entry nodes of the run's own graph.
    pub fn entries(&self) -> &[NodeNumber] {
        self.bodies.first().map_or(&[], Body::entries)
    }

    /// The sinks of the run's own graph.
    pub fn sinks(&self) -> &[NodeNumber] {
        self.bodies.first().map_or(&[], Body::sinks)
    }

    /// The node whose step starts a run: the entry node when there is just one, else [`START`].
    pub fn first_node(&self) -> NodeNumber {
        match self.entries() {
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

    /// True if nothing else of a run can be out when one of its nodes ends: it is a chain without blocks.
    pub fn is_chain(&self) -> bool {
        self.bodies.first().is_some_and(Body::is_chain)
    }

    /// True if steps of a run may go on after its end: it has a `finally`.
    pub fn has_finally(&self) -> bool {
        self.finally
    }

    /// True if a run may leave child runs that it does not wait for, and that something becomes of when it ends.
    pub fn closes_children(&self) -> bool {
        self.closes_children
    }

    /// How the edges to a node are counted, for nodes with several.
    pub fn join(&self, number: NodeNumber) -> Option<Join> {
        self.node(number)?.join
    }

    /// How the arrivals at a node of this body are counted, its end's among them.
    pub(crate) fn join_within(&self, body: BodyNumber, number: NodeNumber) -> Option<Join> {
        if number == END { self.body(body)?.end_join() } else { self.join(number) }
    }

    /// The body to which a node belongs: the run's own graph for the engine's own nodes and unknown numbers.
    pub fn body_around(&self, number: NodeNumber) -> Option<&Body> {
        self.body(self.node(number).map_or(0, |node| node.body))
    }

    /// The body that a frame is an instance of; `None` for an instance of a block that is no body itself.
    pub fn body_of(&self, frame: &FrameFacts) -> Option<BodyNumber> {
        let block = self.node(frame.block)?.block()?;
        block.bodies.get(block.kind.place(frame.iteration)?).copied()
    }

    /// The body in which a step with these frames around it is; `None` for an engine step of a block that is no body itself.
    pub fn body_within(&self, frames: &[FrameFacts]) -> Option<BodyNumber> {
        frames.last().map_or(Some(0), |frame| self.body_of(frame))
    }

    /// The frame that stands for a block, where this node is an engine step of it; `None` for a step of a body. `frames` are those around the step. One
    /// frame may be both, of a block whose one body is all it does: then only the timeout is the block's.
    pub fn engine_step_of<'f>(&self, node: NodeNumber, frames: &'f [FrameFacts]) -> Option<&'f FrameFacts> {
        let frame = frames.last().filter(|frame| node < 0 && frame.whole)?;
        (node == TIMEOUT || self.body_of(frame).is_none()).then_some(frame)
    }

    /// The frame, among these around a step, in which a node's steps are: 0 for the run's own graph.
    pub fn frame_of(&self, node: NodeNumber, frames: &[FrameFacts]) -> Option<i32> {
        match self.node(node)?.body {
            0 => Some(0),
            body => frames.iter().rev().find(|frame| self.body_of(frame) == Some(body)).map(|frame| frame.frame),
        }
    }
}
