//! The shape of a definition's graph: ids, edges, joins, cycles and what can be reached.

use std::collections::{HashMap, HashSet};

use crate::definition::{Definition, JoinRule, NodeType, On, Problem, is_id};

/// How many cycles are named at most.
const MAX_CYCLES: usize = 100;

/// Nodes and edges by number. Edges whose ends do not exist are left out.
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
    /// Finds the shape and notes what is wrong with it.
    pub(crate) fn of(definition: &'d Definition, problems: &mut Vec<Problem>) -> Self {
        let count = definition.nodes.len();
        let mut shape = Self {
            numbers: HashMap::with_capacity(count),
            ends: Vec::with_capacity(definition.edges.len()),
            outgoing: vec![Vec::new(); count],
            incoming: vec![Vec::new(); count],
            predecessors: vec![Vec::new(); count],
            order: Vec::with_capacity(count),
        };
        shape.read_ids(definition, problems);
        shape.read_edges(definition, problems);
        shape.check_joins(definition, problems);
        shape.sort(definition, problems);
        shape
    }

    /// Distinct predecessors of a node, in definition order.
    pub(crate) fn predecessors(&self, node: usize) -> &[usize] {
        self.predecessors.get(node).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn ends(&self, edge: usize) -> Option<(usize, usize)> {
        self.ends.get(edge).copied().flatten()
    }

    fn read_ids(&mut self, definition: &'d Definition, problems: &mut Vec<Problem>) {
        for (number, node) in definition.nodes.iter().enumerate() {
            let path = format!("nodes[{number}].id");
            if node.id.is_empty() {
                continue; // Noted when it was read; an edge to it is dangling.
            }
            if !is_id(&node.id) {
                problems.push(Problem::new(path.as_str(), format!("`{}` is no id", short(&node.id)), super::ID_FIX));
            }
            if let Some(first) = self.numbers.get(node.id.as_str()) {
                let message = format!("nodes[{first}] has the id `{}` already", short(&node.id));
                problems.push(Problem::new(path, message, "give each node its own id"));
            } else {
                self.numbers.insert(&node.id, number);
            }
        }
    }

    fn read_edges(&mut self, definition: &'d Definition, problems: &mut Vec<Problem>) {
        let mut seen = HashMap::with_capacity(definition.edges.len());
        for (place, edge) in definition.edges.iter().enumerate() {
            let path = format!("edges[{place}]");
            let mut end = |field: &str, id: &str| {
                let number = self.numbers.get(id).copied();
                if number.is_none() {
                    let message = format!("there is no node `{}`", short(id));
                    problems.push(Problem::new(format!("{path}.{field}"), message, "name a node of this definition"));
                }
                number
            };
            let ends = end("from", &edge.from).zip(end("to", &edge.to));
            self.ends.push(ends);
            let Some((from, to)) = ends else { continue };
            if let Some(first) = seen.insert((from, to, edge.on, edge.when.as_deref()), place) {
                let message = format!("it is the same as edges[{first}]");
                problems.push(Problem::new(path.as_str(), message, "remove it, or give it another `on` or `when`"));
            }
            match definition.nodes.get(from).map(|node| &node.kind) {
                Some(NodeType::Terminate { .. }) => {
                    let message = format!("it leaves `{}`, which ends the run", short(&edge.from));
                    problems.push(Problem::new(path.as_str(), message, "remove the edge"));
                }
                Some(NodeType::Fail { .. }) if edge.on == On::Success => {
                    let message = format!("it is never taken: `{}` always fails", short(&edge.from));
                    problems.push(Problem::new(path.as_str(), message, "use \"on\": \"failure\", or remove the edge"));
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

    fn check_joins(&self, definition: &Definition, problems: &mut Vec<Problem>) {
        for (number, (node, incoming)) in definition.nodes.iter().zip(&self.incoming).enumerate() {
            if let JoinRule::Count(count) = node.join
                && usize::try_from(count).is_ok_and(|count| count > incoming.len())
            {
                let message =
                    format!("it waits for {count} edges, but {} lead to `{}`", incoming.len(), short(&node.id));
                let fix = format!("use at most {}, \"all\" or \"any\"", incoming.len().max(1));
                problems.push(Problem::new(format!("nodes[{number}].join"), message, fix));
            }
        }
    }

    /// Puts the nodes in order; names the cycles and what only they lead to.
    fn sort(&mut self, definition: &Definition, problems: &mut Vec<Problem>) {
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
            self.note_cycle(definition, &cycle, problems);
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
            let id = definition.nodes.get(number).map_or("", |node| &node.id);
            let message = format!("`{}` cannot be reached from an entry node", short(id));
            let fix = "an entry node has no edge to it; break the cycle that leads here";
            problems.push(Problem::new(format!("nodes[{number}]"), message, fix));
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

    fn note_cycle(&self, definition: &Definition, cycle: &[usize], problems: &mut Vec<Problem>) {
        let ids = cycle.iter().chain(cycle.first()).map(|&node| definition.nodes.get(node).map_or("", |node| &node.id));
        let mut ids: Vec<_> = ids.map(short).collect();
        if ids.len() > 20 {
            ids.splice(10..ids.len() - 9, ["…".to_owned()]);
        }
        let message = format!("these nodes form a cycle: {}", ids.join(" -> "));
        problems.push(Problem::new("edges", message, "remove one of these edges"));
    }
}

/// An id in a message, cut to a bearable length.
pub(super) fn short(id: &str) -> String {
    if id.chars().count() <= 64 { id.to_owned() } else { id.chars().take(60).chain("…".chars()).collect() }
}
