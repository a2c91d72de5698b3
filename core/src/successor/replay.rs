//! Where an instance of a graph stands (a run's own, or a body of a block), from how its nodes ended: what the engine would have enqueued and counted by
//! then. Pure; a block is one node here: what goes on within it is `rerun`'s to say.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Arrival, BodyEnd, Consequences, Ending, Skip, TOO_FEW, successor};
use crate::error::StepError;
use crate::graph::{BodyNumber, END, GivesUp, Graph, Join, NodeNumber, NodeResult, RunFacts, START, Values};
use crate::payload::Payload;

/// Where an instance of a graph stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Standing {
    /// Nodes that are to run: all before them has ended.
    pub ready: BTreeSet<NodeNumber>,
    /// Nodes whose ending counts.
    pub ended: BTreeSet<NodeNumber>,
    /// Nodes that do not run.
    pub skips: Vec<Skip>,
    /// Joins that some of their edges have reached.
    pub joins: Vec<Arrival>,
    /// All of it has ended, and it completes.
    pub done: bool,
}

/// By what it was decided what follows a node.
#[derive(Clone, Debug)]
pub(crate) struct Then {
    /// The run in which it was.
    pub run: Arc<RunFacts>,
    /// That run's context.
    pub context: Option<Payload>,
}

struct Replay<'g> {
    graph: &'g Graph,
    body: BodyNumber,
    values: &'g Values,
    then: &'g BTreeMap<NodeNumber, Then>,
    standing: Standing,
    joins: BTreeMap<NodeNumber, Arrival>,
    /// Nodes whose turn it is.
    open: Vec<NodeNumber>,
}

/// Where an instance of this graph stands whose nodes ended as `values.results` says. A node that failed and whose failure nothing takes is to run again.
/// `then`: by what it was decided what follows a node, where that may be other than what is in `values`.
/// `Err`: a condition cannot be evaluated, though it was once.
pub(crate) fn replay(
    graph: &Graph,
    body: BodyNumber,
    values: &Values,
    then: &BTreeMap<NodeNumber, Then>,
) -> Result<Standing, StepError> {
    let open = graph.body(body).map_or(&[][..], |body| body.entries()).to_vec();
    let mut replay = Replay { graph, body, values, then, standing: Standing::default(), joins: BTreeMap::new(), open };
    if body == 0 && graph.first_node() == START {
        replay.standing.ended.insert(START);
    }
    while let Some(node) = replay.open.pop() {
        replay.turn(node)?;
    }
    let Replay { mut standing, joins, .. } = replay;
    let open =
        |arrival: &Arrival| graph.join_within(body, arrival.node).is_some_and(|join| arrival.resolved < join.indegree);
    standing.joins = joins.into_values().filter(open).collect();
    Ok(standing)
}

impl Replay<'_> {
    /// All before this node has ended, and it runs.
    fn turn(&mut self, node: NodeNumber) -> Result<(), StepError> {
        if node == END {
            self.standing.done = matches!(self.values.results.get(&END), Some(NodeResult::Completed(_)));
            let end = if self.standing.done { &mut self.standing.ended } else { &mut self.standing.ready };
            end.insert(END);
            return Ok(());
        }
        let next = match self.values.results.get(&node) {
            None => None,
            Some(NodeResult::Completed(output)) => Some(self.after(node, Ending::Completed(output))?),
            Some(NodeResult::Failed(error)) => {
                let error = StepError::from_payload(error);
                match self.graph.gives_up(node, &error, &self.values_of(node)) {
                    Ok(GivesUp::Skips) => Some(self.after(node, Ending::Skipped)?),
                    // a fallback that cannot be evaluated is why it gave up
                    Ok(GivesUp::Up) | Err(_) => {
                        let next = self.after(node, Ending::GaveUp(&error))?;
                        Some(next).filter(|next| !matches!(next.end, Some(BodyEnd::Failed(_))))
                    }
                    // it would be on record as completed
                    Ok(GivesUp::Completes(_)) => None,
                }
            }
        };
        match next {
            None => drop(self.standing.ready.insert(node)),
            Some(next) => {
                self.standing.ended.insert(node);
                self.apply(next)?;
            }
        }
        Ok(())
    }

    fn after(&self, node: NodeNumber, ending: Ending<'_>) -> Result<Consequences, StepError> {
        successor(self.graph, node, ending, &self.values_of(node))
    }

    fn values_of(&self, node: NodeNumber) -> Cow<'_, Values> {
        self.then.get(&node).map_or(Cow::Borrowed(self.values), |Then { run, context }| {
            Cow::Owned(Values { run: run.clone(), context: context.clone(), ..self.values.clone() })
        })
    }

    fn apply(&mut self, next: Consequences) -> Result<(), StepError> {
        self.standing.done |= next.end == Some(BodyEnd::Completed);
        self.open.extend(next.ready);
        self.standing.skips.extend(next.skips);
        for arrival in next.arrivals {
            self.arrive(arrival)?;
        }
        Ok(())
    }

    /// Tokens reach a join, which counts as the database does.
    fn arrive(&mut self, arrival: Arrival) -> Result<(), StepError> {
        let node = arrival.node;
        let Some(join): Option<Join> = self.graph.join_within(self.body, node) else { return Ok(()) };
        let before = self.joins.get(&node).copied().unwrap_or(Arrival { node, resolved: 0, taken: 0 });
        let now = Arrival { node, resolved: before.resolved + arrival.resolved, taken: before.taken + arrival.taken };
        self.joins.insert(node, now);
        let whole = now.resolved >= join.indegree;
        if join.fires(before.taken, now.resolved, now.taken) {
            self.open.push(node);
        }
        if whole && node >= 0 {
            if now.taken < join.need.max(1) {
                self.standing.skips.push(Skip { node, reason: TOO_FEW.to_owned() });
                let next = self.after(node, Ending::Skipped)?;
                self.apply(next)?;
            }
            if join.fires_early() {
                let next = self.after(node, Ending::Rested)?;
                self.apply(next)?;
            }
        }
        Ok(())
    }
}
