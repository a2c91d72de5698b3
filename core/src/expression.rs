//! The language of `when` and of templates: MiniJinja expressions over what a run has produced.
//!
//! An expression is bounded in size, work and result, reads only what its static references name, and is compiled
//! once for a version. A missing path is null as a value and the empty text inside text; inside text values are
//! spelled as in JSON.

mod document;
mod functions;
mod parse;
mod path;
mod slice;
mod template;
mod work;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use minijinja::value::Value;

pub use template::{Template, plain, plain_text};

use crate::error::{EXPRESSION_FAILED, StepError};
use crate::payload::Payload;
use functions::ENVIRONMENT;
use parse::{Parsed, Step};

/// Something an expression reads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    /// `run.id`.
    RunId,
    /// `run.workflow`.
    RunWorkflow,
    /// `run.version`.
    RunVersion,
    /// `run.key`.
    RunKey,
    /// `run.parent`: null, or `run_id` of the run that started it.
    RunParent,
    /// `run.input`.
    RunInput,
    /// `run.context`, as it was when the node began.
    RunContext,
    /// `run.state`, in queries.
    RunState,
    /// `nodes.<id>.state`, in queries.
    State(String),
    /// `nodes.<id>.output`.
    Output(String),
    /// `nodes.<id>.error`.
    Failure(String),
    /// `error`: of the node an edge leaves, of a node's only predecessor, or, in an entry node of a `catch`, the
    /// caught one.
    Error,
    /// `input`: the node's own input.
    Input,
    /// `signal.name`: of the signal that a `match` is asked about.
    SignalName,
    /// `signal.payload`: what came with it.
    SignalPayload,
    /// `item`: of the nearest `foreach` around.
    Item,
    /// `index`: the number of that item.
    Index,
    /// What a frame was given: `frame.input` is that of the nearest body around, `frames.<block>.input` that of the
    /// block with this id around.
    FrameInput(Option<String>),
    /// The number of a frame: `frame.index` or `frames.<block>.index`.
    FrameIndex(Option<String>),
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RunId => f.write_str("run.id"),
            Self::RunWorkflow => f.write_str("run.workflow"),
            Self::RunVersion => f.write_str("run.version"),
            Self::RunKey => f.write_str("run.key"),
            Self::RunParent => f.write_str("run.parent"),
            Self::RunInput => f.write_str("run.input"),
            Self::RunContext => f.write_str("run.context"),
            Self::RunState => f.write_str("run.state"),
            Self::State(id) => write!(f, "nodes.{id}.state"),
            Self::Output(id) => write!(f, "nodes.{id}.output"),
            Self::Failure(id) => write!(f, "nodes.{id}.error"),
            Self::Error => f.write_str("error"),
            Self::Input => f.write_str("input"),
            Self::SignalName => f.write_str("signal.name"),
            Self::SignalPayload => f.write_str("signal.payload"),
            Self::Item => f.write_str("item"),
            Self::Index => f.write_str("index"),
            Self::FrameInput(None) => f.write_str("frame.input"),
            Self::FrameInput(Some(id)) => write!(f, "frames.{id}.input"),
            Self::FrameIndex(None) => f.write_str("frame.index"),
            Self::FrameIndex(Some(id)) => write!(f, "frames.{id}.index"),
        }
    }
}

/// What a reference leads to.
#[derive(Clone, Debug)]
pub enum Found {
    /// A JSON value.
    Json(Payload),
    /// A text.
    Text(String),
    /// A whole number.
    Number(i64),
    /// Nothing: null.
    Null,
}

impl Found {
    /// The value; the error when it is JSON that no reader takes, such as what was started from SQL with a thousand
    /// brackets or a number of a thousand digits.
    fn value(&self) -> Result<Value, serde_json::Error> {
        Ok(match self {
            Self::Json(payload) => Value::from_serialize(payload.parse::<serde_json::Value>()?),
            Self::Text(text) => Value::from(text.as_str()),
            Self::Number(number) => Value::from(*number),
            Self::Null => Value::from(()),
        })
    }
}

/// The values that expressions read, each looked up and parsed once however many expressions read it, and the work
/// that is left to them. It lives as long as one decision.
pub struct Scope<'a> {
    find: &'a dyn Fn(&Reference) -> Found,
    parsed: RefCell<BTreeMap<Reference, Value>>,
    work: Cell<u64>,
}

impl<'a> Scope<'a> {
    /// A scope whose references are looked up by `find`.
    pub fn new(find: &'a dyn Fn(&Reference) -> Found) -> Self {
        Self { find, parsed: RefCell::new(BTreeMap::new()), work: Cell::new(work::MAX_WORK) }
    }

    fn value(&self, reference: &Reference) -> Result<Value, minijinja::Error> {
        if let Some(known) = self.parsed.borrow().get(reference) {
            return Ok(known.clone());
        }
        let value = (self.find)(reference).value().map_err(|error| {
            let why = format!("{reference} cannot be read: {error}");
            minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, why)
        })?;
        self.parsed.borrow_mut().insert(reference.clone(), value.clone());
        Ok(value)
    }
}

impl fmt::Debug for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").finish_non_exhaustive()
    }
}

/// A compiled expression.
pub struct Expression {
    text: Arc<str>,
    references: Vec<Reference>,
    path: Option<Vec<Step>>,
    program: minijinja::Expression<'static, 'static>,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.text).finish()
    }
}

impl Expression {
    /// Compiles a bare expression. The error is a sentence for the author.
    pub fn compile(text: &str) -> Result<Self, String> {
        if text.trim_start().starts_with("{{") {
            return Err("a bare expression is expected: leave out the `{{` and `}}`".to_owned());
        }
        if text.len() > parse::MAX_SOURCE {
            return Err(format!("the expression is longer than {} bytes", parse::MAX_SOURCE));
        }
        Self::of(text.trim(), parse::bare(text)?)
    }

    /// Compiles the expression at the start of `text` up to the `}}` that closes it; how many bytes that was.
    fn compile_until_close(text: &str) -> Result<(Self, usize), String> {
        let parsed = parse::until_close(text)?;
        let end = parsed.end;
        let source = text.get(..end.saturating_sub(2)).unwrap_or_default().trim();
        Ok((Self::of(source, parsed)?, end))
    }

    fn of(text: &str, parsed: Parsed) -> Result<Self, String> {
        let program = ENVIRONMENT
            .compile_expression_owned(parsed.source)
            .map_err(|error| error.detail().map_or_else(|| error.kind().to_string(), str::to_owned))?;
        Ok(Self { text: Arc::from(text), references: parsed.references, path: parsed.path, program })
    }

    /// The expression as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What it reads.
    pub fn references(&self) -> &[Reference] {
        &self.references
    }

    /// Whether the value is true, as MiniJinja sees it: not null, false, 0, or an empty text, list or object.
    pub fn is_true(&self, scope: &Scope<'_>) -> Result<bool, StepError> {
        Ok(self.value(scope)?.is_true())
    }

    /// The value as JSON.
    pub fn payload(&self, scope: &Scope<'_>) -> Result<Payload, StepError> {
        Ok(Payload::trusted(self.json(scope)?.into()))
    }

    /// The value as JSON text.
    fn json(&self, scope: &Scope<'_>) -> Result<String, StepError> {
        if let (Some(steps), [reference]) = (&self.path, self.references.as_slice())
            && let Found::Json(payload) = (scope.find)(reference)
        {
            let cost = work::units(payload.as_str()) * (1 + steps.len() as u64);
            work::within(&scope.work, || work::pay_units(cost)).map_err(|error| self.failed(&error))?;
            if let Some(found) = path::walk(payload.as_str(), steps) {
                return Ok(found.to_owned());
            }
        }
        functions::json(&self.value(scope)?).map_err(|error| self.failed(&error))
    }

    /// Adds the value as text.
    fn add_text(&self, scope: &Scope<'_>, out: &mut String) -> Result<(), StepError> {
        out.push_str(&functions::text(&self.value(scope)?).map_err(|error| self.failed(&error))?);
        Ok(())
    }

    fn value(&self, scope: &Scope<'_>) -> Result<Value, StepError> {
        let variables = (0..)
            .zip(&self.references)
            .map(|(place, reference): (usize, _)| Ok((format!("r{place}"), scope.value(reference)?)))
            .collect::<Result<Vec<_>, _>>();
        let evaluate = |variables: Vec<(String, Value)>| {
            work::within(&scope.work, || self.program.eval(Value::from_iter(variables)))
        };
        variables.and_then(evaluate).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &minijinja::Error) -> StepError {
        let why = match error.kind() {
            minijinja::ErrorKind::OutOfFuel => "it takes too much work".to_owned(),
            kind => error.detail().map_or_else(|| kind.to_string(), str::to_owned),
        };
        StepError::permanent(EXPRESSION_FAILED, &format!("expression `{}` failed: {why}", self.text))
    }
}

#[cfg(test)]
mod tests;
