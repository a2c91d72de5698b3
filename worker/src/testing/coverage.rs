//! What runs of a version went through: nodes, edges, bodies of blocks. Which edges a node took is decided again from what is on record, by the engine's own
//! rule.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use longshore_core::context::{self, Snapshot};
use longshore_core::definition::{Definition, NodeDefinition, NodeType};
use longshore_core::error::StepError;
use longshore_core::graph::{FrameFacts, GivesUp, Graph, NodeNumber, NodeResult, RunFacts, Values};
use longshore_core::inspect::AttemptView;
use longshore_core::payload::Payload;
use longshore_core::results;
use longshore_core::run::Run;
use longshore_core::state::Outcome;
use longshore_core::successor::{self, Ending};
use serde::Serialize;
use sqlx::PgPool;

/// Whether a node ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Went {
    /// Nothing was decided about it.
    #[default]
    Never,
    /// It was skipped, and never ran.
    Skipped,
    /// It ran.
    Run,
}

/// What became of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeCoverage {
    /// Its id.
    pub node: String,
    /// The most that became of it.
    pub went: Went,
}

/// What became of an edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EdgeCoverage {
    /// The node it leaves.
    pub from: String,
    /// The node it leads to.
    pub to: String,
    /// Which ending takes it.
    pub on: &'static str,
    /// Its condition.
    pub when: Option<String>,
    /// It was taken.
    pub taken: bool,
    /// Its node ended without it.
    pub not_taken: bool,
}

/// What became of a body of a block: a branch, a case, a catch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BodyCoverage {
    /// The block and the place in it, such as `pay.catch[0]`.
    pub body: String,
    /// A node of it ran.
    pub run: bool,
}

/// What runs of a version went through, all bodies included. Child runs count with their own definition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// Every node, in the order of the definition.
    pub nodes: Vec<NodeCoverage>,
    /// Every edge.
    pub edges: Vec<EdgeCoverage>,
    /// Every body of a block.
    pub bodies: Vec<BodyCoverage>,
}

impl Coverage {
    /// Adds what another run of the same version went through.
    pub fn add(&mut self, other: &Self) {
        if self.nodes.is_empty() {
            *self = other.clone();
            return;
        }
        for (node, other) in self.nodes.iter_mut().zip(&other.nodes) {
            node.went = node.went.max(other.went);
        }
        for (edge, other) in self.edges.iter_mut().zip(&other.edges) {
            edge.taken |= other.taken;
            edge.not_taken |= other.not_taken;
        }
        for (body, other) in self.bodies.iter_mut().zip(&other.bodies) {
            body.run |= other.run;
        }
    }

    /// Nodes that ran, edges that were taken and bodies that ran.
    pub fn covered(&self) -> usize {
        self.nodes.iter().filter(|node| node.went == Went::Run).count()
            + self.edges.iter().filter(|edge| edge.taken).count()
            + self.bodies.iter().filter(|body| body.run).count()
    }

    /// Nodes, edges and bodies.
    pub fn total(&self) -> usize {
        self.nodes.len() + self.edges.len() + self.bodies.len()
    }

    /// What part is covered, 0 to 100.
    pub fn percent(&self) -> f64 {
        let count = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        if self.total() == 0 { 100.0 } else { 100.0 * count(self.covered()) / count(self.total()) }
    }
}

/// What a run went through that left these attempts.
pub(crate) async fn coverage(
    pool: &PgPool,
    definition: &Definition,
    graph: &Graph,
    run: &Run,
    attempts: &[AttemptView],
) -> Result<Coverage, sqlx::Error> {
    let records = Records::read(pool, graph, run, attempts).await?;
    let mut went: BTreeMap<NodeNumber, Went> = BTreeMap::new();
    for attempt in attempts {
        let now = match attempt.outcome {
            Outcome::Completed | Outcome::Failed | Outcome::Lost => Went::Run,
            Outcome::Skipped => Went::Skipped,
            Outcome::Canceled | Outcome::Released => continue,
        };
        let before = went.entry(attempt.number).or_default();
        *before = (*before).max(now);
    }
    let mut edges: Vec<EdgeCoverage> = graph
        .edges()
        .iter()
        .map(|edge| EdgeCoverage {
            from: graph.id(edge.from).to_owned(),
            to: graph.id(edge.to).to_owned(),
            on: edge.on.as_str(),
            when: edge.when().map(str::to_owned),
            taken: false,
            not_taken: false,
        })
        .collect();
    for (edge, taken) in records.edges(graph) {
        if let Some(edge) = edges.get_mut(edge) {
            edge.taken |= taken;
            edge.not_taken |= !taken;
        }
    }
    let node = |node: &longshore_core::graph::Node| NodeCoverage {
        node: node.id.to_string(),
        went: went.get(&node.number).copied().unwrap_or_default(),
    };
    let nodes: Vec<NodeCoverage> = graph.nodes().iter().map(node).collect();
    let ran: BTreeSet<&str> =
        nodes.iter().filter(|node| node.went == Went::Run).map(|node| node.node.as_str()).collect();
    let mut bodies = Vec::new();
    add_bodies(&definition.nodes, &ran, &mut bodies);
    Ok(Coverage { nodes, edges, bodies })
}

fn add_bodies(nodes: &[NodeDefinition], ran: &BTreeSet<&str>, bodies: &mut Vec<BodyCoverage>) {
    for node in nodes {
        let NodeType::Block(block) = &node.kind else { continue };
        for (place, body) in block.kind.bodies() {
            let run = body.nodes.iter().any(|node| ran.contains(node.id.as_str()));
            let place = place.strip_suffix(".body").unwrap_or(&place);
            bodies.push(BodyCoverage { body: format!("{}.{place}", node.id), run });
            add_bodies(&body.nodes, ran, bodies);
        }
    }
}

/// The last record of a step.
struct Last<'a> {
    attempt: &'a AttemptView,
    /// What it gave or why it failed; none for one that did neither.
    result: Option<NodeResult>,
}

/// How the nodes of a run ended, and what their edges read.
struct Records<'a> {
    facts: Arc<RunFacts>,
    /// The last record of each step, by frame and node.
    last: BTreeMap<(i32, NodeNumber), Last<'a>>,
    frames: HashMap<results::FrameRef, Arc<[FrameFacts]>>,
    /// Every snapshot of the context, the oldest first.
    contexts: Vec<Snapshot>,
}

impl<'a> Records<'a> {
    async fn read(pool: &PgPool, graph: &Graph, run: &Run, attempts: &'a [AttemptView]) -> Result<Self, sqlx::Error> {
        let mut newest: BTreeMap<(i32, NodeNumber), &AttemptView> = BTreeMap::new();
        for attempt in attempts.iter().filter(|attempt| attempt.number >= 0) {
            let known = newest.entry((attempt.frame, attempt.number)).or_insert(attempt);
            if known.attempt < attempt.attempt {
                *known = attempt;
            }
        }
        let last: BTreeMap<(i32, NodeNumber), Last<'_>> =
            newest.into_iter().map(|(step, attempt)| (step, Last { attempt, result: result(attempt) })).collect();
        let mut within: Vec<results::FrameRef> =
            last.keys().filter(|(frame, _)| *frame > 0).map(|(frame, _)| (run.run_id, *frame)).collect();
        within.dedup();
        let facts = RunFacts {
            run_id: run.run_id,
            workflow: run.workflow.as_str().into(),
            version: run.version,
            key: run.key.clone(),
            parent: run.parent,
            input: run.input.clone(),
            mocks: None,
        };
        let mut contexts = Vec::new();
        if graph.context().is_some() && graph.edges().iter().any(|edge| edge.when().is_some()) {
            contexts = context::snapshots(pool, run.run_id, None, u32::MAX).await?;
            contexts.reverse();
        }
        Ok(Self { facts: Arc::new(facts), last, frames: results::frames(pool, &within).await?, contexts })
    }

    /// Each edge of each node that ended, with whether it was taken.
    fn edges(&self, graph: &Graph) -> Vec<(usize, bool)> {
        let taken = |((frame, node), last): (&(i32, NodeNumber), &Last<'_>)| {
            let values = self.values(graph, *frame, *node, last.attempt);
            let error;
            let ending = match &last.result {
                None if last.attempt.outcome == Outcome::Skipped => Ending::Skipped,
                None => return Vec::new(),
                Some(NodeResult::Completed(output)) => Ending::Completed(output),
                Some(NodeResult::Failed(why)) => {
                    error = StepError::from_payload(why);
                    match graph.gives_up(*node, &error, &values) {
                        Ok(GivesUp::Skips) => Ending::Skipped,
                        _ => Ending::GaveUp(&error),
                    }
                }
            };
            // a condition that cannot be evaluated failed its node, or the run: then no edge was taken
            successor::taken(graph, *node, ending, &values).unwrap_or_default()
        };
        self.last.iter().flat_map(taken).collect()
    }

    /// What the edges of a node in this frame could read when it ended: what the node needs.
    fn values(&self, graph: &Graph, frame: i32, node: NodeNumber, attempt: &AttemptView) -> Values {
        let mut values = Values::new(Arc::clone(&self.facts));
        if let Some(frames) = self.frames.get(&(self.facts.run_id, frame)) {
            values.frames = Arc::clone(frames);
        }
        let needed = graph.node(node).map_or(&[][..], |node| node.needs().nodes.as_slice());
        for needed in needed {
            let frame = graph.frame_of(*needed, &values.frames);
            let last = frame.and_then(|frame| self.last.get(&(frame, *needed)));
            if let Some(result) = last.and_then(|last| last.result.clone()) {
                values.results.insert(*needed, result);
            }
        }
        let began = attempt.claimed_at.unwrap_or(attempt.finished_at);
        let then = self.contexts.iter().rfind(|snapshot| snapshot.at <= began);
        values.context = match then {
            Some(snapshot) => Some(Payload::trusted(snapshot.context.0.get().into())),
            None => graph.context().cloned(),
        };
        values
    }
}

fn result(attempt: &AttemptView) -> Option<NodeResult> {
    match attempt.outcome {
        Outcome::Completed => Some(NodeResult::Completed(payload(attempt.output.as_ref()))),
        Outcome::Failed | Outcome::Lost => Some(NodeResult::Failed(payload(attempt.error.as_ref()))),
        _ => None,
    }
}

fn payload(value: Option<&serde_json::Value>) -> Payload {
    value.and_then(|value| Payload::of(value).ok()).unwrap_or_default()
}
