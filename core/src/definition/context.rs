//! What a `context` node changes of the run's context. What its author writes, and its canonical JSON.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// The most changes that one node makes.
pub const MAX_CHANGES: usize = 100;
/// How deep a path in a context may lead.
pub const MAX_PATH: usize = 32;
/// The longest path in bytes.
pub const MAX_PATH_BYTES: usize = 512;

/// The changes of one node, made in this order; all values are templates. Paths are names with dots between them, such as `totals.paid`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContextDefinition {
    /// The value at each path.
    pub set: BTreeMap<String, Value>,
    /// What is added to the end of the list at each path.
    pub append: BTreeMap<String, Value>,
    /// What is added to the number at each path.
    pub increment: BTreeMap<String, Value>,
    /// A patch of the whole, RFC 7396.
    pub merge: Option<Value>,
}

impl ContextDefinition {
    /// The changes at paths, with the words they have in the definition.
    pub(crate) fn at_paths(&self) -> [(&'static str, &BTreeMap<String, Value>); 3] {
        [("set", &self.set), ("append", &self.append), ("increment", &self.increment)]
    }

    /// Adds its fields to those of its node.
    pub(super) fn write(&self, map: &mut Map<String, Value>) {
        for (word, changes) in self.at_paths().into_iter().filter(|(_, changes)| !changes.is_empty()) {
            map.insert(word.to_owned(), json!(changes));
        }
        super::put(map, "merge", &self.merge);
    }
}

/// The names of a path in a context; the error is a sentence for the author.
pub fn path(text: &str) -> Result<Vec<String>, &'static str> {
    let names: Vec<String> = text.split('.').map(str::to_owned).collect();
    if text.len() > MAX_PATH_BYTES || names.len() > MAX_PATH {
        Err("the path is too long")
    } else if names.iter().any(String::is_empty) || text.contains('\0') {
        Err("it is no path in the context")
    } else {
        Ok(names)
    }
}
