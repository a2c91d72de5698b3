//! Where in a run a node is, as people write it: the blocks around it with the iteration of each, the outermost first, then the node, such as
//! `each[3]/both[left]/charge`. Ids hold neither `/` nor brackets, so it has one meaning.

use super::Error;
use crate::graph::{Block, BlockKind, Graph, NodeNumber};
use crate::workflow::LoadedVersion;

/// A body within a run: one iteration of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At {
    pub(super) block: NodeNumber,
    pub(super) iteration: i32,
}

/// Where it is to begin: a node, or a body as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The bodies around it, the outermost first.
    pub(super) within: Vec<At>,
    /// The node; none: the innermost body, from its beginning.
    pub(super) node: Option<NodeNumber>,
    /// Within a child run: the rest of the place, as it was written.
    pub(super) child: Option<String>,
}

impl Place {
    /// Reads what people write. A bracket may be left out where the node behind it says which body is meant.
    pub(super) fn parse(version: &LoadedVersion, text: &str) -> Result<Self, Error> {
        let graph = &version.graph;
        let unknown = |node: &str| Error::UnknownNode {
            node: node.to_owned(),
            workflow: version.workflow.to_string(),
            version: version.version,
        };
        let refused = |why: String| Error::Place { place: text.to_owned(), why };
        let (mut within, mut body) = (Vec::new(), 0);
        let mut rest = text;
        loop {
            let (segment, behind) = rest.split_once('/').map_or((rest, None), |(segment, rest)| (segment, Some(rest)));
            let (id, bracket) = match segment.split_once('[') {
                Some((id, bracket)) => (id, Some(bracket.strip_suffix(']').ok_or_else(|| unknown(segment))?)),
                None => (segment, None),
            };
            let number = graph.number(id).filter(|number| graph.node(*number).is_some_and(|node| node.body == body));
            let Some(node) = number.and_then(|number| graph.node(number)) else { return Err(unknown(text)) };
            if bracket.is_some() && node.block().is_none() {
                return Err(refused(format!("{id} holds no nodes")));
            }
            let (Some(block), true) = (node.block(), behind.is_some() || bracket.is_some()) else {
                let child = match behind {
                    None => None,
                    Some(rest) if node.subflow().is_some() => Some(rest.to_owned()),
                    Some(_) => return Err(refused(format!("{id} holds no nodes"))),
                };
                return Ok(Self { within, node: Some(node.number), child });
            };
            let next = behind.map(|rest| rest.split(['/', '[']).next().unwrap_or_default());
            let next = next.and_then(|id| graph.number(id)).and_then(|number| graph.node(number)).map(|node| node.body);
            let iteration = match bracket {
                Some(bracket) => iteration(block, bracket),
                None if repeats(block) => None,
                None => block.bodies.iter().position(|body| Some(*body) == next),
            };
            let why = || refused(format!("say which of {id}, such as {id}[{}]", example(block)));
            let iteration = i32::try_from(iteration.ok_or_else(why)?).unwrap_or(i32::MAX);
            let Some(inner) = block.kind.place(iteration).and_then(|place| block.bodies.get(place)) else {
                return Err(refused(format!("{id} has no body {iteration}")));
            };
            within.push(At { block: node.number, iteration });
            body = *inner;
            match behind {
                Some(behind) => rest = behind,
                None => return Ok(Self { within, node: None, child: None }),
            }
        }
    }
}

/// Which body of a block a bracket names: by its name, or by its number.
fn iteration(block: &Block, bracket: &str) -> Option<usize> {
    let named = (0..block.bodies.len()).find(|place| body_name(block, *place).as_deref() == Some(bracket));
    named.or_else(|| bracket.parse().ok())
}

/// Whether the block makes iterations of one body.
fn repeats(block: &Block) -> bool {
    matches!(block.kind, BlockKind::Foreach { .. } | BlockKind::While { .. })
}

/// What people call a body of a block that has several; none where bodies are iterations of one.
fn body_name(block: &Block, place: usize) -> Option<String> {
    Some(match &block.kind {
        BlockKind::Foreach { .. } | BlockKind::While { .. } => return None,
        BlockKind::Parallel { names, .. } => names.get(place)?.to_string(),
        BlockKind::If { .. } => if place == 0 { "then" } else { "else" }.to_owned(),
        BlockKind::Switch { whens } if place == whens.len() => "default".to_owned(),
        BlockKind::Switch { .. } => place.to_string(),
        BlockKind::Reminded => if place == 0 { "answer" } else { "reminder" }.to_owned(),
        BlockKind::Try { .. } if place == 0 => "body".to_owned(),
        BlockKind::Try { catches, .. } if place > catches.len() => "finally".to_owned(),
        BlockKind::Try { catches, .. } if catches.len() == 1 => "catch".to_owned(),
        BlockKind::Try { .. } => format!("catch{}", place - 1),
    })
}

/// A body that a bracket may name.
fn example(block: &Block) -> String {
    body_name(block, 0).unwrap_or_else(|| "0".to_owned())
}

/// What people call an iteration of a block, such as `each[3]` or `both[left]`.
pub(super) fn named(graph: &Graph, node: NodeNumber, iteration: i32) -> String {
    let block = graph.node(node).and_then(|node| node.block());
    let place = block.and_then(|block| block.kind.place(iteration).and_then(|place| body_name(block, place)));
    format!("{}[{}]", graph.id(node), place.unwrap_or_else(|| iteration.to_string()))
}

/// The names of these iterations, sorted; of a block that makes iterations of one body those that follow each other as one, such as `each[3-7]`.
pub(super) fn ranges(graph: &Graph, node: NodeNumber, iterations: &[i32]) -> Vec<String> {
    let many = graph.node(node).and_then(|node| node.block()).is_some_and(repeats);
    let runs = iterations.chunk_by(|before, after| many && before + 1 == *after);
    let name = |run: &[i32]| match run {
        [first, .., last] => Some(format!("{}[{first}-{last}]", graph.id(node))),
        [one] => Some(named(graph, node, *one)),
        [] => None,
    };
    runs.filter_map(name).collect()
}
