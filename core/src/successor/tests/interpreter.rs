//! `successor`, driven in random order, against a naive interpreter that decides whole graphs by going over all
//! nodes again and again until nothing changes. It shares no code with the graph or the successor.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{graph, values};
use crate::error::StepError;
use crate::graph::{END, Graph, NodeNumber, NodeResult};
use crate::payload::Payload;
use crate::successor::{BodyEnd, Consequences, Ending, successor};

#[derive(Clone, Debug)]
struct Node {
    fails: bool,
    /// 0 all, n > 0 that many.
    need: usize,
    edges: Vec<Edge>,
}

#[derive(Clone, Copy, Debug)]
struct Edge {
    to: usize,
    on: &'static str,
    /// `Some(k)`: taken only if the node's number is not divisible by k.
    when: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Completed,
    Failed,
    Skipped,
}

fn edge_taken(from: usize, edge: Edge, state: State) -> bool {
    let chosen = match (edge.on, state) {
        (_, State::Skipped) => false,
        ("success", state) => state == State::Completed,
        ("failure", state) => state == State::Failed,
        _ => true,
    };
    chosen && edge.when.is_none_or(|k| !from.is_multiple_of(k))
}

/// The state of every node, were no failure to close the run.
fn naive(nodes: &[Node]) -> BTreeMap<usize, State> {
    let mut states = BTreeMap::new();
    loop {
        let before = states.len();
        for (number, node) in nodes.iter().enumerate() {
            if states.contains_key(&number) {
                continue;
            }
            let (mut all, mut resolved, mut taken) = (0, 0, 0);
            for (from, other) in nodes.iter().enumerate() {
                for edge in other.edges.iter().filter(|edge| edge.to == number) {
                    all += 1;
                    if let Some(state) = states.get(&from) {
                        resolved += 1;
                        taken += usize::from(edge_taken(from, *edge, *state));
                    }
                }
            }
            // A rule on a node with one edge says nothing.
            let need = if all > 1 { node.need } else { 0 };
            let runs = all == 0 || if need == 0 { resolved == all && taken > 0 } else { taken >= need };
            if runs {
                states.insert(number, if node.fails { State::Failed } else { State::Completed });
            } else if resolved == all {
                states.insert(number, State::Skipped);
            }
        }
        if states.len() == before {
            return states;
        }
    }
}

fn definition(nodes: &[Node]) -> Value {
    let mut incoming = vec![0; nodes.len()];
    for edge in nodes.iter().flat_map(|node| &node.edges) {
        incoming[edge.to] += 1;
    }
    let defined = nodes.iter().zip(&incoming).enumerate().map(|(number, (node, incoming))| {
        let mut value = json!({"id": format!("n{number}"), "type": "task", "handler": "h"});
        if node.need > 0 && node.need <= *incoming {
            value["join"] = if node.need == 1 { json!("any") } else { json!(node.need) };
        }
        value
    });
    let edges = nodes.iter().enumerate().flat_map(|(from, node)| {
        node.edges.iter().map(move |edge| {
            let mut value = json!({"from": format!("n{from}"), "to": format!("n{}", edge.to), "on": edge.on});
            if let Some(k) = edge.when {
                // A failed node has no output, so the number is in its error as well.
                value["when"] = json!(format!("(nodes.n{from}.output.n | default(error.details.n)) % {k} != 0"));
            }
            value
        })
    });
    json!({"name": "w", "nodes": defined.collect::<Vec<_>>(), "edges": edges.collect::<Vec<_>>()})
}

/// Something that is waiting to happen in the driven run; a random one is next.
#[derive(Clone, Copy, Debug)]
enum Due {
    Start,
    Run(NodeNumber),
    SkipJoin(NodeNumber),
    Rest(NodeNumber),
    End,
}

/// A run driven as storage and lanes would, counting joins by their rules.
struct Driven<'g> {
    graph: &'g Graph,
    nodes: &'g [Node],
    due: Vec<Due>,
    counts: BTreeMap<NodeNumber, (i32, i32)>,
    fired: BTreeSet<NodeNumber>,
    states: BTreeMap<usize, State>,
    ends: Vec<BodyEnd>,
    run: crate::graph::Values,
}

impl<'g> Driven<'g> {
    fn new(graph: &'g Graph, nodes: &'g [Node]) -> Self {
        let first = graph.first_node();
        let due = vec![if first < 0 { Due::Start } else { Due::Run(first) }];
        let (counts, fired, states) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Self { graph, nodes, due, counts, fired, states, ends: Vec::new(), run: values(&json!(null)) }
    }

    fn decide(&mut self, node: NodeNumber, state: State) {
        let before = self.states.insert(usize::try_from(node).unwrap(), state);
        assert_eq!(before, None, "node {node} was decided twice");
    }

    fn step(&mut self, pick: usize) {
        let due = self.due.swap_remove(pick % self.due.len());
        let next = match due {
            Due::Start => successor(self.graph, crate::graph::START, Ending::Started, &self.run),
            Due::Run(node) if self.nodes[usize::try_from(node).unwrap()].fails => {
                self.decide(node, State::Failed);
                let error = StepError::permanent("x", "y").with_details(json!({"n": node}));
                self.run.results.insert(node, NodeResult::Failed(error.to_payload()));
                successor(self.graph, node, Ending::GaveUp(&error), &self.run)
            }
            Due::Run(node) => {
                self.decide(node, State::Completed);
                let output = Payload::of(&json!({"n": node})).unwrap();
                let next = successor(self.graph, node, Ending::Completed(&output), &self.run);
                self.run.results.insert(node, NodeResult::Completed(output));
                next
            }
            Due::SkipJoin(node) => {
                self.decide(node, State::Skipped);
                successor(self.graph, node, Ending::Skipped, &self.run)
            }
            Due::Rest(node) => successor(self.graph, node, Ending::Rested, &self.run),
            Due::End => {
                self.ends.push(BodyEnd::Completed);
                Ok(Consequences::default())
            }
        };
        self.apply(next.unwrap());
    }

    fn apply(&mut self, next: Consequences) {
        assert!(next.arrivals.is_sorted_by(|a, b| a.node < b.node), "{:?}", next.arrivals);
        for skip in &next.skips {
            self.decide(skip.node, State::Skipped);
        }
        self.due.extend(next.ready.iter().map(|node| Due::Run(*node)));
        for arrival in &next.arrivals {
            let end = || self.graph.bodies().first()?.end_join();
            let join = if arrival.node == END { end() } else { self.graph.join(arrival.node) };
            let join = join.expect("a join");
            let (resolved, taken) = self.counts.entry(arrival.node).or_default();
            let before = *taken;
            *resolved += arrival.resolved;
            *taken += arrival.taken;
            assert!(*resolved <= join.indegree, "{} has more tokens than edges", arrival.node);
            let done = *resolved == join.indegree;
            let fires = match join.need {
                -1 => done,
                0 => done && *taken > 0,
                need => before < need && *taken >= need,
            };
            if fires {
                assert!(self.fired.insert(arrival.node), "{} fired twice", arrival.node);
                self.due.push(if arrival.node == END { Due::End } else { Due::Run(arrival.node) });
            }
            if done && !self.fired.contains(&arrival.node) {
                self.due.push(Due::SkipJoin(arrival.node));
            }
            if done && join.fires_early() {
                self.due.push(Due::Rest(arrival.node));
            }
        }
        self.ends.extend(next.end);
    }
}

fn nodes() -> impl Strategy<Value = Vec<Node>> {
    (1_usize..14).prop_flat_map(|count| {
        let edge = (
            any::<prop::sample::Index>(),
            prop_oneof![4 => Just("success"), 1 => Just("failure"), 1 => Just("always")],
            prop_oneof![3 => Just(None), 1 => (1_usize..4).prop_map(Some)],
        );
        let node = (
            prop::bool::weighted(0.15),
            prop_oneof![3 => Just(0_usize), 1 => Just(1), 1 => Just(2), 1 => Just(3)],
            prop::collection::vec(edge, 0..4),
        );
        prop::collection::vec(node, count).prop_map(move |drawn| {
            let mut nodes: Vec<Node> = Vec::new();
            for (from, (fails, need, edges)) in drawn.into_iter().enumerate() {
                let mut kept: Vec<Edge> = Vec::new();
                for (to, on, when) in edges {
                    if from + 1 < count {
                        let to = from + 1 + to.index(count - from - 1);
                        // The same edge twice is refused when a definition is checked.
                        if !kept.iter().any(|edge| edge.to == to && edge.on == on && edge.when == when) {
                            kept.push(Edge { to, on, when });
                        }
                    }
                }
                nodes.push(Node { fails, need, edges: kept });
            }
            // A join cannot wait for more edges than there are.
            for number in 0..count {
                let incoming = nodes.iter().flat_map(|node| &node.edges).filter(|edge| edge.to == number).count();
                if nodes[number].need > incoming {
                    nodes[number].need = 0;
                }
            }
            nodes
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn decides_what_a_naive_interpreter_decides(nodes in nodes(), picks in prop::collection::vec(any::<usize>(), 80)) {
        let graph = graph(&definition(&nodes));
        let expected = naive(&nodes);
        let unhandled = nodes.iter().enumerate().any(|(number, node)| {
            expected.get(&number) == Some(&State::Failed)
                && !node.edges.iter().any(|edge| edge_taken(number, *edge, State::Failed))
        });
        let mut run = Driven::new(&graph, &nodes);
        let mut picks = picks.into_iter().cycle();
        let mut steps = 0;
        while !run.due.is_empty() && !run.ends.iter().any(|end| matches!(end, BodyEnd::Failed(_))) {
            run.step(picks.next().unwrap_or(0));
            steps += 1;
            prop_assert!(steps < 1_000);
        }
        if unhandled {
            prop_assert!(matches!(run.ends.as_slice(), [.., BodyEnd::Failed(_)]), "{:?}", run.ends);
            prop_assert_eq!(run.ends.len(), 1, "it ended before the failure");
            // What was decided by then is what would have been decided.
            for (number, state) in &run.states {
                prop_assert_eq!(Some(state), expected.get(number));
            }
        } else {
            prop_assert_eq!(&run.states, &expected);
            prop_assert_eq!(&run.ends, &vec![BodyEnd::Completed]);
            prop_assert_eq!(expected.len(), nodes.len(), "something is left undecided");
            for (join, (resolved, _)) in &run.counts {
                let join = if *join == END { graph.bodies()[0].end_join() } else { graph.join(*join) };
                prop_assert_eq!(*resolved, join.expect("a join").indegree);
            }
        }
    }
}
