//! What nodes are given and what the engine's own nodes say, from the values of a run.
//!
//! Nothing here reads storage: the caller has put what `needs` lists into `Values`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use jsonschema::Validator;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{BlockKind, BodyNumber, Graph, Node, NodeNumber, Signal};
use crate::check::{CheckedChange, Program};
use crate::context::Change;
use crate::duration;
use crate::error::{DELAY_INVALID, EXPRESSION_FAILED, ErrorKind, INPUT_INVALID, StepError};
use crate::expression::{Expression, Found, Reference, Scope, Template};
use crate::mock::Mocks;
use crate::payload::Payload;
use crate::state::RunState;

/// How many violations of the input schema an error lists.
const LISTED: usize = 10;

/// What is known of a run from its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFacts {
    /// Its id.
    pub run_id: Uuid,
    /// Its workflow.
    pub workflow: Arc<str>,
    /// The number of its version.
    pub version: i32,
    /// Its idempotency key.
    pub key: Option<String>,
    /// The run that started it, if one did.
    pub parent: Option<Uuid>,
    /// Its input; null where nothing needs it.
    pub input: Payload,
    /// What answers for its nodes, in test mode.
    pub mocks: Option<Arc<Mocks>>,
}

/// How a node ended. A skipped node has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeResult {
    /// Its output.
    Completed(Payload),
    /// Its [`StepError`] as JSON.
    Failed(Payload),
}

/// What is known of one frame: an instance of a block, or of one of its bodies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameFacts {
    /// Its number.
    pub frame: i32,
    /// The frame of the block's node; for a body, the frame that stands for the block.
    pub parent: i32,
    /// The block.
    pub block: NodeNumber,
    /// Which attempt of the block.
    pub attempt: i32,
    /// The item, the pass, or which of the block's bodies; -1 for an instance that is no body.
    pub iteration: i32,
    /// It stands for the block's attempt.
    pub whole: bool,
    /// Attempts of the block that failed before.
    pub failed: i16,
    /// How many iterations there are and how they go on, for an instance of a block that runs them at once.
    pub bounds: Option<Bounds>,
    /// What a body was given; null for an instance that is no body.
    pub input: Payload,
    /// The frames that led to it: the last passes, of a `while` that keeps only some; the body or the catch, before a `finally`.
    pub before: Vec<i32>,
    /// It is live, and all around it are, as far as that concerns it (see [`concerning`]).
    pub live: bool,
    /// It is the body of a `finally`: what is closed around it does not concern it.
    pub finally: bool,
    /// When it began.
    pub created_at: Option<DateTime<Utc>>,
}

/// The frames around a step whose closing takes it along, 0 being its run: all of them, but what is around a `finally` lets that go on.
pub fn concerning(frames: &[FrameFacts]) -> impl Iterator<Item = i32> + '_ {
    let from = frames.iter().rposition(|frame| frame.finally);
    let run = from.is_none().then_some(0);
    run.into_iter().chain(frames.iter().skip(from.unwrap_or(0)).map(|frame| frame.frame))
}

/// How the iterations of a block that runs them at once go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// How many there are.
    pub count: i32,
    /// How many begin together.
    pub chunk: i32,
    /// How many chunks go on at a time.
    pub ahead: i32,
    /// How many may fail.
    pub tolerated: i32,
    /// How many must complete; 0: all.
    pub need: i32,
}

/// The values of a run that are at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values {
    /// The run itself.
    pub run: Arc<RunFacts>,
    /// The frames around the step, the outermost first; none in the run's own graph.
    pub frames: Arc<[FrameFacts]>,
    /// Results of ended nodes, at least those the node in question needs.
    pub results: BTreeMap<NodeNumber, NodeResult>,
    /// The run's context when the step began, where the node in question needs it.
    pub context: Option<Payload>,
}

impl Values {
    /// The values of a run of which no node has ended.
    pub fn new(run: Arc<RunFacts>) -> Self {
        Self { run, frames: Arc::default(), results: BTreeMap::new(), context: None }
    }

    /// The innermost body around the step; none in the run's own graph.
    pub fn body_frame(&self) -> Option<&FrameFacts> {
        self.frames.iter().rev().find(|frame| frame.iteration >= 0)
    }
}

/// How long a `delay` node waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    /// This long.
    For(Duration),
    /// Until this time; one that has passed means not at all.
    Until(DateTime<Utc>),
}

/// How a `terminate` node ends its run.
#[derive(Clone, Debug, PartialEq)]
pub struct Termination {
    /// Completed, failed or canceled.
    pub state: RunState,
    /// The run's output; null unless completed.
    pub output: Payload,
    /// The run's error, if failed.
    pub error: Option<StepError>,
}

/// What an expression may see besides the results.
#[derive(Clone, Copy, Default)]
pub(crate) struct Extra<'a> {
    /// The node's own ending, for the conditions of its edges.
    pub own: Option<(NodeNumber, &'a NodeResult)>,
    /// What `error` means.
    pub error: Option<&'a Payload>,
    /// What `input` means.
    pub input: Option<&'a Payload>,
    /// What `signal` means.
    pub signal: Option<&'a Signal>,
}

impl Graph {
    /// Checks a run's input against the schema; the error `input_invalid` says where it is wrong.
    pub fn check_input(&self, input: &Payload) -> Result<(), StepError> {
        let Some((_, validator)) = &self.input_schema else {
            return Ok(());
        };
        let value: Value = input.parse().map_err(|error| {
            StepError::permanent(INPUT_INVALID, &format!("the run's input cannot be read: {error}"))
        })?;
        if validator.is_valid(&value) {
            return Ok(());
        }
        let wrong = violations(validator, "input", &value, LISTED);
        let message: Vec<_> = wrong.iter().map(|(path, why)| format!("{path}: {why}")).collect();
        let details: Vec<_> = wrong.iter().map(|(path, why)| json!({"path": path, "message": why})).collect();
        Err(StepError::permanent(INPUT_INVALID, &message.join("; ")).with_details(json!({"problems": details})))
    }

    /// A node's input: its template if it has one; else the run's input for an entry node, the output (or error)
    /// of its only predecessor as it is, or an object of its completed predecessors' outputs by id.
    pub fn input(&self, number: NodeNumber, values: &Values) -> Result<Payload, StepError> {
        let Some(node) = self.node(number) else {
            return Ok(Payload::null());
        };
        if let Some(template) = &node.input {
            return self.render(template, node, values, None);
        }
        match node.predecessors() {
            [] => Ok(values.body_frame().map_or(&values.run.input, |frame| &frame.input).clone()),
            [only] => Ok(match values.results.get(only) {
                Some(NodeResult::Completed(payload) | NodeResult::Failed(payload)) => payload.clone(),
                None => Payload::null(),
            }),
            many => Ok(self.completed(many, values)),
        }
    }

    /// The output of a `set` node.
    pub fn set_output(&self, number: NodeNumber, values: &Values, input: &Payload) -> Result<Payload, StepError> {
        match self.own(number)? {
            (node, Program::Set(template)) => self.render(template, node, values, Some(input)),
            (node, _) => Err(other_type(node, "set")),
        }
    }

    /// What a `context` node changes, in order.
    pub fn changes(&self, number: NodeNumber, values: &Values, input: &Payload) -> Result<Vec<Change>, StepError> {
        let (node, program) = self.own(number)?;
        let Program::Context(changes) = program else {
            return Err(other_type(node, "context"));
        };
        let change = |change: &CheckedChange| {
            let value = self.render(&change.value, node, values, Some(input))?;
            Ok(Change { op: change.op, path: change.path.clone(), value })
        };
        changes.iter().map(change).collect()
    }

    /// How long a `delay` node waits; the error `delay_invalid` if its template gives no time.
    pub fn delay(&self, number: NodeNumber, values: &Values) -> Result<Delay, StepError> {
        let (node, program) = self.own(number)?;
        match program {
            Program::DelayFor(template) => {
                let text = self.render_text(template, node, values)?;
                let time = duration::parse(&text);
                time.map(Delay::For).map_err(|error| StepError::permanent(DELAY_INVALID, &error.to_string()))
            }
            Program::DelayUntil(template) => {
                let text = self.render_text(template, node, values)?;
                let time = DateTime::parse_from_rfc3339(&text);
                time.map(|time| Delay::Until(time.to_utc())).map_err(|_| {
                    let text: String = text.chars().take(60).collect();
                    let message =
                        format!("`{text}` is no time: give RFC 3339 with a zone, such as 2030-01-31T08:00:00Z");
                    StepError::permanent(DELAY_INVALID, &message)
                })
            }
            _ => Err(other_type(node, "delay")),
        }
    }

    /// The error with which a `fail` node fails. `Err` if its templates cannot be evaluated; the node fails with
    /// that instead.
    pub fn failure(&self, number: NodeNumber, values: &Values) -> Result<StepError, StepError> {
        match self.own(number)? {
            (node, Program::Fail { name, message, retryable }) => {
                let told = self.told(name, message, node, values)?;
                Ok(if *retryable { StepError { kind: ErrorKind::Retryable, ..told } } else { told })
            }
            (node, _) => Err(other_type(node, "fail")),
        }
    }

    /// How a `terminate` node ends the run. `Err` if its templates cannot be evaluated.
    pub fn termination(&self, number: NodeNumber, values: &Values) -> Result<Termination, StepError> {
        let (node, program) = self.own(number)?;
        let Program::Terminate { state, output, error } = program else {
            return Err(other_type(node, "terminate"));
        };
        let output = match output {
            Some(template) => {
                let input = self.input(number, values)?;
                self.render(template, node, values, Some(&input))?
            }
            None => Payload::null(),
        };
        let error = match error {
            Some((name, message)) => {
                let mut told = self.told(name, message, node, values)?;
                told.node = Some(node.id.to_string());
                Some(told)
            }
            None => None,
        };
        Ok(Termination { state: *state, output, error })
    }

    /// A body's output: the definition's template, else the only sink's output, or an object of the completed sinks' outputs by id.
    pub fn body_output(&self, body: BodyNumber, values: &Values) -> Result<Payload, StepError> {
        let Some(body) = self.body(body) else {
            return Ok(Payload::null());
        };
        if let Some(template) = &body.output {
            let find = |reference: &Reference| self.find(reference, values, Extra::default());
            return template.render(&Scope::new(&find));
        }
        match body.sinks() {
            [only] => Ok(match values.results.get(only) {
                Some(NodeResult::Completed(output)) => output.clone(),
                _ => Payload::null(),
            }),
            many => Ok(self.completed(many, values)),
        }
    }

    /// What a reference leads to.
    pub(crate) fn find(&self, reference: &Reference, values: &Values, extra: Extra<'_>) -> Found {
        let json = |payload: Option<&Payload>| payload.cloned().map_or(Found::Null, Found::Json);
        let result = |id: &str| {
            let number = self.number(id)?;
            let own = extra.own.filter(|(own, _)| *own == number).map(|(_, result)| result);
            own.or_else(|| values.results.get(&number))
        };
        match reference {
            Reference::RunId => Found::Text(values.run.run_id.to_string()),
            Reference::RunWorkflow => Found::Text(values.run.workflow.to_string()),
            Reference::RunVersion => Found::Number(i64::from(values.run.version)),
            Reference::RunKey => values.run.key.clone().map_or(Found::Null, Found::Text),
            Reference::RunParent => match values.run.parent {
                Some(parent) => Found::Json(Payload::trusted(format!("{{\"run_id\":\"{parent}\"}}").into())),
                None => Found::Null,
            },
            Reference::RunInput => Found::Json(values.run.input.clone()),
            Reference::RunContext => json(values.context.as_ref()),
            // of queries, which find them themselves
            Reference::RunState | Reference::State(_) => Found::Null,
            Reference::Output(id) => match result(id) {
                Some(NodeResult::Completed(payload)) => Found::Json(payload.clone()),
                _ => Found::Null,
            },
            Reference::Failure(id) => match result(id) {
                Some(NodeResult::Failed(payload)) => Found::Json(payload.clone()),
                _ => Found::Null,
            },
            Reference::Error => json(extra.error),
            Reference::Input => json(extra.input),
            Reference::SignalName => extra.signal.map_or(Found::Null, |signal| Found::Text(signal.name.clone())),
            Reference::SignalPayload => json(extra.signal.map(|signal| &signal.payload)),
            Reference::Item | Reference::Index | Reference::FrameInput(_) | Reference::FrameIndex(_) => {
                let Some(frame) = self.frame_named(reference, values) else {
                    return Found::Null;
                };
                match reference {
                    Reference::Item | Reference::FrameInput(_) => Found::Json(frame.input.clone()),
                    _ => Found::Number(i64::from(frame.iteration)),
                }
            }
        }
    }

    /// The frame of a body that a reference names: the innermost, that of the innermost foreach, or that of a block by id.
    fn frame_named<'v>(&self, reference: &Reference, values: &'v Values) -> Option<&'v FrameFacts> {
        let named = |frame: &&FrameFacts| match reference {
            Reference::FrameInput(Some(id)) | Reference::FrameIndex(Some(id)) => self.id(frame.block) == id,
            Reference::Item | Reference::Index => {
                let block = self.node(frame.block).and_then(Node::block);
                block.is_some_and(|block| matches!(block.kind, BlockKind::Foreach { .. }))
            }
            _ => true,
        };
        values.frames.iter().rev().filter(|frame| frame.iteration >= 0).find(named)
    }

    /// An object of the completed nodes' outputs by id; their texts are copied as they are.
    fn completed(&self, numbers: &[NodeNumber], values: &Values) -> Payload {
        let mut text = String::from("{");
        for (number, node) in numbers.iter().filter_map(|number| Some((number, self.node(*number)?))) {
            if let Some(NodeResult::Completed(output)) = values.results.get(number) {
                if text.len() > 1 {
                    text.push(',');
                }
                // An id needs no escapes: check::is_id.
                text.push('"');
                text.push_str(&node.id);
                text.push_str("\":");
                text.push_str(output.as_str());
            }
        }
        text.push('}');
        Payload::trusted(Arc::from(text))
    }

    /// What a template of a block gives, where `input` is this.
    pub(crate) fn rendered(
        &self,
        template: &Template,
        node: &Node,
        values: &Values,
        input: &Payload,
    ) -> Result<Payload, StepError> {
        self.render(template, node, values, Some(input))
    }

    /// Whether a condition of a block holds, where `input` is this.
    pub(crate) fn holds(
        &self,
        when: &Expression,
        node: &Node,
        values: &Values,
        input: &Payload,
    ) -> Result<bool, StepError> {
        let find = |reference: &Reference| {
            self.find(reference, values, Extra { error: error(node, values), input: Some(input), ..Extra::default() })
        };
        when.is_true(&Scope::new(&find))
    }

    pub(super) fn own(&self, number: NodeNumber) -> Result<(&Node, &Program), StepError> {
        let node = self.node(number).ok_or_else(|| {
            StepError::permanent(EXPRESSION_FAILED, &format!("this version has no node number {number}"))
        })?;
        Ok((node, &node.program))
    }

    fn render(
        &self,
        template: &Template,
        node: &Node,
        values: &Values,
        input: Option<&Payload>,
    ) -> Result<Payload, StepError> {
        let find = |reference: &Reference| {
            self.find(reference, values, Extra { error: error(node, values), input, ..Extra::default() })
        };
        template.render(&Scope::new(&find))
    }

    /// The text of a template that may read the node's own input.
    pub(super) fn render_text(&self, template: &Template, node: &Node, values: &Values) -> Result<String, StepError> {
        let input = self.input(node.number, values)?;
        let extra = Extra { error: error(node, values), input: Some(&input), ..Extra::default() };
        let find = |reference: &Reference| self.find(reference, values, extra);
        template.render_text(&Scope::new(&find))
    }

    fn told(&self, name: &Template, message: &Template, node: &Node, values: &Values) -> Result<StepError, StepError> {
        let name = self.render_text(name, node, values)?;
        let message = self.render_text(message, node, values)?;
        let name = if name.is_empty() { "failed" } else { &name };
        Ok(StepError::permanent(name, &message))
    }
}

/// What `error` means in a node: the error of its only predecessor; in an entry node of a body, what the body was given (only in a `catch` is it
/// allowed there).
pub(super) fn error<'v>(node: &Node, values: &'v Values) -> Option<&'v Payload> {
    match node.predecessors() {
        [] => values.body_frame().map(|frame| &frame.input),
        [only] => match values.results.get(only) {
            Some(NodeResult::Failed(error)) => Some(error),
            _ => None,
        },
        _ => None,
    }
}

/// Where a value breaks a schema and why, the first of all.
pub(super) fn violations(validator: &Validator, root: &str, value: &Value, listed: usize) -> Vec<(String, String)> {
    let wrong = validator.iter_errors(value).take(listed).map(|error| {
        let why: String = error.to_string().chars().take(300).collect();
        (format!("{root}{}", error.instance_path()), why)
    });
    wrong.collect()
}

pub(super) fn other_type(node: &Node, word: &str) -> StepError {
    let message = format!("node `{}` is of type {}, not {word}", node.id, node.kind.word());
    StepError::permanent(EXPRESSION_FAILED, &message)
}

#[cfg(test)]
mod tests;
