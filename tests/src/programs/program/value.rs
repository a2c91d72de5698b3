//! Templates and conditions: their text in a definition, and what they are worth.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The name of a signal: a text, and a value that follows it.
#[derive(Clone, Debug)]
pub struct SignalName {
    /// The text.
    pub text: String,
    /// What follows it, behind a dash.
    pub of: Option<Path>,
}

/// A template.
#[derive(Clone, Debug)]
pub enum Giving {
    /// As it stands.
    Const(Value),
    /// What a path leads to.
    Of(Path),
    /// An object of such.
    Object(Vec<(String, Giving)>),
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Root {
    /// `run.input`
    RunInput,
    /// `frame.input`, or `frames.<id>.input`
    FrameInput(Option<String>),
    /// `frame.index`, or `frames.<id>.index`
    FrameIndex(Option<String>),
    /// `item`
    Item,
    /// `index`
    Index,
    /// `input`
    Input,
    /// `error`
    Error,
    /// `nodes.<id>.output`
    Output(String),
    /// `signal.payload`
    Payload,
}

/// A root and at most one field of it.
#[derive(Clone, Debug)]
pub struct Path {
    /// The root.
    pub root: Root,
    /// The field.
    pub field: Option<String>,
}

/// A condition.
#[derive(Clone, Debug)]
pub enum Condition {
    /// It is one of these, or (false) none of them.
    In(Path, Vec<i64>, bool),
    /// It is this text, or (false) another.
    Is(Path, String, bool),
    /// Both.
    And(Box<Condition>, Box<Condition>),
    /// One at least.
    Or(Box<Condition>, Box<Condition>),
}

/// How a node ended, for those who read it.
#[derive(Clone, Debug)]
pub enum Known {
    /// Its output.
    Output(Value),
    /// Its error.
    Error(Value),
}

/// A frame around what is evaluated.
#[derive(Clone, Debug)]
pub struct Around {
    /// The block's id.
    pub block: String,
    /// It is a `foreach`.
    pub foreach: bool,
    /// What it was given.
    pub input: Value,
    /// Its number.
    pub index: usize,
}

/// What templates and conditions may read.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// The run's input.
    pub run_input: Value,
    /// The frames around, the innermost last.
    pub frames: Vec<Around>,
    /// Nodes that have ended, by id.
    pub nodes: BTreeMap<String, Known>,
    /// `input`
    pub input: Value,
    /// `error`
    pub error: Value,
    /// `signal.payload`
    pub payload: Value,
    /// How often blocks around have failed before.
    pub failed: usize,
}

impl Scope {
    /// What entry nodes are given.
    pub fn given(&self) -> &Value {
        self.frames.last().map_or(&self.run_input, |frame| &frame.input)
    }

    fn frame(&self, of: impl Fn(&Around) -> bool) -> Option<&Around> {
        self.frames.iter().rev().find(|frame| of(frame))
    }
}

impl Path {
    pub(super) fn text(&self) -> String {
        let root = match &self.root {
            Root::RunInput => "run.input".to_owned(),
            Root::FrameInput(None) => "frame.input".to_owned(),
            Root::FrameIndex(None) => "frame.index".to_owned(),
            Root::FrameInput(Some(block)) => format!("frames.{block}.input"),
            Root::FrameIndex(Some(block)) => format!("frames.{block}.index"),
            Root::Item => "item".to_owned(),
            Root::Index => "index".to_owned(),
            Root::Input => "input".to_owned(),
            Root::Error => "error".to_owned(),
            Root::Output(id) => format!("nodes[\"{id}\"].output"),
            Root::Payload => "signal.payload".to_owned(),
        };
        self.field.iter().fold(root, |root, field| format!("{root}.{field}"))
    }

    /// What it leads to; null where that is nowhere.
    pub fn value(&self, scope: &Scope) -> Value {
        let named = |id: &Option<String>| scope.frame(|frame| id.as_ref().is_none_or(|id| *id == frame.block));
        let root = match &self.root {
            Root::RunInput => Some(scope.run_input.clone()),
            Root::FrameInput(id) => named(id).map(|frame| frame.input.clone()),
            Root::FrameIndex(id) => named(id).map(|frame| json!(frame.index)),
            Root::Item => scope.frame(|frame| frame.foreach).map(|frame| frame.input.clone()),
            Root::Index => scope.frame(|frame| frame.foreach).map(|frame| json!(frame.index)),
            Root::Input => Some(scope.input.clone()),
            Root::Error => Some(scope.error.clone()),
            Root::Output(id) => match scope.nodes.get(id) {
                Some(Known::Output(output)) => Some(output.clone()),
                _ => None,
            },
            Root::Payload => Some(scope.payload.clone()),
        };
        let root = root.unwrap_or(Value::Null);
        match &self.field {
            None => root,
            Some(field) => root.get(field).cloned().unwrap_or(Value::Null),
        }
    }
}

impl Giving {
    /// Its JSON.
    pub fn json(&self) -> Value {
        match self {
            Self::Const(value) => value.clone(),
            Self::Of(path) => json!(format!("{{{{ {} }}}}", path.text())),
            Self::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), value.json())).collect(),
        }
    }

    /// What it gives.
    pub fn value(&self, scope: &Scope) -> Value {
        match self {
            Self::Const(value) => value.clone(),
            Self::Of(path) => path.value(scope),
            Self::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), value.value(scope))).collect(),
        }
    }
}

impl Condition {
    /// Its text.
    pub fn text(&self) -> String {
        match self {
            Self::In(path, list, yes) => format!("{} {}in {list:?}", path.text(), if *yes { "" } else { "not " }),
            Self::Is(path, text, yes) => format!("{} {} '{text}'", path.text(), if *yes { "==" } else { "!=" }),
            Self::And(one, other) => format!("({}) and ({})", one.text(), other.text()),
            Self::Or(one, other) => format!("({}) or ({})", one.text(), other.text()),
        }
    }

    /// Whether it holds.
    pub fn holds(&self, scope: &Scope) -> bool {
        match self {
            Self::In(path, list, yes) => {
                path.value(scope).as_i64().is_some_and(|number| list.contains(&number)) == *yes
            }
            Self::Is(path, text, yes) => (path.value(scope).as_str() == Some(text)) == *yes,
            Self::And(one, other) => one.holds(scope) && other.holds(scope),
            Self::Or(one, other) => one.holds(scope) || other.holds(scope),
        }
    }
}

impl SignalName {
    /// The name.
    pub fn value(&self, scope: &Scope) -> String {
        let of = |path: &Path| match path.value(scope) {
            Value::Null => format!("{}-", self.text),
            value => format!("{}-{value}", self.text),
        };
        self.of.as_ref().map_or_else(|| self.text.clone(), of)
    }

    pub(super) fn json(&self) -> String {
        let of = |path: &Path| format!("{}-{{{{ {} }}}}", self.text, path.text());
        self.of.as_ref().map_or_else(|| self.text.clone(), of)
    }
}
