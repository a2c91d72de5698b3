//! The shape of a graph, the run's own or a body's: edges, joins, cycles and what can be reached.

use std::collections::{HashMap, HashSet};

use crate::definition::{BlockType, EdgeDefinition, JoinRule, NodeDefinition, NodeType, On, Problem, SubflowMode};

/// How many cycles are named at most.
const MAX_CYCLES: usize = 100;

/// Nodes and edges by number. Edges whose ends are not among the nodes are left out.
pub(crate) struct Shape<'d> {
    /// The number of each id; of the first node when an id is there twice.
    pub numbers: HashMap<&'d str, usize>,
    /// Ends of each edge.
    pub ends: Vec<Option<(usize, usize)>>,
    /// Edges that leave each node.
    pub outgoing: Vec<Vec<usize>>,
    /// Edges that lead to each node.
    pub incoming: Vec<Vec<usize>>,
    /// Distinct predecessors of each node, in definition order.
    predecessors: Vec<Vec<usize>>,
    /// The nodes so that each comes after its predecessors; without those of a cycle or behind one.
    pub order: Vec<usize>,
}

impl<'d> Shape<'d> {
    /// Finds the shape and notes what is wrong with it; `path` goes before the paths, such as `nodes[2].body.`.
    pub(crate) fn of(
        nodes: &'d [NodeDefinition],
        edges: &[EdgeDefinition],
        path: &str,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let count = nodes.len();
        let mut shape = Self {
            numbers: HashMap::with_capacity(count),
            ends: Vec::with_capacity(edges.len()),
            outgoing: vec![Vec::new(); count],
            incoming: vec![Vec::new(); count],
            predecessors: vec![Vec::new(); count],
            order: Vec::with_capacity(count),
        };
        for (number, node) in nodes.iter().enumerate().filter(|(_, node)| !node.id.is_empty()) {
            shape.numbers.entry(&node.id).or_insert(number);
        }
        shape.read_edges(nodes, edges, path, problems);
        shape.check_joins(nodes, path, problems);
        shape.sort(nodes, path, problems);
        shape
    }

    /// Distinct predecessors of a node, in definition order.
    pub(crate) fn predecessors(&self, node: usize) -> &[usize] {
        self.predecessors.get(node).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn ends(&self, edge: usize) -> Option<(usize, usize)> {
        self.ends.get(edge).copied().flatten()
    }

    fn read_edges(
        &mut self,
        nodes: &[NodeDefinition],
        edges: &[EdgeDefinition],
        path: &str,
        problems: &mut Vec<Problem>,
    ) {
        let mut seen = HashMap::with_capacity(edges.len());
        for (place, edge) in edges.iter().enumerate() {
            let number = |id: &str| self.numbers.get(id).copied();
            let ends = number(&edge.from).zip(number(&edge.to));
            self.ends.push(ends);
            let Some((from, to)) = ends else { continue };
            let mut wrong = |message: String, fix: &str| {
                problems.push(Problem::new(format!("{path}edges[{place}]"), message, fix));
            };
            if let Some(first) = seen.insert((from, to, edge.on, edge.when.as_deref()), place) {
                let message = format!("it is the same as edges[{first}]");
                wrong(message, "remove it, or give it another `on` or `when`");
            }
            match nodes.get(from).map(|node| &node.kind) {
                Some(NodeType::Terminate { .. }) => {
                    let message = format!("it leaves `{}`, which ends the run", short(&edge.from));
                    wrong(message, "remove the edge");
                }
                Some(kind) if edge.on == On::Timeout => match time_of(kind) {
                    Time::Bounded => {}
                    Time::Unbounded => {
                        let message = format!("it is never taken: `{}` waits for ever", short(&edge.from));
                        wrong(message, "give that node a `timeout`, or remove the edge");
                    }
                    Time::None => {
                        let message = format!("it is never taken: `{}` does not wait", short(&edge.from));
                        let fix = "use \"on\": \"failure\"; edges on timeout leave waits, approvals, milestones, subflows and tasks";
                        wrong(message, fix);
                    }
                },
                Some(NodeType::Fail { .. }) if edge.on == On::Success => {
                    let message = format!("it is never taken: `{}` always fails", short(&edge.from));
                    wrong(message, "use \"on\": \"failure\", or remove the edge");
                }
                _ => {}
            }
            if let Some(list) = self.outgoing.get_mut(from) {
                list.push(place);
            }
            if let Some(list) = self.incoming.get_mut(to) {
                list.push(place);
            }
            if let Some(list) = self.predecessors.get_mut(to) {
                list.push(from);
            }
        }
        for list in &mut self.predecessors {
            list.sort_unstable();
            list.dedup();
        }
    }

    fn check_joins(&self, nodes: &[NodeDefinition], path: &str, problems: &mut Vec<Problem>) {
        for (number, (node, incoming)) in nodes.iter().zip(&self.incoming).enumerate() {
            if let JoinRule::Count(count) = node.join
                && usize::try_from(count).is_ok_and(|count| count > incoming.len())
            {
                let message =
                    format!("it waits for {count} edges, but {} lead to `{}`", incoming.len(), short(&node.id));
                let fix = format!("use at most {}, \"all\" or \"any\"", incoming.len().max(1));
                problems.push(Problem::new(format!("{path}nodes[{number}].join"), message, fix));
            }
        }
    }

    /// Puts the nodes in order; names the cycles and what only they lead to.
    fn sort(&mut self, nodes: &[NodeDefinition], path: &str, problems: &mut Vec<Problem>) {
        let mut left: Vec<usize> = self.incoming.iter().map(Vec::len).collect();
        let mut free: Vec<usize> = (0..left.len()).filter(|&node| left.get(node) == Some(&0)).collect();
        free.reverse();
        while let Some(node) = free.pop() {
            self.order.push(node);
            for &edge in self.outgoing.get(node).into_iter().flatten() {
                let Some((_, to)) = self.ends(edge) else {
                    continue;
                };
                if let Some(count) = left.get_mut(to) {
                    *count -= 1;
                    if *count == 0 {
                        free.push(to);
                    }
                }
            }
        }
        let mut stuck: HashSet<usize> = (0..left.len()).filter(|&node| left.get(node) != Some(&0)).collect();
        let mut unreachable = stuck.clone();
        // Looking for a cycle may read the whole graph, so a graph of cycles is not told them all.
        for _ in 0..MAX_CYCLES {
            let Some(cycle) = self.find_cycle(&stuck) else { break };
            self.note_cycle(nodes, &cycle, path, problems);
            for node in &cycle {
                stuck.remove(node);
                unreachable.remove(node);
            }
            // What the cycle alone held up is no cycle of its own.
            let mut open: Vec<usize> = stuck.iter().copied().collect();
            while let Some(node) = open.pop() {
                if stuck.contains(&node) && !self.predecessors(node).iter().any(|from| stuck.contains(from)) {
                    stuck.remove(&node);
                    open.extend(self.successors(node));
                }
            }
        }
        let mut unreachable: Vec<_> = unreachable.difference(&stuck).copied().collect();
        unreachable.sort_unstable();
        for number in unreachable {
            if self.predecessors(number).iter().any(|&from| left.get(from) == Some(&0)) {
                continue; // An entry node leads here as well: it waits for the cycle, which is noted.
            }
            let id = nodes.get(number).map_or("", |node| &node.id);
            let message = format!("`{}` cannot be reached from an entry node", short(id));
            let fix = "an entry node has no edge to it; break the cycle that leads here";
            problems.push(Problem::new(format!("{path}nodes[{number}]"), message, fix));
        }
    }

    fn successors(&self, node: usize) -> impl Iterator<Item = usize> {
        let edges = self.outgoing.get(node).into_iter().flatten();
        edges.filter_map(|&edge| self.ends(edge).map(|(_, to)| to))
    }

    /// A cycle among these nodes, of which each has a predecessor among them; in the order of its edges.
    fn find_cycle(&self, stuck: &HashSet<usize>) -> Option<Vec<usize>> {
        let mut at = stuck.iter().copied().min()?;
        let mut walked = Vec::new();
        let mut places = HashMap::new();
        while let std::collections::hash_map::Entry::Vacant(entry) = places.entry(at) {
            entry.insert(walked.len());
            walked.push(at);
            at = *self.predecessors(at).iter().find(|from| stuck.contains(from))?;
        }
        let mut cycle = walked.split_off(*places.get(&at)?);
        cycle.reverse();
        let first = cycle.iter().enumerate().min_by_key(|(_, node)| **node).map_or(0, |(place, _)| place);
        cycle.rotate_left(first);
        Some(cycle)
    }

    fn note_cycle(&self, nodes: &[NodeDefinition], cycle: &[usize], path: &str, problems: &mut Vec<Problem>) {
        let ids = cycle.iter().chain(cycle.first()).map(|&node| nodes.get(node).map_or("", |node| &node.id));
        let mut ids: Vec<_> = ids.map(short).collect();
        if ids.len() > 20 {
            ids.splice(10..ids.len() - 9, ["…".to_owned()]);
        }
        let message = format!("these nodes form a cycle: {}", ids.join(" -> "));
        problems.push(Problem::new(format!("{path}edges"), message, "remove one of these edges"));
    }
}

/// The time that a node's own attempt has.
enum Time {
    /// It does not wait, or its time is not its own: that of a step in a block may be over, too.
    None,
    Unbounded,
    Bounded,
}

fn time_of(kind: &NodeType) -> Time {
    let bounded = match kind {
        NodeType::Task { .. } => true,
        NodeType::Wait(wait) => wait.timeout.is_some(),
        NodeType::Approval(approval) => approval.timeout.is_some(),
        NodeType::Milestone(milestone) => milestone.timeout.is_some(),
        NodeType::Subflow(subflow) if subflow.mode == SubflowMode::Wait => subflow.timeout.is_some(),
        NodeType::Block(block) => match &block.kind {
            BlockType::Reminded(reminded) => reminded.approval.timeout.is_some(),
            _ => return Time::None,
        },
        _ => return Time::None,
    };
    if bounded { Time::Bounded } else { Time::Unbounded }
}

/// An id in a message, cut to a bearable length.
pub(super) fn short(id: &str) -> String {
    if id.chars().count() <= 64 { id.to_owned() } else { id.chars().take(60).chain("…".chars()).collect() }
}
