//! What is wrong with a definition: where, what, and how to fix it.

use std::collections::HashSet;
use std::fmt;

use serde::Serialize;

/// How many problems the text of [`Problems`] lists.
const SHOWN: usize = 100;

/// One mistake in a definition.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Problem {
    /// Where it is, such as `nodes[2].retry.initial`; empty for the definition as a whole.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub fix: String,
}

impl Problem {
    pub(crate) fn new(path: impl Into<String>, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into(), fix: fix.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "definition" } else { &self.path };
        write!(f, "{path}: {}: {}", self.message, self.fix)
    }
}

/// All mistakes of a definition, never none. Its text has one line for each of the first 100.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// The problems, each once: two expressions of a text may be wrong in the same way.
    pub(crate) fn of(mut problems: Vec<Problem>) -> Self {
        let mut seen = HashSet::with_capacity(problems.len());
        let new: Vec<bool> = problems.iter().map(|problem| seen.insert(problem)).collect();
        drop(seen);
        let mut new = new.into_iter();
        problems.retain(|_| new.next().unwrap_or(true));
        Self(problems)
    }

    /// The problems, in the order they were found.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, problem) in self.0.iter().take(SHOWN).enumerate() {
            if place > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        match self.0.len().checked_sub(SHOWN) {
            Some(more @ 1..) => write!(f, "\nand {more} more problems"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Problems {}
