//! The fields of a JSON object, read one by one; what is wrong with one is noted where it is read.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

use super::Problem;
use crate::duration;

/// A definition while it is read.
pub(super) struct Reading {
    /// What is wrong so far.
    pub problems: Vec<Problem>,
    /// How many more nodes there may be.
    pub nodes: usize,
    /// How many more edges there may be.
    pub edges: usize,
    /// How many blocks are around.
    pub depth: usize,
    /// There are too many nodes or edges: nothing comes of it, and no more are read.
    pub full: bool,
}

impl Reading {
    pub(super) fn wrong(&mut self, path: impl Into<String>, message: impl Into<String>, fix: impl Into<String>) {
        self.problems.push(Problem::new(path, message, fix));
    }
}

/// The fields of one object; each getter notes a problem when the field has the wrong shape. `null` counts as
/// not given, except for templates, where it is a value.
pub(super) struct Fields<'v, 'r> {
    map: &'v Map<String, Value>,
    path: String,
    pub reading: &'r mut Reading,
}

impl<'v, 'r> Fields<'v, 'r> {
    /// Opens an object and notes its unknown fields.
    pub(super) fn open(value: &'v Value, path: String, known: &[&str], reading: &'r mut Reading) -> Option<Self> {
        let Value::Object(map) = value else {
            reading.wrong(path, "it is no object", format!("write an object with {}", list(known)));
            return None;
        };
        let mut fields = Self { map, path, reading };
        for name in map.keys().filter(|name| !known.contains(&name.as_str())) {
            let short: String = name.chars().take(60).collect();
            let fix = format!("remove it; the fields here are {}", list(known));
            fields.wrong(&short, "there is no such field", fix);
        }
        Some(fields)
    }

    pub(super) fn at(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    pub(super) fn wrong(&mut self, name: &str, message: impl Into<String>, fix: impl Into<String>) {
        self.reading.wrong(self.at(name), message, fix);
    }

    pub(super) fn get(&self, name: &str) -> Option<&'v Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// The fields of an object within this one; `None` when it is not given.
    pub(super) fn inner(&mut self, name: &str, known: &[&str]) -> Option<Fields<'v, '_>> {
        let value = self.get(name)?;
        Fields::open(value, self.at(name), known, self.reading)
    }

    /// The value of a template's field, which may be `null`.
    pub(super) fn any(&self, name: &str) -> Option<Value> {
        self.map.get(name).cloned()
    }

    pub(super) fn given(&self, name: &str) -> Option<Value> {
        self.get(name).cloned()
    }

    /// The members of an object; none when it is not given.
    pub(super) fn map(&mut self, name: &str, fix: &str) -> BTreeMap<String, Value> {
        match self.get(name) {
            None => BTreeMap::new(),
            Some(Value::Object(map)) => map.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            Some(other) => {
                self.wrong(name, format!("{} is no object", Short(other)), fix);
                BTreeMap::new()
            }
        }
    }

    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        match self.get(name)? {
            Value::String(text) => Some(text.clone()),
            other => {
                self.wrong(name, format!("{} is no text", Short(other)), "write it in quotes");
                None
            }
        }
    }

    pub(super) fn needed_text(&mut self, name: &str) -> String {
        if self.get(name).is_none() {
            self.wrong(name, "it is missing", "give it");
        } else if self.get(name).and_then(Value::as_str) == Some("") {
            self.wrong(name, "it is empty", "give it");
        }
        self.text(name).unwrap_or_default()
    }

    pub(super) fn texts(&mut self, name: &str) -> Option<Vec<String>> {
        let texts = self
            .get(name)?
            .as_array()
            .and_then(|items| items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>());
        if texts.is_none() {
            self.wrong(name, "it is no list of texts", "write a list such as [\"timeout\", \"busy\"]");
        }
        texts
    }

    pub(super) fn duration(&mut self, name: &str) -> Option<Duration> {
        let text = self.text(name)?;
        match duration::parse(&text) {
            Ok(duration) if !duration.is_zero() || name == "initial" => Some(duration),
            Ok(_) => {
                self.wrong(name, "it is zero", "give a time longer than zero, or leave it out");
                None
            }
            Err(error) => {
                self.wrong(name, error.to_string(), "such as \"30s\" or \"1h30m\"");
                None
            }
        }
    }

    pub(super) fn number(&mut self, name: &str) -> Option<f64> {
        let value = self.get(name)?;
        let number = value.as_f64();
        if number.is_none() {
            self.wrong(name, format!("{} is no number", Short(value)), "write a number without quotes");
        }
        number
    }

    pub(super) fn count(&mut self, name: &str) -> Option<u32> {
        let value = self.get(name)?;
        let count = value.as_u64().and_then(|count| u32::try_from(count).ok());
        if count.is_none() {
            self.wrong(name, format!("{} is no whole number", Short(value)), "write a whole number, at least 1");
        }
        count
    }

    pub(super) fn flag(&mut self, name: &str) -> Option<bool> {
        let value = self.get(name)?;
        if value.as_bool().is_none() {
            self.wrong(
                name,
                format!("{} is neither true nor false", Short(value)),
                "write true or false without quotes",
            );
        }
        value.as_bool()
    }

    /// The items of a list; the first of them when there are more than `most`, which is noted.
    pub(super) fn list(&mut self, name: &str, most: usize) -> &'v [Value] {
        match self.get(name) {
            Some(Value::Array(items)) if items.len() > most => {
                let fix = format!("use at most {most}; split the workflow");
                self.wrong(name, format!("there are {} of them", items.len()), fix);
                items.get(..most).unwrap_or_default()
            }
            Some(Value::Array(items)) => items,
            Some(_) => {
                self.wrong(name, "it is no list", "write a list");
                &[]
            }
            None => &[],
        }
    }
}

/// A value in a message, cut to a few words.
struct Short<'a>(&'a Value);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let cut: String = text.chars().take(40).collect();
        write!(f, "`{cut}{}`", if cut.len() < text.len() { "…" } else { "" })
    }
}

fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
