//! Makes a graph of a checked definition: the run's own graph first, then the bodies of its blocks, and of theirs.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::{
    Block, BlockKind, Body, BodyNumber, Edge, Graph, Join, Needs, Node, NodeKind, NodeNumber, OnError, Query, Subflow,
    WaitKind,
};
use crate::check::{Checked, CheckedBlock, CheckedBody, CheckedNode, Program, Shape};
use crate::definition::{
    self, BlockDefinition, BlockType, ClosePolicy, DEFAULT_QUEUE, DEFAULT_TIMEOUT, Definition, EdgeDefinition,
    JoinRule, NodeDefinition, NodeType, On, SubflowMode,
};
use crate::expression::{Expression, Reference, Template};
use crate::payload::Payload;
use crate::retry::RetryPolicies;

pub(super) fn graph(definition: &Definition, checked: Checked) -> Graph {
    let mut made = Making::of(definition);
    let root = Parts { nodes: &definition.nodes, edges: &definition.edges, block: None, around: 0 };
    made.body(root, checked.body);
    made.find_needs();
    let detached =
        |subflow: &Subflow| subflow.mode == SubflowMode::Detached && subflow.close_policy != ClosePolicy::Abandon;
    let queries = checked.queries.into_iter().map(|(name, query)| (name, Query::new(query, &made.numbers))).collect();
    let changes = made.nodes.iter().any(|node| matches!(node.kind, NodeKind::Context));
    let context = definition.context.as_ref().map(|context| Payload::of(context).unwrap_or_default());
    Graph {
        context: context.or_else(|| changes.then(|| Payload::trusted("{}".into()))),
        waits_for_context: made
            .nodes
            .iter()
            .any(|node| matches!(node.kind, NodeKind::Wait(_)) && node.needs.run_context),
        queries,
        finally: made.nodes.iter().filter_map(Node::block).any(Block::has_finally),
        closes_children: made.nodes.iter().filter_map(Node::subflow).any(detached),
        name: Arc::from(definition.name.as_str()),
        input_schema: definition.input_schema.clone().zip(checked.schema),
        nodes: made.nodes,
        edges: made.edges,
        numbers: made.numbers,
        bodies: made.bodies,
    }
}

/// One graph of the definition.
struct Parts<'d> {
    nodes: &'d [NodeDefinition],
    edges: &'d [EdgeDefinition],
    block: Option<NodeNumber>,
    around: BodyNumber,
}

/// A graph in the making.
struct Making<'d> {
    definition: &'d Definition,
    nodes: Vec<Node>,
    edges: Vec<Edge>,
    numbers: HashMap<Arc<str>, NodeNumber>,
    bodies: Vec<Body>,
    names: BTreeSet<Arc<str>>,
}

impl<'d> Making<'d> {
    fn of(definition: &'d Definition) -> Self {
        Self {
            definition,
            nodes: Vec::new(),
            edges: Vec::new(),
            numbers: HashMap::new(),
            bodies: Vec::new(),
            names: BTreeSet::new(),
        }
    }

    /// Each queue and handler name once.
    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = Arc::from(name);
        self.names.insert(Arc::clone(&name));
        name
    }

    /// A body's nodes and edges, then the bodies of its blocks. The definition nests as deep as `MAX_DEPTH` says.
    fn body(&mut self, parts: Parts<'d>, checked: CheckedBody) -> BodyNumber {
        let here = self.bodies.len();
        let shape = Shape::of(parts.nodes, parts.edges, "", &mut Vec::new());
        let (first_node, first_edge) = (self.nodes.len(), self.edges.len());
        let global = |local: usize| number(first_node + local);
        let mut blocks = Vec::new();
        for (at, (node, checked)) in parts.nodes.iter().zip(checked.nodes).enumerate() {
            let CheckedNode { input, mut program, fallback } = checked;
            let mut bodies = Vec::new();
            let kind = self.kind(node, &mut program, &mut bodies);
            if let NodeType::Block(block) = &node.kind {
                blocks.push((first_node + at, block, bodies));
            }
            let made = Node {
                number: global(at),
                id: Arc::from(node.id.as_str()),
                queue: self.name(node.queue.as_deref().or(self.definition.queue.as_deref()).unwrap_or(DEFAULT_QUEUE)),
                kind,
                body: here,
                input,
                program,
                needs: Needs::default(),
                predecessors: shape.predecessors(at).iter().copied().map(global).collect(),
                outgoing: shape.outgoing.get(at).into_iter().flatten().map(|edge| first_edge + edge).collect(),
                join: join(node, shape.incoming.get(at).map_or(0, Vec::len)),
                on_error: match (&node.on_error, fallback) {
                    (_, Some(fallback)) => OnError::Fallback(fallback),
                    (definition::OnError::Continue, None) => OnError::Continue,
                    (definition::OnError::Skip, None) => OnError::Skip,
                    _ => OnError::Fail,
                },
                plain: is_plain(&shape, at, parts.edges),
            };
            self.numbers.insert(Arc::clone(&made.id), made.number);
            self.nodes.push(made);
        }
        for (place, (edge, when)) in parts.edges.iter().zip(checked.whens).enumerate() {
            // a definition that was checked has no edge without ends
            let Some((from, to)) = shape.ends(place) else { continue };
            self.edges.push(Edge { from: global(from), to: global(to), on: edge.on, when });
        }
        let own = self.nodes.get(first_node..).unwrap_or_default();
        let which = |chosen: &dyn Fn(usize, &Node) -> bool| -> Vec<NodeNumber> {
            own.iter().enumerate().filter(|(at, node)| chosen(*at, node)).map(|(_, node)| node.number).collect()
        };
        let entries = which(&|at, _| shape.incoming.get(at).is_some_and(Vec::is_empty));
        let sinks = which(&|_, node| node.outgoing.is_empty());
        let early = own.iter().filter(|node| node.join.is_some_and(Join::fires_early)).count();
        let simple = |node: &Node| node.outgoing.len() <= 1 && node.join.is_none() && node.block().is_none();
        self.bodies.push(Body {
            block: parts.block,
            around: parts.around,
            open_ends: number(sinks.len() + early),
            chain: entries.len() == 1 && own.iter().all(simple),
            output: checked.output,
            end_needs: Needs::default(),
            entries,
            sinks,
        });
        for (node, block, checked) in blocks {
            let bodies = block.kind.bodies().into_iter().zip(checked);
            let bodies = bodies.map(|((_, body), checked)| {
                let parts = Parts { nodes: &body.nodes, edges: &body.edges, block: Some(number(node)), around: here };
                self.body(parts, checked)
            });
            let bodies = bodies.collect();
            if let Some(NodeKind::Block(block)) = self.nodes.get_mut(node).map(|node| &mut node.kind) {
                block.bodies = bodies;
            }
        }
        here
    }

    fn kind(&mut self, node: &NodeDefinition, program: &mut Program, bodies: &mut Vec<CheckedBody>) -> NodeKind {
        match &node.kind {
            NodeType::Task { handler, timeout, retry } => NodeKind::Task {
                handler: self.name(handler),
                timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
                retry: retry.clone().unwrap_or_default(),
            },
            NodeType::Set { .. } => NodeKind::Set,
            NodeType::Delay(_) => NodeKind::Delay,
            NodeType::Wait(_) => NodeKind::Wait(WaitKind::Signal),
            NodeType::Approval(_) => NodeKind::Wait(WaitKind::Approval),
            NodeType::Milestone(_) => NodeKind::Wait(WaitKind::Milestone),
            NodeType::Context(_) => NodeKind::Context,
            NodeType::Subflow(definition) => NodeKind::Subflow(Box::new(Subflow {
                workflow: self.name(&definition.workflow),
                version: definition.version,
                mode: definition.mode,
                close_policy: definition.close_policy,
                timeout: definition.timeout,
                retry: definition.retry.clone().unwrap_or_else(RetryPolicies::once),
            })),
            NodeType::Fail { .. } => NodeKind::Fail,
            NodeType::Terminate { .. } => NodeKind::Terminate,
            NodeType::Block(definition) => {
                let Program::Block(checked) = std::mem::replace(program, Program::Task) else {
                    // checking gives a block the program of one
                    return NodeKind::Set;
                };
                // and as many conditions as it has
                let Some((kind, checked)) = block_kind(definition, *checked) else {
                    return NodeKind::Set;
                };
                *bodies = checked;
                NodeKind::Block(Box::new(Block {
                    word: block_word(&definition.kind),
                    kind,
                    timeout: definition.timeout,
                    retry: definition.retry.clone().unwrap_or_else(RetryPolicies::once),
                    bodies: Vec::new(),
                }))
            }
        }
    }

    /// What must be at hand before each node starts and each body ends: known when all nodes are.
    fn find_needs(&mut self) {
        let needs: Vec<_> = self.nodes.iter().map(|node| self.node_needs(node)).collect();
        for (node, needs) in self.nodes.iter_mut().zip(needs) {
            node.needs = needs;
        }
        let numbers = &self.numbers;
        for body in &mut self.bodies {
            let mut found = Found::new(numbers);
            match &body.output {
                Some(template) => found.template(template, &[]),
                None => found.nodes.extend(&body.sinks),
            }
            body.end_needs = found.needs();
        }
    }

    fn node_needs(&self, node: &Node) -> Needs {
        let mut found = Found::new(&self.numbers);
        match &node.input {
            Some(template) => found.template(template, &node.predecessors),
            None if node.predecessors.is_empty() => found.run_input = node.body == 0,
            None => found.nodes.extend(&node.predecessors),
        }
        for template in templates(node) {
            found.template(template, &node.predecessors);
        }
        for condition in node.block().iter().flat_map(|block| conditions(&block.kind)) {
            found.references(condition.references(), &node.predecessors);
        }
        if let Program::Wait(wait) = &node.program {
            for condition in wait.matches.iter().chain(&wait.reached) {
                found.references(condition.references(), &node.predecessors);
            }
        }
        for condition in node.outgoing.iter().filter_map(|&edge| self.edges.get(edge)?.when.as_ref()) {
            // `error` in a condition is the node's own
            found.references(condition.references(), &[]);
        }
        if let OnError::Fallback(output) = &node.on_error {
            // and here
            found.template(output, &[]);
        }
        found.nodes.remove(&node.number);
        found.needs()
    }
}

/// The word in the tables. The approval itself is a node within a block of that name.
fn block_word(kind: &BlockType) -> &'static str {
    match kind {
        BlockType::Reminded(_) => "reminded",
        kind => kind.word(),
    }
}

fn join(node: &NodeDefinition, indegree: usize) -> Option<Join> {
    (indegree > 1).then(|| Join {
        indegree: number(indegree),
        need: match node.join {
            JoinRule::All => 0,
            JoinRule::Any => 1,
            JoinRule::Count(count) => i32::try_from(count).unwrap_or(i32::MAX),
        },
    })
}

fn is_plain(shape: &Shape<'_>, at: usize, edges: &[EdgeDefinition]) -> bool {
    let mut leaving = shape.outgoing.get(at).into_iter().flatten().filter_map(|&edge| edges.get(edge));
    leaving.all(|edge| edge.on == On::Success && edge.when.is_none())
}

fn block_kind(definition: &BlockDefinition, checked: CheckedBlock) -> Option<(BlockKind, Vec<CheckedBody>)> {
    let CheckedBlock { items, concurrency, tolerate_count, tolerate_share, whens, bodies } = checked;
    let mut whens = whens.into_iter();
    let kind = match &definition.kind {
        BlockType::Parallel { branches, ends, fail_fast, .. } => BlockKind::Parallel {
            names: branches.iter().map(|(id, _)| Arc::from(id.as_str())).collect(),
            need: match ends {
                JoinRule::All => 0,
                JoinRule::Any => 1,
                JoinRule::Count(count) => i32::try_from(*count).unwrap_or(i32::MAX),
            },
            fail_fast: *fail_fast,
            concurrency,
        },
        BlockType::Foreach { .. } => BlockKind::Foreach { items, concurrency, tolerate_count, tolerate_share },
        BlockType::While { do_while, max_iterations, on_limit, keep, .. } => BlockKind::While {
            when: whens.next()?,
            do_while: *do_while,
            max_iterations: *max_iterations,
            on_limit: *on_limit,
            keep: *keep,
        },
        BlockType::If { .. } => BlockKind::If { when: whens.next()? },
        BlockType::Switch { .. } => BlockKind::Switch { whens: whens.collect() },
        BlockType::Try { catches, finally, .. } => BlockKind::Try {
            catches: catches.iter().map(|catch| catch.on.clone()).collect(),
            finally: finally.is_some(),
        },
        BlockType::Reminded(_) => BlockKind::Reminded,
    };
    Some((kind, bodies))
}

fn conditions(kind: &BlockKind) -> Vec<&Expression> {
    match kind {
        BlockKind::While { when, .. } | BlockKind::If { when } => vec![when],
        BlockKind::Switch { whens } => whens.iter().collect(),
        _ => Vec::new(),
    }
}

fn templates(node: &Node) -> Vec<&Template> {
    match &node.program {
        Program::Task | Program::Block(_) => match node.block().map(|block| &block.kind) {
            Some(BlockKind::Parallel { concurrency, .. }) => concurrency.iter().collect(),
            Some(BlockKind::Foreach { items, concurrency, tolerate_count, tolerate_share }) => {
                [items, concurrency, tolerate_count, tolerate_share].into_iter().flatten().collect()
            }
            _ => Vec::new(),
        },
        Program::Set(template) | Program::DelayFor(template) | Program::DelayUntil(template) => {
            vec![template]
        }
        Program::Wait(wait) => wait.names.iter().chain(wait.approvers.iter().flatten()).chain(&wait.timeout).collect(),
        Program::Context(changes) => changes.iter().map(|change| &change.value).collect(),
        Program::Fail { name, message, .. } => vec![name, message],
        Program::Terminate { output, error, .. } => {
            let error = error.iter().flat_map(|(name, message)| [name, message]);
            output.iter().chain(error).collect()
        }
    }
}

pub(super) struct Found<'n> {
    numbers: &'n HashMap<Arc<str>, NodeNumber>,
    run_input: bool,
    run_context: bool,
    nodes: BTreeSet<NodeNumber>,
}

impl<'n> Found<'n> {
    pub(super) fn new(numbers: &'n HashMap<Arc<str>, NodeNumber>) -> Self {
        Self { numbers, run_input: false, run_context: false, nodes: BTreeSet::new() }
    }

    fn template(&mut self, template: &Template, predecessors: &[NodeNumber]) {
        template.each_reference("", &mut |_, references| self.references(references, predecessors));
    }

    pub(super) fn references(&mut self, references: &[Reference], predecessors: &[NodeNumber]) {
        for reference in references {
            match reference {
                Reference::RunInput => self.run_input = true,
                Reference::RunContext => self.run_context = true,
                Reference::Output(id) | Reference::Failure(id) => self.nodes.extend(self.numbers.get(id.as_str())),
                Reference::Error => self.nodes.extend(predecessors),
                _ => {}
            }
        }
    }

    pub(super) fn needs(self) -> Needs {
        Needs { run_input: self.run_input, run_context: self.run_context, nodes: self.nodes.into_iter().collect() }
    }
}

/// The place of a node, an edge or a body as the number it has in a graph; definitions are far smaller than that.
fn number(place: usize) -> NodeNumber {
    NodeNumber::try_from(place).unwrap_or(NodeNumber::MAX)
}
