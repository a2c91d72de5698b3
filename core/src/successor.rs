//! What comes next when a node has ended: a pure function of the version, the node, its ending and the values.
//!
//! An ended node sends a token along each outgoing edge, taken or not taken. Nodes with one edge are decided here,
//! and skipping spreads here; tokens for joins are added up and given to storage, which counts.

pub(crate) mod replay;

use std::collections::BTreeMap;

use crate::error::StepError;
use crate::expression::{Reference, Scope};
use crate::graph::{Body, END, Edge, Graph, Node, NodeNumber, NodeResult, On, Values};
use crate::payload::Payload;

/// Why a join is skipped.
pub(crate) const TOO_FEW: &str = "too few in-edges of the join were taken";

/// How a node ended.
#[derive(Clone, Copy, Debug)]
pub enum Ending<'a> {
    /// With this output.
    Completed(&'a Payload),
    /// With this error and no attempt left.
    GaveUp(&'a StepError),
    /// A join decided that it does not run. (Nodes skipped by a single edge are among the consequences already.)
    Skipped,
    /// The engine's node `START` ended: all entry nodes become ready.
    Started,
    /// All edges of this early-firing join are resolved, whether it fired or was skipped. To be said once for each
    /// such join, besides its own ending.
    Rested,
}

/// What follows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Consequences {
    /// Nodes whose step becomes ready, in the order of the edges.
    pub ready: Vec<NodeNumber>,
    /// Tokens for joins, one entry for each join, sorted by node.
    pub arrivals: Vec<Arrival>,
    /// Nodes that do not run, each with its reason.
    pub skips: Vec<Skip>,
    /// Set when the body, and with the run's own graph the run, ends with this.
    pub end: Option<BodyEnd>,
}

/// Tokens that reached a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The join: a node, or [`END`].
    pub node: NodeNumber,
    /// How many of its edges were resolved.
    pub resolved: i32,
    /// How many of those were taken.
    pub taken: i32,
}

/// A node that does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip {
    /// The node.
    pub node: NodeNumber,
    /// Why, such as `edge charge -> refund not taken: on failure`.
    pub reason: String,
}

/// How a body ends.
#[derive(Clone, Debug, PartialEq)]
pub enum BodyEnd {
    /// Its only sink is resolved; its output is [`Graph::body_output`].
    Completed,
    /// A step gave up and no edge takes that.
    Failed(StepError),
}

/// Decides what follows when `node` ended with `ending`. `values` has what the node
/// [needs](crate::graph::Node::needs); its own result need not be there.
///
/// `Err` is the permanent error `expression_failed` of a condition: after success the step fails with it (call
/// again with [`Ending::GaveUp`]); after a failure the run fails with it.
pub fn successor(
    graph: &Graph,
    node: NodeNumber,
    ending: Ending<'_>,
    values: &Values,
) -> Result<Consequences, StepError> {
    let mut next = Consequences::default();
    match ending {
        Ending::Started => next.ready.extend(graph.entries()),
        Ending::Rested => next.add(END, false, i32::from(end_needed(graph, node))),
        Ending::Completed(_) | Ending::GaveUp(_) | Ending::Skipped => {
            if let Some(node) = graph.node(node) {
                spread(graph, node, ending, values, &mut next)?;
            }
        }
    }
    if next.arrivals.len() > 1 {
        next.sum_arrivals();
    }
    Ok(next)
}

/// Which edges of a node an ending takes: each by its place among [`Graph::edges`], with whether it is taken. For whoever looks at what happened; the engine
/// asks [`successor`]. `Err` as there.
pub fn taken(
    graph: &Graph,
    node: NodeNumber,
    ending: Ending<'_>,
    values: &Values,
) -> Result<Vec<(usize, bool)>, StepError> {
    let Some(node) = graph.node(node) else { return Ok(Vec::new()) };
    let tokens = decide(graph, node, ending, values)?;
    let tokens = tokens.into_iter().chain(std::iter::repeat(Token::NotOn)); // a skipped node takes none
    Ok(node.outgoing.iter().zip(tokens).map(|(&edge, token)| (edge, token == Token::Taken)).collect())
}

fn spread(
    graph: &Graph,
    node: &Node,
    ending: Ending<'_>,
    values: &Values,
    next: &mut Consequences,
) -> Result<(), StepError> {
    let edges = || node.outgoing.iter().filter_map(|&edge| graph.edges().get(edge));
    match ending {
        Ending::Completed(_) if node.plain => {
            for edge in edges() {
                next.take(graph, edge.to);
            }
            if node.outgoing.is_empty() {
                next.resolve_sink(graph, node.number, true);
            }
            return Ok(());
        }
        Ending::Completed(_) | Ending::GaveUp(_) => {
            let decided = decide(graph, node, ending, values)?;
            if let Ending::GaveUp(error) = ending
                && !decided.contains(&Token::Taken)
            {
                next.end = Some(BodyEnd::Failed(error.clone()));
                return Ok(());
            }
            let mut skipped = Vec::new();
            for (edge, token) in edges().zip(decided) {
                match token {
                    Token::Taken => next.take(graph, edge.to),
                    Token::NotOn => next.leave(graph, edge, &mut skipped, || format!("on {}", edge.on)),
                    Token::NotWhen => next.leave(graph, edge, &mut skipped, || {
                        format!("when `{}` is not true", shorten(edge.when().unwrap_or_default()))
                    }),
                }
            }
            next.spread_skips(graph, skipped);
        }
        Ending::Skipped => next.spread_skips(graph, vec![node.number]),
        Ending::Started | Ending::Rested => {}
    }
    if node.outgoing.is_empty() && !matches!(ending, Ending::Skipped) {
        next.resolve_sink(graph, node.number, true);
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Taken,
    NotOn,
    NotWhen,
}

/// The token of each outgoing edge.
fn decide(graph: &Graph, node: &Node, ending: Ending<'_>, values: &Values) -> Result<Vec<Token>, StepError> {
    let completed = matches!(ending, Ending::Completed(_));
    let result = match ending {
        Ending::Completed(output) => NodeResult::Completed(output.clone()),
        Ending::GaveUp(error) => NodeResult::Failed(error.to_payload()),
        _ => return Ok(Vec::new()),
    };
    let error = match &result {
        NodeResult::Failed(error) => Some(error),
        NodeResult::Completed(_) => None,
    };
    let extra = crate::graph::Extra { own: Some((node.number, &result)), error, ..crate::graph::Extra::default() };
    let find = |reference: &Reference| graph.find(reference, values, extra);
    let scope = Scope::new(&find);
    let edges = node.outgoing.iter().filter_map(|&edge| graph.edges().get(edge));
    let timed_out = matches!(ending, Ending::GaveUp(error) if graph.takes_timeout(node.number, error));
    edges
        .map(|edge| {
            let chosen = match edge.on {
                On::Success => completed,
                On::Failure => !completed && !timed_out,
                On::Always => true,
                On::Timeout => timed_out,
            };
            if !chosen {
                return Ok(Token::NotOn);
            }
            let Some(when) = &edge.when else {
                return Ok(Token::Taken);
            };
            match when.is_true(&scope) {
                Ok(true) => Ok(Token::Taken),
                Ok(false) => Ok(Token::NotWhen),
                Err(mut error) => {
                    error.message = format!("edge {}: {}", name(graph, edge), error.message);
                    error.node = Some(node.id.to_string());
                    Err(error)
                }
            }
        })
        .collect()
}

impl Consequences {
    /// A taken token reaches a node.
    fn take(&mut self, graph: &Graph, to: NodeNumber) {
        if graph.join(to).is_some() {
            self.add(to, true, 1);
        } else {
            self.ready.push(to);
        }
    }

    /// A token that was not taken reaches a node; one that is skipped by it is added to `skipped`.
    fn leave(&mut self, graph: &Graph, edge: &Edge, skipped: &mut Vec<NodeNumber>, why: impl FnOnce() -> String) {
        if graph.join(edge.to).is_some() {
            self.add(edge.to, false, 1);
            return;
        }
        let reason = format!("edge {} not taken: {}", name(graph, edge), why());
        self.skips.push(Skip { node: edge.to, reason });
        skipped.push(edge.to);
    }

    /// Spreads the skipping of these nodes up to the next joins and sinks.
    fn spread_skips(&mut self, graph: &Graph, mut skipped: Vec<NodeNumber>) {
        while let Some(node) = skipped.pop().and_then(|number| graph.node(number)) {
            for edge in node.outgoing.iter().filter_map(|&edge| graph.edges().get(edge)) {
                self.leave(graph, edge, &mut skipped, || format!("{} was skipped", node.id));
            }
            if node.outgoing.is_empty() {
                self.resolve_sink(graph, node.number, false);
            }
        }
    }

    fn resolve_sink(&mut self, graph: &Graph, node: NodeNumber, taken: bool) {
        if end_needed(graph, node) {
            self.add(END, taken, 1);
        } else {
            self.end = Some(BodyEnd::Completed);
        }
    }

    fn add(&mut self, node: NodeNumber, taken: bool, count: i32) {
        if count > 0 {
            self.arrivals.push(Arrival { node, resolved: count, taken: if taken { count } else { 0 } });
        }
    }

    /// One entry for each join, sorted.
    fn sum_arrivals(&mut self) {
        let mut sums: BTreeMap<NodeNumber, Arrival> = BTreeMap::new();
        for arrival in self.arrivals.drain(..) {
            sums.entry(arrival.node)
                .and_modify(|sum| {
                    sum.resolved += arrival.resolved;
                    sum.taken += arrival.taken;
                })
                .or_insert(arrival);
        }
        self.arrivals.extend(sums.into_values());
    }
}

/// The body of this node ends in its engine node [`END`].
fn end_needed(graph: &Graph, node: NodeNumber) -> bool {
    graph.body_around(node).is_some_and(Body::end_needed)
}

fn name(graph: &Graph, edge: &Edge) -> String {
    format!("{} -> {}", graph.id(edge.from), graph.id(edge.to))
}

/// A condition in a reason, cut to a bearable length.
fn shorten(text: &str) -> String {
    if text.chars().count() <= 200 { text.to_owned() } else { text.chars().take(199).chain("…".chars()).collect() }
}

#[cfg(test)]
mod tests;
