//! A program: a definition as its author thinks of it, its JSON, and what its templates and conditions are worth. The language of these is a small part of
//! the engine's, read here by hand, so that no code is shared.

mod json;
mod value;

pub use value::{Around, Condition, Giving, Known, Path, Root, Scope, SignalName};

/// A graph, and what it gives in the end where it says so. Edges lead from smaller to larger places.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// Its edges.
    pub edges: Vec<Edge>,
    /// A template of its output.
    pub output: Option<Giving>,
}

/// An edge between two places of a body.
#[derive(Clone, Debug)]
pub struct Edge {
    /// From here.
    pub from: usize,
    /// To there.
    pub to: usize,
    /// Which outcome takes it.
    pub on: On,
    /// And what must hold then.
    pub when: Option<Condition>,
}

/// The outcome that takes an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// It completed.
    Success,
    /// It gave up.
    Failure,
    /// Either.
    Always,
    /// A wait's time was over.
    Timeout,
}

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Unique in the program. That of a task says what its handler does, see `script`.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// A template of its input.
    pub input: Option<Giving>,
    /// How many of its edges must be taken; 0: all that are taken at all.
    pub need: usize,
    /// What its giving up means.
    pub on_error: OnError,
    /// Of a task or a block.
    pub retry: Vec<Retry>,
    /// Of a task, a block or a wait, in milliseconds.
    pub timeout: Option<u32>,
}

/// What giving up means.
#[derive(Clone, Debug)]
pub enum OnError {
    /// The default.
    Fail,
    /// The same, where an edge takes it.
    Route,
    /// It completes with its error.
    Continue,
    /// It completes with this.
    Fallback(Giving),
    /// It counts as skipped.
    Skip,
}

/// How often something is tried.
#[derive(Clone, Debug)]
pub struct Retry {
    /// So many failures are too many.
    pub max_attempts: usize,
    /// Names or kinds of errors; empty: all that may be tried again.
    pub on: Vec<String>,
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Runs the handler `act`.
    Task,
    /// Gives this.
    Set(Giving),
    /// Fails under this name.
    Fail(String),
    /// Ends the run: completed with this, failed under that name, or canceled.
    Terminate(Termination),
    /// Waits for the first of these signals that the condition holds for.
    Wait(Vec<SignalName>, Option<Condition>),
    /// A block.
    Parallel {
        /// Names and bodies.
        branches: Vec<(String, Body)>,
        /// So many must complete; 0: all.
        ends: usize,
        /// See the reference.
        fail_fast: bool,
        /// So many at a time.
        concurrency: Option<usize>,
    },
    /// A block.
    Foreach {
        /// A template of the items.
        items: Giving,
        /// What runs for each.
        body: Body,
        /// So many at a time.
        concurrency: Option<usize>,
        /// So many may fail.
        tolerate: Option<Tolerate>,
    },
    /// A block.
    While {
        /// Whether there is another pass.
        when: Condition,
        /// Not asked before the first.
        do_while: bool,
        /// The most passes.
        most: usize,
        /// It completes after the last.
        stops: bool,
        /// Frames kept.
        keep: Option<usize>,
        /// A pass.
        body: Body,
    },
    /// A block, `if` or `switch`: cases and what runs when none holds.
    Choice {
        /// It is an `if`, of one case.
        is_if: bool,
        /// Conditions and bodies.
        cases: Vec<(Condition, Body)>,
        /// The rest.
        otherwise: Option<Body>,
    },
    /// A block.
    Try {
        /// What is tried.
        body: Body,
        /// What each takes, and what it does.
        catches: Vec<(Vec<String>, Body)>,
        /// In any case.
        finally: Option<Body>,
    },
}

/// How `terminate` ends a run.
#[derive(Clone, Debug)]
pub enum Termination {
    /// With this output.
    Completed(Giving),
    /// With an error of this name.
    Failed(String),
    /// Without either.
    Canceled,
}

/// So many iterations may fail.
#[derive(Clone, Copy, Debug)]
pub enum Tolerate {
    /// So many.
    Count(usize),
    /// So many of a hundred.
    Percent(usize),
}

impl Kind {
    /// The bodies of a block, in the order of its definition.
    pub fn bodies(&self) -> Vec<&Body> {
        match self {
            Self::Parallel { branches, .. } => branches.iter().map(|(_, body)| body).collect(),
            Self::Foreach { body, .. } | Self::While { body, .. } => vec![body],
            Self::Choice { cases, otherwise, .. } => cases.iter().map(|(_, body)| body).chain(otherwise).collect(),
            Self::Try { body, catches, finally } => {
                std::iter::once(body).chain(catches.iter().map(|(_, body)| body)).chain(finally).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The same, to be changed.
    pub fn bodies_mut(&mut self) -> Vec<&mut Body> {
        match self {
            Self::Parallel { branches, .. } => branches.iter_mut().map(|(_, body)| body).collect(),
            Self::Foreach { body, .. } | Self::While { body, .. } => vec![body],
            Self::Choice { cases, otherwise, .. } => cases.iter_mut().map(|(_, body)| body).chain(otherwise).collect(),
            Self::Try { body, catches, finally } => {
                std::iter::once(body).chain(catches.iter_mut().map(|(_, body)| body)).chain(finally).collect()
            }
            _ => Vec::new(),
        }
    }

    /// It holds bodies.
    pub fn is_block(&self) -> bool {
        !self.bodies().is_empty()
    }
}

impl Body {
    /// All nodes, those of bodies within it too.
    pub fn all(&self) -> Vec<&Node> {
        let mut all: Vec<&Node> = self.nodes.iter().collect();
        all.extend(self.nodes.iter().flat_map(|node| node.kind.bodies()).flat_map(Body::all));
        all
    }
}
