//! Whether expressions refer to nodes that exist and have run by then.

use std::fmt::Display;

use super::Shape;
use super::shape::short;
use crate::definition::{Definition, Problem};
use crate::expression::Reference;

/// Where an expression stands, which decides what it may read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// The `input` template of this node.
    Input(usize),
    /// A template of this node's own type.
    Own(usize),
    /// The condition of an edge that leaves this node.
    When(usize),
    /// The output of the run.
    Output,
}

/// What is wrong with the references of a definition. Each is checked as it is found, so that only wrong ones cost
/// memory.
pub(super) struct References<'d> {
    definition: &'d Definition,
    shape: &'d Shape<'d>,
    ancestors: Option<Ancestors>,
    problems: Vec<Problem>,
}

impl<'d> References<'d> {
    pub(super) fn new(definition: &'d Definition, shape: &'d Shape<'d>) -> Self {
        Self { definition, shape, ancestors: None, problems: Vec::new() }
    }

    pub(super) fn add(&mut self, path: impl Display, place: Place, references: &[Reference]) {
        for reference in references {
            if let Some((message, fix)) = self.check(place, reference) {
                self.problems.push(Problem::new(path.to_string(), message, fix));
            }
        }
    }

    pub(super) fn problems(self) -> Vec<Problem> {
        self.problems
    }

    fn check(&mut self, place: Place, reference: &Reference) -> Option<(String, String)> {
        match reference {
            Reference::Input => match place {
                Place::Own(_) => None,
                _ => Some(("`input` is not known here".to_owned(), "use run.input or nodes.<id>.output".to_owned())),
            },
            Reference::Error => check_error(place, self.shape),
            Reference::Output(id) | Reference::Failure(id) => match self.shape.numbers.get(id.as_str()) {
                None => {
                    let message = format!("`{}` refers to a node that does not exist", short(&reference.to_string()));
                    Some((message, "name a node of this definition".to_owned()))
                }
                Some(&node) => check_node(reference, id, node, place, self.definition, self.shape, &mut self.ancestors),
            },
            _ => None, // What every place may read.
        }
    }
}

fn check_error(place: Place, shape: &Shape<'_>) -> Option<(String, String)> {
    let fix = "use nodes.<id>.error";
    match place {
        Place::When(_) => None,
        Place::Output => Some(("`error` is not known here".to_owned(), fix.to_owned())),
        Place::Input(node) | Place::Own(node) => match shape.predecessors(node).len() {
            1 => None,
            0 => Some(("`error` has no meaning in an entry node".to_owned(), "remove it".to_owned())),
            many => Some((format!("`error` is not clear here: the node has {many} predecessors"), fix.to_owned())),
        },
    }
}

fn check_node(
    reference: &Reference,
    id: &str,
    node: usize,
    place: Place,
    definition: &Definition,
    shape: &Shape<'_>,
    ancestors: &mut Option<Ancestors>,
) -> Option<(String, String)> {
    let (at, itself) = match place {
        Place::Output => return None,
        Place::Input(at) | Place::Own(at) => (at, false),
        Place::When(from) => (from, true),
    };
    if itself && node == at {
        return None;
    }
    // A node of a cycle or behind one has no certain ancestors; the cycle is noted already.
    let known = shape.predecessors(at).binary_search(&node).is_ok()
        || ancestors.get_or_insert_with(|| Ancestors::of(shape, definition.nodes.len())).has(at, node);
    if known {
        return None;
    }
    let here = definition.nodes.get(at).map_or("", |node| &node.id);
    let message = format!("`{reference}` cannot be known: `{}` does not run before `{}`", short(id), short(here));
    Some((message, "refer to a node from which edges lead here, or add such edges".to_owned()))
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
