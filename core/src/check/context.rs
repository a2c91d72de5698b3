//! What touches the run's context: the value it begins with, the changes of a node, and what may be asked of a run.

use std::collections::BTreeMap;

use serde_json::Value;

use super::references::Place;
use super::{CheckedChange, Checker, ID_FIX, check_name};
use crate::context::{MAX_BYTES, Op};
use crate::definition::context::{ContextDefinition, MAX_CHANGES, path as names};
use crate::definition::{Definition, is_id};
use crate::expression::Expression;

/// The most queries of a definition.
const MAX_QUERIES: usize = 100;

impl<'d> Checker<'d> {
    /// The context that a run begins with.
    pub(super) fn start_context(&mut self, definition: &Definition) {
        match &definition.context {
            None => {}
            Some(Value::Object(map)) => {
                let bytes = Value::Object(map.clone()).to_string().len();
                if bytes > MAX_BYTES {
                    self.wrong("context", format!("it has {bytes} bytes"), format!("use at most {MAX_BYTES}"));
                }
            }
            Some(_) => self.wrong("context", "it is no object", "write an object, such as {\"paid\": 0}"),
        }
    }

    /// What may be asked of a run, by name.
    pub(super) fn queries(&mut self, definition: &Definition) -> BTreeMap<String, Expression> {
        if definition.queries.len() > MAX_QUERIES {
            let message = format!("there are {} of them", definition.queries.len());
            self.wrong("queries", message, format!("use at most {MAX_QUERIES}"));
        }
        let mut queries = BTreeMap::new();
        for (name, text) in definition.queries.iter().take(MAX_QUERIES) {
            let path = format!("queries.{}", name.chars().take(60).collect::<String>());
            match is_id(name) {
                true => check_name(&path, name, &mut self.problems),
                false => self.wrong(&path, "it is no name", ID_FIX),
            }
            let query = self.condition(&path, text, Some(Place::Query));
            queries.extend(query.map(|query| (name.clone(), query)));
        }
        queries
    }

    /// The changes of one node, in the order they are made.
    pub(super) fn context(&mut self, number: usize, context: &'d ContextDefinition, path: &str) -> Vec<CheckedChange> {
        let mut changes = Vec::new();
        for (word, at_paths) in context.at_paths() {
            for (at, value) in at_paths {
                let path = format!("{path}.{word}.{}", at.chars().take(60).collect::<String>());
                if let Err(why) = names(at) {
                    self.wrong(&path, why, "write names with dots between them, such as totals.paid");
                }
                let value = self.template(&path, value, Place::Own(number));
                let op = Op::of(word).unwrap_or(Op::Set);
                changes.push(CheckedChange { op, path: names(at).unwrap_or_default(), value });
            }
        }
        if let Some(patch) = &context.merge {
            let path = format!("{path}.merge");
            if !patch.is_object() && !patch.is_string() {
                self.wrong(&path, "it is no object", "write an object, or a template of one");
            }
            let value = self.template(&path, patch, Place::Own(number));
            changes.push(CheckedChange { op: Op::Merge, path: Vec::new(), value });
        }
        if changes.len() > MAX_CHANGES {
            self.wrong(path, format!("it makes {} changes", changes.len()), format!("make at most {MAX_CHANGES}"));
        }
        changes
    }
}
