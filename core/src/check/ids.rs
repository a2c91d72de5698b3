//! The ids of a whole definition: each is there once, and edges lead to those of the same body.

use std::collections::HashMap;

use super::shape::short;
use super::{ID_FIX, Part};
use crate::definition::block::MAX_DEPTH;
use crate::definition::reminder::MAX_REMINDED_ID;
use crate::definition::{BlockType, Definition, NodeType, Problem, is_id};

/// Where each node is; the first one when an id is there twice. What is within too many blocks is left out.
pub(super) struct Ids<'d> {
    bodies: Vec<Body<'d>>,
    /// The number of its body and its own there.
    places: HashMap<&'d str, (usize, usize)>,
}

struct Body<'d> {
    /// What goes before the paths in it.
    path: String,
    /// The block that holds it; none for the run's own graph.
    block: Option<&'d str>,
}

impl<'d> Ids<'d> {
    /// Finds the ids and notes what is wrong with them.
    pub(super) fn of(definition: &'d Definition, problems: &mut Vec<Problem>) -> Self {
        let mut ids = Self { bodies: Vec::new(), places: HashMap::with_capacity(definition.nodes.len()) };
        ids.read(Part::from(definition), None, String::new(), 0, problems);
        ids
    }

    fn read(
        &mut self,
        part: Part<'d>,
        block: Option<&'d str>,
        path: String,
        depth: usize,
        problems: &mut Vec<Problem>,
    ) {
        let body = self.bodies.len();
        self.bodies.push(Body { path: path.clone(), block });
        for (number, node) in part.nodes.iter().enumerate() {
            self.read_id(&node.id, (body, number), problems);
            let NodeType::Block(block) = &node.kind else { continue };
            if depth == MAX_DEPTH {
                continue; // Noted when the block is checked.
            }
            if matches!(block.kind, BlockType::Reminded(_)) && (!is_id(&node.id) || node.id.len() > MAX_REMINDED_ID) {
                continue; // Noted of the block; the ids of what it holds are made of its own.
            }
            for (below, body) in block.kind.bodies() {
                let path = format!("{path}nodes[{number}].{below}.");
                self.read(Part::from(body), Some(&node.id), path, depth + 1, problems);
            }
        }
    }

    fn read_id(&mut self, id: &'d str, place: (usize, usize), problems: &mut Vec<Problem>) {
        if id.is_empty() {
            return; // Noted when it was read; an edge to it is dangling.
        }
        let path = |place| format!("{}.id", self.path_of(place));
        if !is_id(id) {
            problems.push(Problem::new(path(place), format!("`{}` is no id", short(id)), ID_FIX));
        }
        match self.places.get(id) {
            Some(first) => {
                let message = format!("{} has the id `{}` already", self.path_of(*first), short(id));
                problems.push(Problem::new(path(place), message, "give each node its own id"));
            }
            None => {
                self.places.insert(id, place);
            }
        }
    }

    fn path_of(&self, (body, number): (usize, usize)) -> String {
        let path = self.bodies.get(body).map_or("", |body| &body.path);
        format!("{path}nodes[{number}]")
    }

    /// The block whose body holds this node; none for a node of the run's own graph. An error for an unknown id.
    pub(super) fn block_of(&self, id: &str) -> Result<Option<&'d str>, Unknown> {
        let (body, _) = self.places.get(id).ok_or(Unknown)?;
        Ok(self.bodies.get(*body).and_then(|body| body.block))
    }

    /// Notes the edges whose ends are no nodes of their own body.
    pub(super) fn check_edges(&self, part: Part<'_>, path: &str, problems: &mut Vec<Problem>) {
        let here: std::collections::HashSet<&str> = part.nodes.iter().map(|node| node.id.as_str()).collect();
        for (place, edge) in part.edges.iter().enumerate() {
            for (field, id) in [("from", edge.from.as_str()), ("to", edge.to.as_str())] {
                if !id.is_empty() && here.contains(id) {
                    continue;
                }
                let (message, fix) = match self.places.get(id) {
                    Some(there) => (
                        format!("edges stay within a body, and `{}` is {}", short(id), self.path_of(*there)),
                        "name a node of the same body, or the block of this body that holds the node",
                    ),
                    None if path.is_empty() => {
                        (format!("there is no node `{}`", short(id)), "name a node of this definition")
                    }
                    None => (format!("there is no node `{}`", short(id)), "name a node of this body"),
                };
                problems.push(Problem::new(format!("{path}edges[{place}].{field}"), message, fix));
            }
        }
    }
}

/// There is no node with this id.
pub(super) struct Unknown;
