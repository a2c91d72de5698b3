//! Whether expressions refer to what is there: nodes that have run by then, and the blocks around.

use std::fmt::Display;

use super::ids::{Ids, Unknown};
use super::shape::short;
use super::{Part, Shape};
use crate::definition::{BlockType, EdgeDefinition, MAX_ID, NodeDefinition, NodeType, On, Problem};
use crate::expression::Reference;

/// Where an expression stands in its body, which decides what it may read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// The `input` template of this node.
    Input(usize),
    /// A template or condition of this node's own type.
    Own(usize),
    /// The `match` of this node.
    Match(usize),
    /// The condition of an edge that leaves this node.
    When(usize),
    /// The output of the body, or of the run.
    Output,
    /// A query of the run.
    Query,
}

/// What holds a body.
#[derive(Clone, Copy)]
pub(super) struct Holder<'d> {
    /// The block's id.
    id: &'d str,
    /// Its number in the body around.
    number: usize,
    kind: &'d BlockType,
    /// The body is a `catch`.
    catch: bool,
}

impl<'d> Holder<'d> {
    /// The holder of the body at this place of `BlockType::bodies`.
    pub(super) fn of(kind: &'d BlockType, place: usize, number: usize, id: &'d str) -> Self {
        let catch = matches!(kind, BlockType::Try { catches, .. } if (1..=catches.len()).contains(&place));
        Self { id, number, kind, catch }
    }
}

/// The body that is checked, last, and those around it, the run's own graph first.
#[derive(Default)]
pub(super) struct Around<'d>(Vec<Level<'d>>);

struct Level<'d> {
    nodes: &'d [NodeDefinition],
    edges: &'d [EdgeDefinition],
    shape: Shape<'d>,
    ancestors: Option<Ancestors>,
    /// None for the run's own graph.
    holder: Option<Holder<'d>>,
}

/// What is wrong with a reference, and what to do about it.
type Refusal = (String, String);

impl<'d> Around<'d> {
    pub(super) fn enter(&mut self, part: Part<'d>, shape: Shape<'d>, holder: Option<Holder<'d>>) {
        self.0.push(Level { nodes: part.nodes, edges: part.edges, shape, ancestors: None, holder });
    }

    /// Whether an edge takes it when this node of the body that is checked gives up.
    pub(super) fn takes_failures(&self, node: usize) -> bool {
        let Some(level) = self.0.last() else { return false };
        let mut leaving = level.shape.outgoing.get(node).into_iter().flatten();
        leaving.any(|&edge| level.edges.get(edge).is_some_and(|edge| edge.on != On::Success))
    }

    pub(super) fn leave(&mut self) {
        self.0.pop();
    }

    /// How many blocks are around.
    pub(super) fn depth(&self) -> usize {
        self.0.len().saturating_sub(1)
    }

    /// The number of a node of the body that is checked.
    pub(super) fn number(&self, id: &str) -> Option<usize> {
        self.0.last()?.shape.numbers.get(id).copied()
    }

    /// Notes which of these references lead nowhere.
    pub(super) fn check(
        &mut self,
        path: impl Display,
        place: Place,
        references: &[Reference],
        ids: &Ids<'d>,
        problems: &mut Vec<Problem>,
    ) {
        for reference in references {
            if let Err((message, fix)) = self.may_read(place, reference, ids) {
                problems.push(Problem::new(path.to_string(), message, fix));
            }
        }
    }

    fn may_read(&mut self, place: Place, reference: &Reference, ids: &Ids<'d>) -> Result<(), Refusal> {
        match reference {
            Reference::RunId
            | Reference::RunWorkflow
            | Reference::RunVersion
            | Reference::RunKey
            | Reference::RunParent
            | Reference::RunInput => Ok(()),
            Reference::RunContext => self.may_read_context(place),
            Reference::State(id) if matches!(place, Place::Query) => self.may_ask_for(reference, id, ids),
            Reference::RunState | Reference::State(_) => match place {
                Place::Query => Ok(()),
                _ => {
                    let fix =
                        "it is known in `queries`; use edges with `on`, or nodes.<id>.output and nodes.<id>.error";
                    Err((format!("`{}` is not known here", shown(reference)), fix.to_owned()))
                }
            },
            Reference::Output(id) | Reference::Failure(id) if matches!(place, Place::Query) => {
                self.may_ask_for(reference, id, ids)
            }
            Reference::Input => match place {
                Place::Own(_) => Ok(()),
                _ => Err(("`input` is not known here".to_owned(), "use run.input or nodes.<id>.output".to_owned())),
            },
            Reference::SignalName | Reference::SignalPayload => match place {
                Place::Match(_) => Ok(()),
                _ => {
                    let fix = "it is known in the `match` of a wait; elsewhere use nodes.<id>.output of that node";
                    Err((format!("`{reference}` is not known here"), fix.to_owned()))
                }
            },
            Reference::Error => self.may_read_error(place),
            Reference::Output(id) | Reference::Failure(id) => self.may_read_node(place, reference, id, ids),
            Reference::Item | Reference::Index => {
                let mut holders = self.holders();
                if holders.any(|holder| matches!(holder.kind, BlockType::Foreach { .. })) {
                    return Ok(());
                }
                let fix = "it is that of the `foreach` around; use it in the body of one";
                Err((format!("`{reference}` is not known here"), fix.to_owned()))
            }
            Reference::FrameInput(None) | Reference::FrameIndex(None) => {
                if self.holders().next().is_some() {
                    return Ok(());
                }
                let fix = "it is that of the block around; use it in the body of one";
                Err((format!("`{reference}` is not known here"), fix.to_owned()))
            }
            Reference::FrameInput(Some(id)) | Reference::FrameIndex(Some(id)) => {
                if self.holders().any(|holder| holder.id == id) {
                    return Ok(());
                }
                let around: Vec<_> = self.holders().map(|holder| format!("`{}`", short(holder.id))).collect();
                let fix = match around.is_empty() {
                    true => "use it in the body of a block".to_owned(),
                    false => format!("name a block around: {}", around.join(", ")),
                };
                let reference = shown(reference);
                Err((format!("`{reference}` is not known here: no block around has that id"), fix))
            }
        }
    }

    /// The blocks around, the nearest first.
    /// The approval with a reminder that the body belongs to which is checked.
    pub(super) fn approval(&self) -> Option<&'d str> {
        let holder = self.0.last()?.holder?;
        matches!(holder.kind, BlockType::Reminded(_)).then_some(holder.id)
    }

    fn holders(&self) -> impl Iterator<Item = &Holder<'d>> {
        self.0.iter().rev().filter_map(|level| level.holder.as_ref())
    }

    fn may_read_error(&self, place: Place) -> Result<(), Refusal> {
        let Some(level) = self.0.last() else { return Ok(()) };
        let catch = level.holder.is_some_and(|holder| holder.catch);
        let fix = "use nodes.<id>.error".to_owned();
        match place {
            Place::When(_) => Ok(()),
            Place::Output if catch => Err(("`error` is not known here".to_owned(), "use frame.input".to_owned())),
            Place::Output | Place::Query => Err(("`error` is not known here".to_owned(), fix)),
            Place::Input(node) | Place::Own(node) | Place::Match(node) => match level.shape.predecessors(node).len() {
                1 => Ok(()),
                0 if catch => Ok(()),
                0 => {
                    let caught = self.holders().find(|holder| holder.catch);
                    let fix = caught.map(|holder| format!("use {}", spelled("frames", holder.id, "input")));
                    let message = "`error` has no meaning in an entry node";
                    Err((message.to_owned(), fix.unwrap_or_else(|| "remove it".to_owned())))
                }
                many => Err((format!("`error` is not clear here: the node has {many} predecessors"), fix)),
            },
        }
    }

    /// The context as it was when the node began is of no use to the edges of one that changes it.
    fn may_read_context(&self, place: Place) -> Result<(), Refusal> {
        let changes = |node: usize| {
            let node = self.0.last().and_then(|level| level.nodes.get(node));
            node.is_some_and(|node| matches!(node.kind, NodeType::Context(_)))
        };
        match place {
            Place::When(node) if changes(node) => Err((
                "`run.context` is not known here: it is what it was before this node changed it".to_owned(),
                "put an `if` or a `switch` after the node and ask there".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// A query reads nodes of the run's own graph.
    fn may_ask_for(&self, reference: &Reference, id: &str, ids: &Ids<'d>) -> Result<(), Refusal> {
        match ids.block_of(id) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err((
                format!("`{}` cannot be read: `{}` is within a block", shown(reference), short(id)),
                "name a node of the run's own graph".to_owned(),
            )),
            Err(Unknown) => Err((
                format!("`{}` refers to a node that does not exist", shown(reference)),
                "name a node of this definition".to_owned(),
            )),
        }
    }

    fn may_read_node(&mut self, place: Place, reference: &Reference, id: &str, ids: &Ids<'d>) -> Result<(), Refusal> {
        // The block of the body that is looked at in which the reference stands.
        let mut holder: Option<Holder<'d>> = None;
        for level in self.0.iter_mut().rev() {
            if let Some(&node) = level.shape.numbers.get(id) {
                return match holder {
                    None => level.may_read_here(place, reference, id, node),
                    Some(holder) => level.may_read_around(&holder, reference, id, node),
                };
            }
            holder = level.holder;
        }
        self.may_read_hidden(place, reference, id, ids)
    }

    /// A node that is in none of the bodies around: what it is within, or nothing.
    fn may_read_hidden(&self, place: Place, reference: &Reference, id: &str, ids: &Ids<'d>) -> Result<(), Refusal> {
        let mut at = id;
        let block = loop {
            match ids.block_of(at) {
                Ok(Some(block)) if self.0.iter().any(|level| level.shape.numbers.contains_key(block)) => break block,
                Ok(Some(block)) => at = block,
                Ok(None) | Err(Unknown) => {
                    let message = format!("`{}` refers to a node that does not exist", shown(reference));
                    return Err((message, "name a node of this definition".to_owned()));
                }
            }
        };
        let (id, name) = (short(id), short(block));
        if self.holders().any(|holder| holder.id == block) {
            let message =
                format!("`{}` cannot be known: `{id}` is in another body of the block `{name}`", shown(reference));
            return Err((message, "refer to a node of this body, or to one that runs before the block".to_owned()));
        }
        if let Place::Own(node) | Place::Input(node) | Place::Match(node) = place
            && self.number(block) == Some(node)
        {
            let message =
                format!("`{}` cannot be known: `{id}` is within `{name}`, which has not run by then", shown(reference));
            let fix = match (place, self.kind(node)) {
                (Place::Own(_), Some(BlockType::While { .. })) => {
                    "use input, which is what the next pass would be given"
                }
                _ => "refer to a node that runs before the block",
            };
            return Err((message, fix.to_owned()));
        }
        let message = format!(
            "`{}` cannot be read: `{id}` is within the block `{name}`, and only its own output can be",
            shown(reference)
        );
        let field = if matches!(reference, Reference::Failure(_)) { "error" } else { "output" };
        Err((message, format!("use {}", spelled("nodes", block, field))))
    }

    /// What a node of the body that is checked does, if it is a block.
    fn kind(&self, node: usize) -> Option<&'d BlockType> {
        match &self.0.last()?.nodes.get(node)?.kind {
            NodeType::Block(block) => Some(&block.kind),
            _ => None,
        }
    }
}

impl Level<'_> {
    /// A node of the body in which the reference stands.
    fn may_read_here(&mut self, place: Place, reference: &Reference, id: &str, node: usize) -> Result<(), Refusal> {
        let at = match place {
            Place::Output | Place::Query => return Ok(()),
            Place::When(from) if from == node => return Ok(()),
            Place::Input(at) | Place::Own(at) | Place::Match(at) | Place::When(at) => at,
        };
        if self.comes_before(node, at) {
            return Ok(());
        }
        let (id, here) = (short(id), self.id(at));
        let message = format!("`{}` cannot be known: `{id}` does not run before `{here}`", shown(reference));
        Err((message, "refer to a node from which edges lead here, or add such edges".to_owned()))
    }

    /// A node of a body around; `holder` is the block of that body in which the reference stands.
    fn may_read_around(
        &mut self,
        holder: &Holder<'_>,
        reference: &Reference,
        id: &str,
        node: usize,
    ) -> Result<(), Refusal> {
        let (id, block) = (short(id), short(holder.id));
        if node == holder.number {
            let message =
                format!("`{}` cannot be known: `{id}` has not ended while a body of it runs", shown(reference));
            let fix = format!("use {}, which is what this body was given", spelled("frames", holder.id, "input"));
            return Err((message, fix));
        }
        if self.comes_before(node, holder.number) {
            return Ok(());
        }
        let message = format!("`{}` cannot be known: `{id}` does not run before the block `{block}`", shown(reference));
        Err((message, format!("refer to a node from which edges lead to `{block}`, or add such edges")))
    }

    /// True as well of a node of a cycle or behind one, which has no certain ancestors: the cycle is noted already.
    fn comes_before(&mut self, node: usize, at: usize) -> bool {
        self.shape.predecessors(at).binary_search(&node).is_ok()
            || self.ancestors.get_or_insert_with(|| Ancestors::of(&self.shape, self.nodes.len())).has(at, node)
    }

    fn id(&self, node: usize) -> String {
        self.nodes.get(node).map_or_else(String::new, |node| short(&node.id))
    }
}

/// A reference in a message: whole, unless its id is none.
fn shown(reference: &Reference) -> String {
    let text = reference.to_string();
    if text.len() <= 2 * MAX_ID { text } else { short(&text) }
}

/// A reference as an author can write it.
fn spelled(root: &str, id: &str, field: &str) -> String {
    let plain = id.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if plain { format!("{root}.{id}.{field}") } else { format!("{root}[\"{}\"].{field}", short(id)) }
}

/// Which nodes come before which: one bit for each pair.
struct Ancestors {
    words: usize,
    bits: Vec<u64>,
    /// Nodes of which nothing certain is known.
    unknown: Vec<bool>,
}

impl Ancestors {
    fn of(shape: &Shape<'_>, count: usize) -> Self {
        let words = count.div_ceil(64);
        let mut this = Self { words, bits: vec![0; words * count], unknown: vec![true; count] };
        for &node in &shape.order {
            if let Some(unknown) = this.unknown.get_mut(node) {
                *unknown = false;
            }
            for &from in shape.predecessors(node) {
                for word in 0..words {
                    let above = this.bits.get(from * words + word).copied().unwrap_or(0);
                    if let Some(bits) = this.bits.get_mut(node * words + word) {
                        *bits |= above;
                    }
                }
                if let Some(bits) = this.bits.get_mut(node * words + from / 64) {
                    *bits |= 1 << (from % 64);
                }
            }
        }
        this
    }

    fn has(&self, node: usize, ancestor: usize) -> bool {
        let bits = self.bits.get(node * self.words + ancestor / 64).copied().unwrap_or(0);
        bits >> (ancestor % 64) & 1 == 1 || self.unknown.get(node) == Some(&true)
    }
}
