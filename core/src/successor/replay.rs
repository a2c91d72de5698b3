//! Where a run stands, from how its nodes ended: what the engine would have enqueued and counted by then. Pure; the run's own graph only, where a block is
//! one node.

use std::collections::{BTreeMap, BTreeSet};

use super::{Arrival, BodyEnd, Consequences, Ending, Skip, TOO_FEW, successor};
use crate::error::StepError;
use crate::graph::{GivesUp, Graph, Join, NodeNumber, NodeResult, START, Values};

/// Where a run stands.
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
}

struct Replay<'g> {
    graph: &'g Graph,
    values: &'g Values,
    standing: Standing,
    joins: BTreeMap<NodeNumber, Arrival>,
    /// Nodes whose turn it is.
    open: Vec<NodeNumber>,
}

/// Where a run stands whose nodes ended as `values.results` says. A node that failed and whose failure nothing takes is to run again. `Err`: a condition cannot be evaluated, though it was once.
pub(crate) fn replay(graph: &Graph, values: &Values) -> Result<Standing, StepError> {
    let mut replay =
        Replay { graph, values, standing: Standing::default(), joins: BTreeMap::new(), open: graph.entries().to_vec() };
    if graph.first_node() == START {
        replay.standing.ended.insert(START);
    }
    while let Some(node) = replay.open.pop() {
        replay.turn(node)?;
    }
    let Replay { mut standing, joins, .. } = replay;
    let open = |arrival: &Arrival| join(graph, arrival.node).is_some_and(|join| arrival.resolved < join.indegree);
    standing.joins = joins.into_values().filter(open).collect();
    Ok(standing)
}

/// How the arrivals at a node of the run's own graph are counted.
fn join(graph: &Graph, node: NodeNumber) -> Option<Join> {
    graph.join_within(0, node)
}

impl Replay<'_> {
    /// All before this node has ended, and it runs.
    fn turn(&mut self, node: NodeNumber) -> Result<(), StepError> {
        let next = match self.values.results.get(&node) {
            None => None,
            Some(NodeResult::Completed(output)) => Some(self.after(node, Ending::Completed(output))?),
            Some(NodeResult::Failed(error)) => {
                let error = StepError::from_payload(error);
                match self.graph.gives_up(node, &error, self.values) {
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
        successor(self.graph, node, ending, self.values)
    }

    fn apply(&mut self, next: Consequences) -> Result<(), StepError> {
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
        let Some(join) = join(self.graph, node) else { return Ok(()) };
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
