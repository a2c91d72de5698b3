//! Makes a graph of a checked definition.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::{Edge, Graph, Join, Needs, Node, NodeKind, NodeNumber};
use crate::check::{Checked, CheckedNode, Program, Shape};
use crate::definition::{DEFAULT_QUEUE, DEFAULT_TIMEOUT, Definition, JoinRule, NodeDefinition, NodeType, On};
use crate::expression::{Expression, Reference, Template};

pub(super) fn graph(definition: &Definition, checked: Checked) -> Graph {
    let shape = Shape::of(definition, &mut Vec::new());
    let mut names = Names::default();
    let nodes = definition.nodes.iter().enumerate().zip(checked.nodes);
    let mut nodes: Vec<_> =
        nodes.map(|((n, node), checked)| make(definition, &shape, n, node, checked, &mut names)).collect();
    let numbers: HashMap<_, _> = nodes.iter().map(|node| (Arc::clone(&node.id), node.number)).collect();
    let edges = definition.edges.iter().zip(checked.whens).enumerate();
    let edges: Vec<_> = edges
        .filter_map(|(place, (edge, when))| {
            let (from, to) = shape.ends(place)?;
            Some(Edge { from: number(from), to: number(to), on: edge.on, when })
        })
        .collect();
    for node in &mut nodes {
        let conditions = node.outgoing.iter().filter_map(|&edge| edges.get(edge)?.when.as_ref());
        node.needs = needs(node, conditions, &numbers);
    }
    let which = |empty: fn(&Node, &Shape<'_>) -> bool| {
        nodes.iter().filter(|node| empty(node, &shape)).map(|node| node.number).collect::<Vec<_>>()
    };
    let entries = which(|node, shape| shape.incoming.get(place(node.number)).is_some_and(Vec::is_empty));
    let sinks = which(|node, _| node.outgoing.is_empty());
    let early = nodes.iter().filter(|node| node.join.is_some_and(Join::fires_early)).count();
    let chain = entries.len() == 1 && nodes.iter().all(|node| node.outgoing.len() <= 1 && node.join.is_none());
    let end_needs = end_needs(checked.output.as_ref(), &sinks, &numbers);
    Graph {
        name: Arc::from(definition.name.as_str()),
        open_ends: number(sinks.len() + early),
        input_schema: definition.input_schema.clone().zip(checked.schema),
        output: checked.output,
        nodes,
        edges,
        numbers,
        entries,
        sinks,
        chain,
        end_needs,
    }
}

/// Each queue and handler name once.
#[derive(Default)]
struct Names(BTreeSet<Arc<str>>);

impl Names {
    fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = Arc::from(name);
        self.0.insert(Arc::clone(&name));
        name
    }
}

fn make(
    definition: &Definition,
    shape: &Shape<'_>,
    at: usize,
    node: &NodeDefinition,
    checked: CheckedNode,
    names: &mut Names,
) -> Node {
    let queue = node.queue.as_deref().or(definition.queue.as_deref()).unwrap_or(DEFAULT_QUEUE);
    let indegree = shape.incoming.get(at).map_or(0, Vec::len);
    let join = (indegree > 1).then(|| Join {
        indegree: number(indegree),
        need: match node.join {
            JoinRule::All => 0,
            JoinRule::Any => 1,
            JoinRule::Count(count) => i32::try_from(count).unwrap_or(i32::MAX),
        },
    });
    let outgoing = shape.outgoing.get(at).cloned().unwrap_or_default();
    let mut leaving = outgoing.iter().filter_map(|&edge| definition.edges.get(edge));
    let plain = leaving.all(|edge| edge.on == On::Success && edge.when.is_none());
    Node {
        number: number(at),
        id: Arc::from(node.id.as_str()),
        queue: names.get(queue),
        kind: match &node.kind {
            NodeType::Task { handler, timeout, retry } => NodeKind::Task {
                handler: names.get(handler),
                timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
                retry: retry.clone().unwrap_or_default(),
            },
            NodeType::Set { .. } => NodeKind::Set,
            NodeType::Delay(_) => NodeKind::Delay,
            NodeType::Fail { .. } => NodeKind::Fail,
            NodeType::Terminate { .. } => NodeKind::Terminate,
        },
        input: checked.input,
        program: checked.program,
        needs: Needs::default(),
        predecessors: shape.predecessors(at).iter().copied().map(number).collect(),
        outgoing,
        join,
        plain,
    }
}

fn needs<'e>(
    node: &Node,
    conditions: impl Iterator<Item = &'e Expression>,
    numbers: &HashMap<Arc<str>, NodeNumber>,
) -> Needs {
    let mut found = Found::new(numbers);
    match &node.input {
        Some(template) => found.template(template, &node.predecessors),
        None if node.predecessors.is_empty() => found.run_input = true,
        None => found.nodes.extend(&node.predecessors),
    }
    for template in templates(&node.program) {
        found.template(template, &node.predecessors);
    }
    for condition in conditions {
        // `error` in a condition is the node's own.
        found.references(condition.references(), &[]);
    }
    found.nodes.remove(&node.number);
    found.needs()
}

fn end_needs(output: Option<&Template>, sinks: &[NodeNumber], numbers: &HashMap<Arc<str>, NodeNumber>) -> Needs {
    let mut found = Found::new(numbers);
    match output {
        Some(template) => found.template(template, &[]),
        None => found.nodes.extend(sinks),
    }
    found.needs()
}

fn templates(program: &Program) -> Vec<&Template> {
    match program {
        Program::Task => vec![],
        Program::Set(template) | Program::DelayFor(template) | Program::DelayUntil(template) => {
            vec![template]
        }
        Program::Fail { name, message } => vec![name, message],
        Program::Terminate { output, error, .. } => {
            let error = error.iter().flat_map(|(name, message)| [name, message]);
            output.iter().chain(error).collect()
        }
    }
}

struct Found<'n> {
    numbers: &'n HashMap<Arc<str>, NodeNumber>,
    run_input: bool,
    nodes: BTreeSet<NodeNumber>,
}

impl<'n> Found<'n> {
    fn new(numbers: &'n HashMap<Arc<str>, NodeNumber>) -> Self {
        Self { numbers, run_input: false, nodes: BTreeSet::new() }
    }

    fn template(&mut self, template: &Template, predecessors: &[NodeNumber]) {
        template.each_reference("", &mut |_, references| self.references(references, predecessors));
    }

    fn references(&mut self, references: &[Reference], predecessors: &[NodeNumber]) {
        for reference in references {
            match reference {
                Reference::RunInput => self.run_input = true,
                Reference::Output(id) | Reference::Failure(id) => self.nodes.extend(self.numbers.get(id.as_str())),
                Reference::Error => self.nodes.extend(predecessors),
                _ => {}
            }
        }
    }

    fn needs(self) -> Needs {
        Needs { run_input: self.run_input, nodes: self.nodes.into_iter().collect() }
    }
}

/// A count or place; the limits of a definition keep it small.
fn number(place: usize) -> NodeNumber {
    NodeNumber::try_from(place).unwrap_or(NodeNumber::MAX)
}

fn place(number: NodeNumber) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
