//! Whether the parts of a definition make sense together, and its expressions compiled on the way.
//!
//! Everything is checked before anything is refused, so the author sees all problems at once. What comes out is
//! what a `Graph` is made of.

mod references;
mod schema;
mod shape;

use jsonschema::Validator;
use serde_json::Value;

use crate::definition::{
    DEFAULT_TIMEOUT, Definition, DelayTime, JoinRule, MAX_EDGES, MAX_ID, MAX_NODES, NodeDefinition, NodeType, Problem,
    Problems, is_id,
};
use crate::duration;
use crate::expression::{Expression, Template};
use crate::state::RunState;
use references::{Place, References};
pub(crate) use shape::Shape;

const ID_FIX: &str = "use 1 to 128 of the characters A-Z a-z 0-9 _ . : -";

/// A definition's compiled parts.
pub(crate) struct Checked {
    pub nodes: Vec<CheckedNode>,
    /// The condition of each edge.
    pub whens: Vec<Option<Expression>>,
    pub output: Option<Template>,
    pub schema: Option<Validator>,
}

/// A node's compiled parts.
pub(crate) struct CheckedNode {
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
    Fail { name: Template, message: Template },
    Terminate { state: RunState, output: Option<Template>, error: Option<(Template, Template)> },
}

/// Checks a definition. The error names every problem.
pub(crate) fn check(definition: &Definition) -> Result<Checked, Problems> {
    let mut problems = Vec::new();
    for (what, count, most) in
        [("nodes", definition.nodes.len(), MAX_NODES), ("edges", definition.edges.len(), MAX_EDGES)]
    {
        if count > most {
            let fix = format!("use at most {most}; split the workflow");
            problems.push(Problem::new(what, format!("there are {count} of them"), fix));
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
    let schema = definition.input_schema.as_ref().and_then(|schema| schema::compile(schema, &mut problems));
    let shape = Shape::of(definition, &mut problems);
    let mut references = References::new(definition, &shape);
    let nodes = definition.nodes.iter().enumerate();
    let nodes = nodes.map(|(n, node)| check_node(n, node, &mut references, &mut problems)).collect();
    let edges = definition.edges.iter().enumerate();
    let whens = edges
        .map(|(place, edge)| {
            let path = format!("edges[{place}].when");
            let compiled = Expression::compile(edge.when.as_deref()?);
            match compiled {
                Ok(when) => {
                    if let Some(&from) = shape.numbers.get(edge.from.as_str()) {
                        references.add(&path, Place::When(from), when.references());
                    }
                    Some(when)
                }
                Err(why) => {
                    problems.push(Problem::new(path, why, "write a bare expression, such as run.input.total > 100"));
                    None
                }
            }
        })
        .collect();
    let output = definition.output.as_ref().map(|output| {
        let template = Template::compile(output, "output", &mut problems);
        template.each_reference("output", &mut |path, found| references.add(path, Place::Output, found));
        template
    });
    problems.extend(references.problems());
    if problems.is_empty() { Ok(Checked { nodes, whens, output, schema }) } else { Err(Problems::of(problems)) }
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

fn check_node(
    number: usize,
    node: &NodeDefinition,
    references: &mut References<'_>,
    problems: &mut Vec<Problem>,
) -> CheckedNode {
    let path = format!("nodes[{number}]");
    if let Some(queue) = &node.queue {
        check_name(&format!("{path}.queue"), queue, problems);
    }
    let mut template = |field: &str, value: &Value, own: bool, problems: &mut Vec<Problem>| {
        let path = format!("{path}.{field}");
        let template = Template::compile(value, &path, problems);
        let place = if own { Place::Own(number) } else { Place::Input(number) };
        template.each_reference(&path, &mut |path, found| references.add(path, place, found));
        template
    };
    let input = node.input.as_ref().map(|input| template("input", input, false, problems));
    let mut own = |field: &str, value: &Value, problems: &mut Vec<Problem>| template(field, value, true, problems);
    let program = match &node.kind {
        NodeType::Task { handler, timeout, retry } => {
            if handler.len() > MAX_ID || handler.contains(char::is_control) {
                let fix = "use at most 128 characters without control characters";
                problems.push(Problem::new(format!("{path}.handler"), "it is no handler name", fix));
            }
            let longest = timeout.unwrap_or(DEFAULT_TIMEOUT);
            if longest > duration::MAX || longest.is_zero() {
                let fix = "give a time longer than zero and up to 100 years";
                problems.push(Problem::new(format!("{path}.timeout"), "it is out of range", fix));
            }
            for (field, message, fix) in retry.iter().flat_map(|retry| retry.validate()) {
                problems.push(Problem::new(format!("{path}.retry.{field}"), message, fix));
            }
            Program::Task
        }
        NodeType::Set { output } => Program::Set(own("output", output, problems)),
        NodeType::Delay(DelayTime::For(time)) => {
            let template = own("duration", &Value::from(time.as_str()), problems);
            if template.is_constant()
                && let Err(error) = duration::parse(time)
                && !time.contains("{{")
            {
                let fix = "such as \"5s\", or a template that gives such a text";
                problems.push(Problem::new(format!("{path}.duration"), error.to_string(), fix));
            }
            Program::DelayFor(template)
        }
        NodeType::Delay(DelayTime::Until(time)) => {
            let template = own("until", &Value::from(time.as_str()), problems);
            if template.is_constant() && chrono::DateTime::parse_from_rfc3339(time).is_err() && !time.contains("{{") {
                let message = format!("`{}` is no time", time.chars().take(60).collect::<String>());
                let fix = "write RFC 3339 with a zone, such as \"2030-01-31T08:00:00Z\"";
                problems.push(Problem::new(format!("{path}.until"), message, fix));
            }
            Program::DelayUntil(template)
        }
        NodeType::Fail { name, message } => Program::Fail {
            name: own("name", &Value::from(name.as_str()), problems),
            message: own("message", &Value::from(message.as_str()), problems),
        },
        NodeType::Terminate { state, output, error } => {
            if !state.has_ended() {
                let fix = "use \"completed\", \"failed\" or \"canceled\"";
                problems.push(Problem::new(format!("{path}.state"), "a run cannot end so", fix));
            }
            let output = output.as_ref().map(|output| own("output", output, problems));
            let error = error.as_ref().map(|(name, message)| {
                let name = own("error.name", &Value::from(name.as_str()), problems);
                (name, own("error.message", &Value::from(message.as_str()), problems))
            });
            Program::Terminate { state: *state, output, error }
        }
    };
    if let JoinRule::Count(0) = node.join {
        problems.push(Problem::new(format!("{path}.join"), "it is zero", "use \"any\" or at least 1"));
    }
    CheckedNode { input, program }
}

#[cfg(test)]
mod tests;
