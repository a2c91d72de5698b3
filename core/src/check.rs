//! Whether the parts of a definition make sense together, and its expressions compiled on the way.
//!
//! Everything is checked before anything is refused, so the author sees all problems at once. What comes out is
//! what a `Graph` is made of. The body of a block is checked as the run's own graph is.

mod block;
mod context;
mod ids;
mod node;
mod references;
mod schema;
mod shape;
mod wait;

use std::collections::BTreeMap;

use jsonschema::Validator;
use serde_json::Value;

use crate::context::Op;
use crate::definition::{
    BodyDefinition, Definition, EdgeDefinition, MAX_EDGES, MAX_NODES, NodeDefinition, Problem, Problems, is_id,
};
use crate::expression::{Expression, Template};
use crate::state::RunState;
use ids::Ids;
use references::{Around, Holder, Place};
pub(crate) use shape::Shape;
pub(crate) use wait::is_signal;

const ID_FIX: &str = "use 1 to 128 of the characters A-Z a-z 0-9 _ . : -";

/// A definition's compiled parts.
pub(crate) struct Checked {
    /// The run's own graph.
    pub body: CheckedBody,
    pub schema: Option<Validator>,
    /// By name.
    pub queries: BTreeMap<String, Expression>,
}

/// The compiled parts of a graph: the run's own or a body of a block.
#[derive(Debug)]
pub(crate) struct CheckedBody {
    pub nodes: Vec<CheckedNode>,
    /// The condition of each edge.
    pub whens: Vec<Option<Expression>>,
    pub output: Option<Template>,
}

/// A node's compiled parts.
#[derive(Debug)]
pub(crate) struct CheckedNode {
    /// The output that takes the place of its own when it gives up.
    pub fallback: Option<Template>,
    pub input: Option<Template>,
    pub program: Program,
}

/// What a node that the engine runs itself evaluates.
#[derive(Debug)]
pub(crate) enum Program {
    Task,
    Set(Template),
    DelayFor(Template),
    DelayUntil(Template),
    Fail { name: Template, message: Template, retryable: bool },
    Terminate { state: RunState, output: Option<Template>, error: Option<(Template, Template)> },
    Wait(Box<CheckedWait>),
    Context(Vec<CheckedChange>),
    Block(Box<CheckedBlock>),
}

/// A wait's compiled parts.
#[derive(Debug)]
pub(crate) struct CheckedWait {
    pub names: Vec<Template>,
    /// Of an approval: who may answer, anyone if none.
    pub approvers: Option<Vec<Template>>,
    /// Whether it is an approval: the payload is an answer, and the schema that of the answer itself.
    pub approval: bool,
    /// Of a milestone: what it waits for.
    pub reached: Option<Expression>,
    pub matches: Option<Expression>,
    pub timeout: Option<Template>,
    pub schema: Option<Validator>,
}

/// One change of a context, its value not yet known.
#[derive(Debug)]
pub(crate) struct CheckedChange {
    pub op: Op,
    pub path: Vec<String>,
    pub value: Template,
}

/// A block's compiled parts.
#[derive(Debug)]
pub(crate) struct CheckedBlock {
    pub items: Option<Template>,
    pub concurrency: Option<Template>,
    pub tolerate_count: Option<Template>,
    pub tolerate_share: Option<Template>,
    /// One of an `if` and of a `while`, one for each case of a `switch`.
    pub whens: Vec<Expression>,
    /// In the order of `BlockType::bodies`.
    pub bodies: Vec<CheckedBody>,
}

/// Checks a definition. The error names every problem.
pub(crate) fn check(definition: &Definition) -> Result<Checked, Problems> {
    let mut problems = Vec::new();
    let size = definition.size();
    for (what, all, own, most) in [
        ("nodes", size.nodes, definition.nodes.len(), MAX_NODES),
        ("edges", size.edges, definition.edges.len(), MAX_EDGES),
    ] {
        if all > most {
            let others = if all > own { ", those of all bodies included" } else { "" };
            let fix = format!("use at most {most}; split the workflow");
            problems.push(Problem::new(what, format!("there are {all} of them{others}"), fix));
        }
    }
    if definition.nodes.is_empty() {
        problems.push(Problem::new("nodes", "there is no node", "give at least one"));
    }
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    check_name("name", &definition.name, &mut problems);
    if let Some(queue) = &definition.queue {
        check_name("queue", queue, &mut problems);
    }
    let schema =
        definition.input_schema.as_ref().and_then(|schema| schema::compile("input_schema", schema, &mut problems));
    let ids = Ids::of(definition, &mut problems);
    let mut checker = Checker { ids, around: Around::default(), problems };
    let body = checker.body(Part::from(definition), None, "");
    checker.start_context(definition);
    let queries = checker.queries(definition);
    let problems = checker.problems;
    if problems.is_empty() { Ok(Checked { body, schema, queries }) } else { Err(Problems::of(problems)) }
}

/// A graph of a definition: the run's own or a body of a block.
#[derive(Clone, Copy)]
struct Part<'d> {
    nodes: &'d [NodeDefinition],
    edges: &'d [EdgeDefinition],
    output: Option<&'d Value>,
}

impl<'d> From<&'d Definition> for Part<'d> {
    fn from(definition: &'d Definition) -> Self {
        Self { nodes: &definition.nodes, edges: &definition.edges, output: definition.output.as_ref() }
    }
}

impl<'d> From<&'d BodyDefinition> for Part<'d> {
    fn from(body: &'d BodyDefinition) -> Self {
        Self { nodes: &body.nodes, edges: &body.edges, output: body.output.as_ref() }
    }
}

/// A definition while it is checked.
struct Checker<'d> {
    ids: Ids<'d>,
    /// The body that is checked and those around it.
    around: Around<'d>,
    problems: Vec<Problem>,
}

impl<'d> Checker<'d> {
    /// Checks the run's own graph, or the body of a block that `holder` is. `path` goes before the paths in it, such as `nodes[2].body.`.
    fn body(&mut self, part: Part<'d>, holder: Option<Holder<'d>>, path: &str) -> CheckedBody {
        if part.nodes.is_empty() {
            self.wrong(format!("{path}nodes"), "there is no node", "give at least one");
        }
        self.ids.check_edges(part, path, &mut self.problems);
        let shape = Shape::of(part.nodes, part.edges, path, &mut self.problems);
        self.around.enter(part, shape, holder);
        let nodes = part.nodes.iter().enumerate();
        let nodes = nodes.map(|(number, node)| self.node(number, node, &format!("{path}nodes[{number}]"))).collect();
        let edges = part.edges.iter().enumerate();
        let whens = edges
            .map(|(number, edge)| {
                let when = edge.when.as_deref()?;
                let place = self.around.number(&edge.from).map(Place::When);
                self.condition(&format!("{path}edges[{number}].when"), when, place)
            })
            .collect();
        let output = part.output.map(|output| self.template(&format!("{path}output"), output, Place::Output));
        self.around.leave();
        CheckedBody { nodes, whens, output }
    }

    /// A bare expression; what it reads is not looked at when it stands nowhere.
    fn condition(&mut self, path: &str, text: &str, place: Option<Place>) -> Option<Expression> {
        match Expression::compile(text) {
            Ok(when) => {
                if let Some(place) = place {
                    self.around.check(path, place, when.references(), &self.ids, &mut self.problems);
                }
                Some(when)
            }
            Err(why) => {
                self.wrong(path, why, "write a bare expression, such as run.input.total > 100");
                None
            }
        }
    }

    fn template(&mut self, path: &str, value: &Value, place: Place) -> Template {
        let template = Template::compile(value, path, &mut self.problems);
        template.each_reference(path, &mut |path, found| {
            self.around.check(path, place, found, &self.ids, &mut self.problems);
        });
        template
    }

    fn wrong(&mut self, path: impl Into<String>, message: impl Into<String>, fix: impl Into<String>) {
        self.problems.push(Problem::new(path, message, fix));
    }
}

fn check_name(path: &str, name: &str, problems: &mut Vec<Problem>) {
    if !is_id(name) && !name.is_empty() {
        let short: String = name.chars().take(60).collect();
        problems.push(Problem::new(path, format!("`{short}` is no name"), ID_FIX));
    } else if name.is_empty() && path == "name" {
        // An empty text elsewhere was noted when it was read.
        problems.push(Problem::new(path, "it is missing", "give it"));
    }
}

#[cfg(test)]
mod tests;
