//! What a program means, read off `ops/REFERENCE.md` node by node: a naive recursive interpreter that goes through a program with what a run of it
//! was given, and says of each node in each frame what must have become of it. It shares no code with the engine.
//!
//! What depends on time is not decided but asked of the record, and allowed or not: which of several failures came first, what was still out when a
//! frame was closed, which branches were the first, which signal a wait took or whether its time was over first, when a cancel came. Everything else
//! has one answer: inputs, outputs, errors, outcomes, the number of failed attempts, iterations. A frame that completed has no canceled node in it;
//! what was canceled has a frame around it that did not complete.

mod block;

use std::cell::RefCell;
use std::collections::HashSet;

use serde_json::{Value, json};

use super::program::{Body, Edge, Kind, Known, Node, On, OnError, Retry, Scope, Termination};
use super::record::{Attempt, Record};
use super::script::{Script, error, output};

/// What is wrong with a run, as a sentence.
pub type Wrong = String;

/// How a node ended.
#[derive(Clone, Debug)]
enum End {
    Completed(Value),
    GaveUp(Value),
    /// A wait's time is over, and an edge says what then.
    TimedOut(Value),
    Skipped,
    /// It did not end: it was canceled, or not begun.
    Open,
}

/// How a body or a block ended.
#[derive(Clone, Debug)]
enum Ended {
    Completed(Value),
    Failed(Value),
    Canceled,
}

struct Interpreter<'a> {
    record: &'a Record,
    /// Steps and frames that the program accounts for.
    steps: RefCell<HashSet<(i32, String)>>,
    frames: RefCell<HashSet<i32>>,
    /// How `terminate` nodes ended the run, those that ran.
    terminations: RefCell<Vec<Ended>>,
    /// Some frames of passes were not kept.
    forgets: bool,
}

/// Compare a run of this program with its record. `canceled`: somebody asked for its cancellation.
pub fn check(program: &Body, input: &Value, canceled: bool, record: &Record) -> Result<(), Wrong> {
    let run = Interpreter {
        record,
        steps: RefCell::default(),
        frames: RefCell::default(),
        terminations: RefCell::default(),
        forgets: program.all().iter().any(|node| matches!(node.kind, Kind::While { keep: Some(_), .. })),
    };
    let scope = Scope { run_input: input.clone(), ..Scope::default() };
    let ended = match record.state {
        3 => Ended::Completed(record.output.clone().unwrap_or_default()),
        4 => Ended::Failed(record.error.clone().unwrap_or_default()),
        5 => Ended::Canceled,
        state => return Err(format!("the run is in state {state}")),
    };
    let terminated = program.all().iter().any(|node| {
        let ran = |((_, id), attempts): (&(i32, String), &Vec<Attempt>)| {
            *id == node.id && attempts.iter().any(|a| a.outcome == 1)
        };
        matches!(node.kind, Kind::Terminate(_)) && record.attempts.iter().any(ran)
    });
    // a run that was terminated stops where it is; so does one that was canceled
    run.body(program, 0, if terminated { &Ended::Canceled } else { &ended }, &scope)?;
    if terminated {
        let same = |termination: &Ended| match (termination, &ended) {
            (Ended::Completed(one), Ended::Completed(other)) | (Ended::Failed(one), Ended::Failed(other)) => {
                one == other
            }
            (Ended::Canceled, Ended::Canceled) => true,
            _ => false,
        };
        let as_asked = canceled && matches!(ended, Ended::Canceled);
        if !as_asked && !run.terminations.borrow().iter().any(same) {
            // what ends a run at the same instant may be first; its own record says that it completed all the same
            run.body(program, 0, &ended, &scope).map_err(|wrong| {
                format!("it was terminated with one of {:?}, and not: {wrong}", run.terminations.borrow())
            })?;
        }
    } else if matches!(ended, Ended::Canceled) && !canceled {
        return Err("the run is canceled, and nobody asked for it".to_owned());
    }
    run.nothing_else()
}

impl Interpreter<'_> {
    /// The record has nothing that the program does not account for.
    fn nothing_else(&self) -> Result<(), Wrong> {
        let (steps, frames) = (self.steps.borrow(), self.frames.borrow());
        for frame in self.record.known.iter().filter(|frame| !frames.contains(frame)) {
            if !self.forgets || self.record.leads_to_the_run(*frame) {
                return Err(format!("frame {frame} should not be"));
            }
        }
        let known = |frame: i32| frame == 0 || frames.contains(&frame);
        for (step, attempts) in &self.record.attempts {
            if !steps.contains(step) && (known(step.0) || !self.forgets) {
                return Err(format!("{} in frame {} should not have been decided: {attempts:?}", step.1, step.0));
            }
        }
        Ok(())
    }

    /// A body in this frame, which ended so.
    fn body(&self, body: &Body, frame: i32, ended: &Ended, outer: &Scope) -> Result<(), Wrong> {
        let mut scope = outer.clone();
        let mut ends: Vec<End> = Vec::new();
        let mut unhandled = Vec::new();
        for (place, node) in body.nodes.iter().enumerate() {
            let edges: Vec<&Edge> = body.edges.iter().filter(|edge| edge.to == place).collect();
            let mut tokens = Vec::new();
            for edge in &edges {
                tokens.push(taken(body, edge, &ends[edge.from], &scope));
            }
            let resolved = tokens.iter().filter(|token| token.is_some()).count();
            let took = tokens.iter().filter(|token| **token == Some(true)).count();
            let whole = resolved == edges.len();
            // with a single edge there is nothing to join
            let need = if edges.len() > 1 { node.need } else { 0 };
            let starts = edges.is_empty() || if need > 0 { took >= need } else { whole && took > 0 };
            let about = |wrong: Wrong| format!("{} in frame {frame}: {wrong}", node.id);
            let attempts = self.record.attempts(frame, &node.id);
            let end = if starts {
                self.steps.borrow_mut().insert((frame, node.id.clone()));
                let mut own = scope.clone();
                self.give(body, place, &edges, &ends, &mut own);
                self.node(
                    node,
                    frame,
                    attempts,
                    &own,
                    body.edges.iter().any(|edge| edge.from == place && edge.on == On::Timeout),
                )
                .map_err(about)?
            } else if whole {
                self.steps.borrow_mut().insert((frame, node.id.clone()));
                match attempts {
                    [] => End::Open,
                    [skip] if (skip.number, skip.outcome) == (0, 5) => End::Skipped,
                    other => return Err(about(format!("it should have been skipped: {other:?}"))),
                }
            } else {
                // what leads to it has not ended
                End::Open
            };
            match &end {
                End::Completed(output) => _ = scope.nodes.insert(node.id.clone(), Known::Output(output.clone())),
                End::GaveUp(error) | End::TimedOut(error) => {
                    scope.nodes.insert(node.id.clone(), Known::Error(error.clone()));
                    let mut leaving = body.edges.iter().filter(|edge| edge.from == place);
                    if !leaving.any(|edge| taken(body, edge, &end, &scope) == Some(true)) {
                        // a failure that nothing takes leads nowhere
                        unhandled.push(error.clone());
                        ends.push(End::Open);
                        continue;
                    }
                }
                End::Skipped | End::Open => {}
            }
            ends.push(end);
        }
        let about = |what: String| Err(format!("frame {frame}: {what}"));
        match ended {
            Ended::Completed(found) => {
                if let Some(error) = unhandled.first() {
                    return about(format!("it completed in spite of {error}"));
                }
                if let Some(at) = ends.iter().position(|end| matches!(end, End::Open)) {
                    return about(format!("it completed, but {} has not ended", body.nodes[at].id));
                }
                let given = self.gives(body, &ends, &scope);
                if given != *found {
                    return about(format!("it gave {found}, not {given}"));
                }
            }
            Ended::Failed(found) => {
                if !unhandled.contains(found) {
                    return about(format!("it failed with {found}, its nodes with {unhandled:?}"));
                }
            }
            Ended::Canceled => {}
        }
        Ok(())
    }

    /// What a body that completed gives.
    fn gives(&self, body: &Body, ends: &[End], scope: &Scope) -> Value {
        if let Some(output) = &body.output {
            return output.value(scope);
        }
        let sinks: Vec<usize> =
            (0..body.nodes.len()).filter(|place| !body.edges.iter().any(|edge| edge.from == *place)).collect();
        match sinks.as_slice() {
            [only] => match &ends[*only] {
                End::Completed(output) => output.clone(),
                _ => Value::Null,
            },
            many => completed(body, many, ends),
        }
    }

    /// What a node is given: `input` and `error` of its scope.
    fn give(&self, body: &Body, place: usize, edges: &[&Edge], ends: &[End], scope: &mut Scope) {
        let mut before: Vec<usize> = edges.iter().map(|edge| edge.from).collect();
        before.sort_unstable();
        before.dedup();
        scope.error = match before.as_slice() {
            [] => scope.given().clone(),
            [only] => match &ends[*only] {
                End::GaveUp(error) | End::TimedOut(error) => error.clone(),
                _ => Value::Null,
            },
            _ => Value::Null,
        };
        scope.input = match (&body.nodes[place].input, before.as_slice()) {
            (Some(input), _) => input.value(scope),
            (None, []) => scope.given().clone(),
            (None, [only]) => match &ends[*only] {
                End::Completed(value) | End::GaveUp(value) | End::TimedOut(value) => value.clone(),
                End::Skipped | End::Open => Value::Null,
            },
            (None, many) => completed(body, many, ends),
        };
    }

    /// A node that was to begin, with its attempts.
    fn node(
        &self,
        node: &Node,
        frame: i32,
        attempts: &[Attempt],
        scope: &Scope,
        has_late_edge: bool,
    ) -> Result<End, Wrong> {
        for (attempt, number) in attempts.iter().zip(1..) {
            if attempt.number != number {
                return Err(format!("the attempts are not numbered from 1: {attempts:?}"));
            }
        }
        // what was lost or given back says nothing
        let tries: Vec<&Attempt> = attempts.iter().filter(|attempt| !matches!(attempt.outcome, 3 | 6)).collect();
        let mut failed = 0;
        let mut failures = Vec::new();
        for (at, attempt) in tries.iter().enumerate() {
            let last = at + 1 == tries.len();
            // a step whose worker dies five times while it runs nothing else is given up
            let poison = error("lost", "permanent");
            let lost = attempts.iter().filter(|attempt| attempt.outcome == 3).count();
            let result = if lost >= 5 && attempt.error.as_ref() == Some(&poison) {
                Ended::Failed(poison)
            } else if node.kind.is_block() {
                self.block(node, frame, attempt.number, failed, scope)?
            } else {
                self.attempt(node, frame, attempt, failed, scope)?
            };
            if attempt.outcome == 4 {
                return if last {
                    Ok(End::Open)
                } else {
                    Err(format!("it went on after its cancellation: {attempts:?}"))
                };
            }
            let end = match result {
                Ended::Canceled => {
                    return Err(format!("attempt {} was cut off, and has outcome {}", attempt.number, attempt.outcome));
                }
                Ended::Completed(value) => (1, Some(&value).cloned(), End::Completed(value)),
                Ended::Failed(why) => {
                    failed += 1;
                    if attempt.error.as_ref() != Some(&why) {
                        return Err(format!("attempt {} has the error {:?}, not {why}", attempt.number, attempt.error));
                    }
                    failures.push(why.clone());
                    if again(&policies(node), &failures) {
                        if attempt.outcome != 2 || self.terminates(node) {
                            return Err(format!("attempt {} should have failed: {attempt:?}", attempt.number));
                        }
                        continue;
                    }
                    let late = matches!(node.kind, Kind::Wait(..)) && why["kind"] == "timeout" && has_late_edge;
                    if late {
                        (2, None, End::TimedOut(why))
                    } else {
                        let mut scope = scope.clone();
                        scope.error = why.clone();
                        match &node.on_error {
                            OnError::Fail | OnError::Route => (2, None, End::GaveUp(why)),
                            OnError::Continue => (1, Some(why.clone()), End::Completed(why)),
                            OnError::Fallback(value) => {
                                (1, Some(value.value(&scope)), End::Completed(value.value(&scope)))
                            }
                            OnError::Skip => (2, None, End::Skipped),
                        }
                    }
                }
            };
            let (outcome, value, end) = end;
            if (attempt.outcome, &attempt.output) != (outcome, &value) {
                return Err(format!(
                    "attempt {} should have outcome {outcome} and the output {value:?}: {attempt:?}",
                    attempt.number
                ));
            }
            if !last {
                return Err(format!("it was tried again after it had ended: {attempts:?}"));
            }
            return Ok(if self.terminates(node) { End::Open } else { end });
        }
        // it did not come to an end; a block may have begun
        let next = i32::try_from(attempts.len()).unwrap_or(i32::MAX).saturating_add(1);
        if node.kind.is_block() && self.record.whole(frame, &node.id, next).is_some() {
            let ended = self.block(node, frame, next, failed, scope)?;
            if !matches!(ended, Ended::Canceled) {
                return Err(format!("it ended {ended:?}, and its attempt is not on record"));
            }
        }
        Ok(End::Open)
    }

    fn terminates(&self, node: &Node) -> bool {
        matches!(node.kind, Kind::Terminate(_))
    }

    /// An attempt of a node that is no block.
    fn attempt(
        &self,
        node: &Node,
        frame: i32,
        attempt: &Attempt,
        failed: usize,
        scope: &Scope,
    ) -> Result<Ended, Wrong> {
        Ok(match &node.kind {
            Kind::Task => {
                let fails = Script::of(&node.id).and_then(|script| script.error(&scope.input, failed, scope.failed));
                match fails {
                    Some(error) => Ended::Failed(error),
                    None => Ended::Completed(output(&scope.input)),
                }
            }
            Kind::Set(output) => Ended::Completed(output.value(scope)),
            Kind::Fail(name) => Ended::Failed(error(name, "permanent")),
            Kind::Terminate(how) => {
                let (output, ended) = match how {
                    Termination::Completed(output) => (output.value(scope), Ended::Completed(output.value(scope))),
                    Termination::Failed(name) => (Value::Null, Ended::Failed(error(name, "permanent"))),
                    Termination::Canceled => (Value::Null, Ended::Canceled),
                };
                if attempt.outcome == 1 {
                    self.terminations.borrow_mut().push(ended);
                }
                Ended::Completed(output)
            }
            Kind::Wait(names, when) => {
                if attempt.outcome == 4 {
                    return Ok(Ended::Canceled);
                }
                let names: Vec<String> = names.iter().map(|name| name.value(scope)).collect();
                let for_it = |name: &str, payload: &Value| {
                    let scope = Scope { payload: payload.clone(), ..scope.clone() };
                    names.iter().any(|known| known == name) && when.as_ref().is_none_or(|when| when.holds(&scope))
                };
                let own = (frame, node.id.clone());
                let Some(taken) = self.record.signals.iter().find(|signal| signal.taken.as_ref() == Some(&own)) else {
                    return match node.timeout {
                        Some(timeout) if attempt.took_ms >= i64::from(timeout) => {
                            Ok(Ended::Failed(error("timeout", "timeout")))
                        }
                        _ => Err(format!("it took no signal and ended before its time: {attempt:?}")),
                    };
                };
                if !for_it(&taken.name, &taken.payload) {
                    return Err(format!("it took {taken:?}, which is not for it (it waits for {names:?})"));
                }
                let passed_by = |signal: &&super::record::Signal| {
                    signal.id < taken.id && signal.taken.is_none() && for_it(&signal.name, &signal.payload)
                };
                if let Some(before) = self.record.signals.iter().find(passed_by) {
                    return Err(format!("it took {taken:?}, but {before:?} was sent before"));
                }
                Ended::Completed(json!({"signal": taken.name, "payload": taken.payload}))
            }
            _ => return Err("it is a block".to_owned()),
        })
    }
}

/// Whether an edge is taken; none while its node has not ended.
fn taken(body: &Body, edge: &Edge, end: &End, scope: &Scope) -> Option<bool> {
    let (outcome, known) = match end {
        End::Open => return None,
        End::Skipped => return Some(false),
        End::Completed(output) => (On::Success, Known::Output(output.clone())),
        End::GaveUp(error) => (On::Failure, Known::Error(error.clone())),
        End::TimedOut(error) => (On::Timeout, Known::Error(error.clone())),
    };
    if edge.on != outcome && edge.on != On::Always {
        return Some(false);
    }
    let mut scope = scope.clone();
    scope.error = if let Known::Error(error) = &known { error.clone() } else { Value::Null };
    scope.nodes.insert(body.nodes[edge.from].id.clone(), known);
    Some(edge.when.as_ref().is_none_or(|when| when.holds(&scope)))
}

/// The outputs of those of these that completed, by id.
fn completed(body: &Body, places: &[usize], ends: &[End]) -> Value {
    let output = |place: &usize| match &ends[*place] {
        End::Completed(output) => Some((body.nodes[*place].id.clone(), output.clone())),
        _ => None,
    };
    places.iter().filter_map(output).collect()
}

/// Whether the last of these failures is followed by another attempt: the first policy that lists it says so, by those of them that it is the first for.
fn again(policies: &[Retry], failures: &[Value]) -> bool {
    let listed = |retry: &Retry, error: &Value| {
        retry.on.is_empty() || retry.on.iter().any(|word| error["name"] == json!(word) || error["kind"] == json!(word))
    };
    let first = |error: &Value| policies.iter().position(|retry| listed(retry, error));
    let Some((last, policy)) = failures.last().and_then(|last| Some((last, first(last)?))) else { return false };
    let own = failures.iter().filter(|error| first(error) == Some(policy)).count();
    matches!(last["kind"].as_str(), Some("retryable" | "timeout" | "panic")) && own < policies[policy].max_attempts
}

/// A task is tried three times where it does not say otherwise, a block once.
fn policies(node: &Node) -> Vec<Retry> {
    match node.kind {
        Kind::Task if node.retry.is_empty() => vec![Retry { max_attempts: 3, on: Vec::new() }],
        _ => node.retry.clone(),
    }
}
