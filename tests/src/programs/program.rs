//! A program: a definition as its author thinks of it, its JSON, and what its templates and conditions are worth. The language of these is a small part of
//! the engine's, read here by hand, so that no code is shared.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// A graph, and what it gives in the end where it says so. Edges lead from smaller to larger places.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// Its edges.
    pub edges: Vec<Edge>,
    /// A template of its output.
    pub output: Option<Giving>,
}

/// An edge between two places of a body.
#[derive(Clone, Debug)]
pub struct Edge {
    /// From here.
    pub from: usize,
    /// To there.
    pub to: usize,
    /// Which outcome takes it.
    pub on: On,
    /// And what must hold then.
    pub when: Option<Condition>,
}

/// The outcome that takes an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// It completed.
    Success,
    /// It gave up.
    Failure,
    /// Either.
    Always,
    /// A wait's time was over.
    Timeout,
}

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Unique in the program. That of a task says what its handler does, see `script`.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// A template of its input.
    pub input: Option<Giving>,
    /// How many of its edges must be taken; 0: all that are taken at all.
    pub need: usize,
    /// What its giving up means.
    pub on_error: OnError,
    /// Of a task or a block.
    pub retry: Option<Retry>,
    /// Of a task, a block or a wait, in milliseconds.
    pub timeout: Option<u32>,
}

/// What giving up means.
#[derive(Clone, Debug)]
pub enum OnError {
    /// The default.
    Fail,
    /// The same, where an edge takes it.
    Route,
    /// It completes with its error.
    Continue,
    /// It completes with this.
    Fallback(Giving),
    /// It counts as skipped.
    Skip,
}

/// How often something is tried.
#[derive(Clone, Debug)]
pub struct Retry {
    /// So many failures are too many.
    pub max_attempts: usize,
    /// Names or kinds of errors; empty: all that may be tried again.
    pub on: Vec<String>,
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Runs the handler `act`.
    Task,
    /// Gives this.
    Set(Giving),
    /// Fails under this name.
    Fail(String),
    /// Ends the run: completed with this, failed under that name, or canceled.
    Terminate(Termination),
    /// Waits for the first of these signals that the condition holds for.
    Wait(Vec<SignalName>, Option<Condition>),
    /// A block.
    Parallel {
        /// Names and bodies.
        branches: Vec<(String, Body)>,
        /// So many must complete; 0: all.
        ends: usize,
        /// See the reference.
        fail_fast: bool,
        /// So many at a time.
        concurrency: Option<usize>,
    },
    /// A block.
    Foreach {
        /// A template of the items.
        items: Giving,
        /// What runs for each.
        body: Body,
        /// So many at a time.
        concurrency: Option<usize>,
        /// So many may fail.
        tolerate: Option<Tolerate>,
    },
    /// A block.
    While {
        /// Whether there is another pass.
        when: Condition,
        /// Not asked before the first.
        do_while: bool,
        /// The most passes.
        most: usize,
        /// It completes after the last.
        stops: bool,
        /// Frames kept.
        keep: Option<usize>,
        /// A pass.
        body: Body,
    },
    /// A block, `if` or `switch`: cases and what runs when none holds.
    Choice {
        /// It is an `if`, of one case.
        is_if: bool,
        /// Conditions and bodies.
        cases: Vec<(Condition, Body)>,
        /// The rest.
        otherwise: Option<Body>,
    },
    /// A block.
    Try {
        /// What is tried.
        body: Body,
        /// What each takes, and what it does.
        catches: Vec<(Vec<String>, Body)>,
        /// In any case.
        finally: Option<Body>,
    },
}

/// How `terminate` ends a run.
#[derive(Clone, Debug)]
pub enum Termination {
    /// With this output.
    Completed(Giving),
    /// With an error of this name.
    Failed(String),
    /// Without either.
    Canceled,
}

/// So many iterations may fail.
#[derive(Clone, Copy, Debug)]
pub enum Tolerate {
    /// So many.
    Count(usize),
    /// So many of a hundred.
    Percent(usize),
}

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
    fn text(&self) -> String {
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

    fn json(&self) -> String {
        let of = |path: &Path| format!("{}-{{{{ {} }}}}", self.text, path.text());
        self.of.as_ref().map_or_else(|| self.text.clone(), of)
    }
}

impl Kind {
    /// The bodies of a block, in the order of its definition.
    pub fn bodies(&self) -> Vec<&Body> {
        match self {
            Self::Parallel { branches, .. } => branches.iter().map(|(_, body)| body).collect(),
            Self::Foreach { body, .. } | Self::While { body, .. } => vec![body],
            Self::Choice { cases, otherwise, .. } => cases.iter().map(|(_, body)| body).chain(otherwise).collect(),
            Self::Try { body, catches, finally } => {
                std::iter::once(body).chain(catches.iter().map(|(_, body)| body)).chain(finally).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The same, to be changed.
    pub fn bodies_mut(&mut self) -> Vec<&mut Body> {
        match self {
            Self::Parallel { branches, .. } => branches.iter_mut().map(|(_, body)| body).collect(),
            Self::Foreach { body, .. } | Self::While { body, .. } => vec![body],
            Self::Choice { cases, otherwise, .. } => cases.iter_mut().map(|(_, body)| body).chain(otherwise).collect(),
            Self::Try { body, catches, finally } => {
                std::iter::once(body).chain(catches.iter_mut().map(|(_, body)| body)).chain(finally).collect()
            }
            _ => Vec::new(),
        }
    }

    /// It holds bodies.
    pub fn is_block(&self) -> bool {
        !self.bodies().is_empty()
    }
}

impl Body {
    /// All nodes, those of bodies within it too.
    pub fn all(&self) -> Vec<&Node> {
        let mut all: Vec<&Node> = self.nodes.iter().collect();
        all.extend(self.nodes.iter().flat_map(|node| node.kind.bodies()).flat_map(Body::all));
        all
    }

    /// A body's part of the definition.
    pub fn json(&self) -> Value {
        let id = |place: usize| &self.nodes[place].id;
        let edge = |edge: &Edge| {
            let on = match edge.on {
                On::Success => "success",
                On::Failure => "failure",
                On::Always => "always",
                On::Timeout => "timeout",
            };
            let mut value = json!({"from": id(edge.from), "to": id(edge.to), "on": on});
            if let Some(when) = &edge.when {
                value["when"] = json!(when.text());
            }
            value
        };
        let mut value = json!({"nodes": self.nodes.iter().map(Node::json).collect::<Vec<_>>()});
        value["edges"] = self.edges.iter().map(edge).collect();
        if let Some(output) = &self.output {
            value["output"] = output.json();
        }
        value
    }

    /// The definition of a workflow of this name.
    pub fn definition(&self, name: &str) -> Value {
        let mut value = self.json();
        value["name"] = json!(name);
        value
    }
}

impl Node {
    fn json(&self) -> Value {
        let (word, mut fields) = self.kind.json();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                fields.insert(name.to_owned(), value);
            }
        };
        put("id", Some(json!(self.id)));
        put("type", Some(json!(word)));
        put("input", self.input.as_ref().map(Giving::json));
        put("join", (self.need > 0).then(|| if self.need == 1 { json!("any") } else { json!(self.need) }));
        put("timeout", self.timeout.map(|ms| json!(format!("{ms}ms"))));
        put("retry", self.retry.as_ref().map(Retry::json));
        put(
            "on_error",
            match &self.on_error {
                OnError::Fail => None,
                OnError::Route => Some(json!("route")),
                OnError::Continue => Some(json!("continue")),
                OnError::Fallback(output) => Some(json!({"fallback": output.json()})),
                OnError::Skip => Some(json!("skip")),
            },
        );
        Value::Object(fields)
    }
}

impl Retry {
    fn json(&self) -> Value {
        let mut value = json!({"max_attempts": self.max_attempts, "initial": "5ms", "jitter": 0});
        if !self.on.is_empty() {
            value["retry_on"] = json!(self.on);
        }
        value
    }
}

impl Kind {
    fn json(&self) -> (&'static str, Map<String, Value>) {
        let (word, value) = match self {
            Self::Task => ("task", json!({"handler": "act"})),
            Self::Set(output) => ("set", json!({"output": output.json()})),
            Self::Fail(name) => ("fail", json!({"name": name})),
            Self::Terminate(Termination::Completed(output)) => {
                ("terminate", json!({"state": "completed", "output": output.json()}))
            }
            Self::Terminate(Termination::Failed(name)) => {
                ("terminate", json!({"state": "failed", "error": {"name": name, "message": "told to"}}))
            }
            Self::Terminate(Termination::Canceled) => ("terminate", json!({"state": "canceled"})),
            Self::Wait(names, when) => {
                let mut value = match names.as_slice() {
                    [only] => json!({"signal": only.json()}),
                    many => json!({"signals": many.iter().map(SignalName::json).collect::<Vec<_>>()}),
                };
                if let Some(when) = when {
                    value["match"] = json!(when.text());
                }
                ("wait", value)
            }
            Self::Parallel { branches, ends, fail_fast, concurrency } => {
                let branch = |(id, body): &(String, Body)| {
                    let mut value = body.json();
                    value["id"] = json!(id);
                    value
                };
                let branches: Vec<Value> = branches.iter().map(branch).collect();
                let mut value = json!({"branches": branches, "fail_fast": fail_fast, "concurrency": concurrency});
                value["ends"] = match ends {
                    0 => json!("all"),
                    1 => json!("any"),
                    many => json!(many),
                };
                ("parallel", value)
            }
            Self::Foreach { items, body, concurrency, tolerate } => {
                let mut value = json!({"items": items.json(), "body": body.json(), "concurrency": concurrency});
                match tolerate {
                    Some(Tolerate::Count(count)) => value["tolerate"] = json!({"count": count}),
                    #[allow(clippy::cast_precision_loss)]
                    Some(Tolerate::Percent(percent)) => value["tolerate"] = json!({"share": *percent as f64 / 100.0}),
                    None => {}
                }
                ("foreach", value)
            }
            Self::While { when, do_while, most, stops, keep, body } => {
                let on_limit = if *stops { "stop" } else { "fail" };
                let mut value = json!({"when": when.text(), "do_while": do_while, "max_iterations": most, "on_limit": on_limit, "body": body.json()});
                if let Some(keep) = keep {
                    value["keep"] = json!(keep);
                }
                ("while", value)
            }
            Self::Choice { is_if: true, cases, otherwise } => {
                let (when, then) = &cases[0];
                let mut value = json!({"when": when.text(), "then": then.json()});
                if let Some(otherwise) = otherwise {
                    value["else"] = otherwise.json();
                }
                ("if", value)
            }
            Self::Choice { cases, otherwise, .. } => {
                let case = |(when, body): &(Condition, Body)| json!({"when": when.text(), "body": body.json()});
                let mut value = json!({"cases": cases.iter().map(case).collect::<Vec<_>>()});
                if let Some(otherwise) = otherwise {
                    value["default"] = otherwise.json();
                }
                ("switch", value)
            }
            Self::Try { body, catches, finally } => {
                let catch = |(on, body): &(Vec<String>, Body)| {
                    let mut value = json!({"body": body.json()});
                    if !on.is_empty() {
                        value["on"] = json!(on);
                    }
                    value
                };
                let mut value = json!({"body": body.json()});
                if !catches.is_empty() {
                    value["catch"] = catches.iter().map(catch).collect();
                }
                if let Some(finally) = finally {
                    value["finally"] = finally.json();
                }
                ("try", value)
            }
        };
        let Value::Object(fields) = value else { unreachable!("an object") };
        (word, fields)
    }
}
