//! Translates a state machine in Amazon States Language into a definition of ours. Its states are a graph of control
//! with one document that flows along it: a state becomes a node, what it does to the document becomes `set` nodes
//! behind it, a loop becomes a `while` around its states. What has no translation is refused by state and reason, all
//! at once; nothing is left out silently.

mod block;
mod child;
mod choice;
mod data;
mod errors;
mod flow;
mod graph;
mod intrinsic;
mod machine;
mod path;
mod state;
mod task;

use std::collections::{HashMap, HashSet};
use std::fmt;

use longshore_core::definition::{Definition, MAX_ID, MAX_NODES};
use serde_json::{Value, json};

use crate::wfcommons::{Short, allowed, allowed_ids};
use flow::Around;
use machine::Machine;

/// So many refusals are told.
const MAX_REFUSALS: usize = 100;

/// What is wrong with a machine, or has no translation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The state; none where it is the machine as a whole.
    pub state: Option<String>,
    /// A sentence.
    pub reason: String,
}

/// All of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusals(pub Vec<Refusal>);

impl std::error::Error for Refusals {}

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, refusal) in self.0.iter().enumerate() {
            let end = if place > 0 { "\n" } else { "" };
            match &refusal.state {
                Some(state) => write!(f, "{end}state \"{}\": {}", Short(state), refusal.reason)?,
                None => write!(f, "{end}the machine: {}", refusal.reason)?,
            }
        }
        Ok(())
    }
}

/// The definition of this name that does what the machine says.
///
/// # Errors
/// Every state that cannot be translated, with the reason.
pub fn definition(machine: &Value, name: &str) -> Result<Value, Refusals> {
    let mut translation = Translation::default();
    let definition = translation.whole(machine, name);
    if !translation.refusals.is_empty() {
        return Err(Refusals(translation.refusals));
    }
    // what a definition allows is its own business: a name that is too long, too many nodes, bodies too deep
    match Definition::from_json(&definition) {
        Ok(_) => Ok(definition),
        Err(problems) => {
            let refusal = |problem: &longshore_core::definition::Problem| Refusal {
                state: None,
                reason: format!("what it becomes is no definition: {problem}"),
            };
            Err(Refusals(problems.0.iter().map(refusal).collect()))
        }
    }
}

/// The expression that is true where a choice rule matches, `$` being `document`.
///
/// # Errors
/// Why the rule cannot be translated.
pub fn rule(rule: &Value, document: &str) -> Result<String, String> {
    choice::rule(rule, &path::Scope::of(document))
}

/// The name that an error of a run has in the language of the machine, such as `States.Timeout`.
pub fn error_name(ours: &str) -> &str {
    errors::name(ours)
}

/// The workflow name that a file suggests: its name without `.json`, `.asl` and the like.
pub fn name_of(file: &std::path::Path) -> String {
    let file = file.file_name().unwrap_or_default().to_string_lossy();
    let stem = file.strip_suffix(".json").unwrap_or(&file);
    allowed(stem.strip_suffix(".asl").unwrap_or(stem), MAX_ID)
}

/// A translation in progress.
#[derive(Default)]
struct Translation {
    refusals: Vec<Refusal>,
    /// The node that each state becomes.
    states: HashMap<String, String>,
    /// Ids that are taken.
    taken: HashSet<String>,
    /// Blocks around what is translated.
    depth: usize,
}

impl Translation {
    fn whole(&mut self, value: &Value, name: &str) -> Value {
        let Some(machine) = Machine::read(self, value, "", false) else {
            return Value::Null;
        };
        let mut names = Vec::new();
        machine.names(&mut names);
        if names.len() > MAX_NODES {
            self.refuse("", format!("it has {} states, and a definition at most {MAX_NODES} nodes", names.len()));
            return Value::Null;
        }
        for name in &names {
            if self.states.insert((*name).to_owned(), String::new()).is_some() {
                self.refuse(name, "another state has this name; within one machine names are unique");
            }
        }
        for (name, id) in names.iter().zip(allowed_ids(names.iter().copied())) {
            self.taken.insert(id.clone());
            self.states.insert((*name).to_owned(), id);
        }
        let mut definition = json!({"name": name});
        if let Some(comment) = &machine.comment {
            definition["description"] = json!(comment);
        }
        let graph = match &machine.timeout {
            None => self.body(&machine, &Around::run(), None),
            // a run has no timeout of its own, a block has
            Some(timeout) => {
                let id = self.id("machine", "");
                let around = Around::run().within(&id, None);
                let body = self.body(&machine, &around, None);
                graph::Graph::of(
                    json!({"id": id, "type": "if", "when": "true", "timeout": timeout, "then": body.value()}),
                )
            }
        };
        graph.write(&mut definition);
        definition
    }

    fn refuse(&mut self, state: &str, reason: impl Into<String>) {
        let refusal = Refusal { state: (!state.is_empty()).then(|| state.to_owned()), reason: reason.into() };
        if self.refusals.len() < MAX_REFUSALS && !self.refusals.contains(&refusal) {
            self.refusals.push(refusal);
        }
    }

    /// The value, or the refusal of this state and what stands for the value until then.
    fn or_refuse<T>(&mut self, state: &str, field: &str, value: Result<T, String>, otherwise: T) -> T {
        value.unwrap_or_else(|why| {
            self.refuse(state, format!("{field}: {why}"));
            otherwise
        })
    }

    /// The node that a state becomes.
    fn node(&self, state: &str) -> String {
        self.states.get(state).cloned().unwrap_or_default()
    }

    /// An id for another node, made of this one and what it is for.
    fn id(&mut self, base: &str, what: &str) -> String {
        let base: String = base.chars().take(MAX_ID - 40).collect();
        let what: String = what.chars().take(20).collect();
        let stem = if what.is_empty() { base } else { format!("{base}.{what}") };
        let mut id = stem.clone();
        let mut number = 1;
        while !self.taken.insert(id.clone()) {
            number += 1;
            id = format!("{stem}.{number}");
        }
        id
    }
}

/// A text as an expression spells it.
fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

/// Whether a name may follow a dot.
fn is_plain(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// What a node gave, as an expression reads it.
fn output(id: &str) -> String {
    if is_plain(id) { format!("nodes.{id}.output") } else { format!("nodes[\"{id}\"].output") }
}

/// What the frame of a block's body was given, or its number.
fn frame(id: &str, field: &str) -> String {
    if is_plain(id) { format!("frames.{id}.{field}") } else { format!("frames[\"{id}\"].{field}") }
}

/// An expression as the whole of a template.
fn template(expression: &str) -> Value {
    json!(format!("{{{{ {expression} }}}}"))
}

#[cfg(test)]
mod tests;
