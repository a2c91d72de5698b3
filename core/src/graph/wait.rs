//! Waits of a compiled version: what a node waits for and which signal is for it. How it waits is in `attempt`.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::values::{error, other_type, violations};
use super::{Extra, Graph, NodeNumber, Values};
use crate::check::{CheckedWait, Program, is_signal};
use crate::duration;
use crate::error::{ErrorKind, StepError, TIMEOUT, WAIT_INVALID};
use crate::expression::{Reference, Scope, Template};
use crate::payload::Payload;

/// How many violations of its schema a refusal lists.
const LISTED: usize = 5;

/// What a step says when it begins to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The signals it waits for.
    pub names: Vec<String>,
    /// It asks more of them than the name.
    pub picky: bool,
    /// How long.
    pub timeout: Option<Duration>,
}

/// A signal that was sent to a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    /// Its number: of two signals the one that was sent first has the smaller.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// What came with it.
    pub payload: Payload,
    /// When it was sent.
    pub sent_at: DateTime<Utc>,
}

impl Signal {
    /// The output of a wait that took it.
    fn output(&self) -> Payload {
        let name = Value::from(self.name.as_str());
        let sent_at = self.sent_at_text();
        // the payload's text is copied as it is
        let payload = self.payload.as_str();
        Payload::trusted(format!("{{\"signal\":{name},\"payload\":{payload},\"sent_at\":\"{sent_at}\"}}").into())
    }

    /// The output of an approval that took it.
    fn answer(&self) -> Payload {
        let payload: Value = self.payload.parse().unwrap_or_default();
        let part = |name: &str| payload.get(name).cloned().unwrap_or_default();
        let answer = json!({"answer": part("answer"), "by": part("by"), "at": self.sent_at_text()});
        Payload::of(&answer).unwrap_or_default()
    }

    fn sent_at_text(&self) -> String {
        self.sent_at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
    }
}

/// A signal that is for a waiting step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The signal.
    pub signal: i64,
    /// Why it is refused: the step waits on. None: it is what the step waited for.
    pub refused: Option<String>,
}

impl Graph {
    /// What a `wait` node waits for; the error `wait_invalid` if a template gives no name or no time.
    pub fn announcement(&self, number: NodeNumber, values: &Values) -> Result<Announcement, StepError> {
        let wait = self.wait(number)?;
        let (node, _) = self.own(number)?;
        let mut names = Vec::with_capacity(wait.names.len());
        if wait.reached.is_some() {
            // no signal has that name: every look at the run's waits is for it
            names.push(String::new());
        }
        for template in &wait.names {
            let name = self.render_text(template, node, values)?;
            if !is_signal(&name) {
                let short: String = name.chars().take(60).collect();
                return Err(StepError::permanent(WAIT_INVALID, &format!("`{short}` is no name of a signal")));
            }
            names.push(name);
        }
        // who may answer is asked with each answer: what cannot be evaluated then fails the step here
        self.approvers(number, wait, values)?;
        names.sort_unstable();
        names.dedup();
        let timeout = match &wait.timeout {
            Some(template) => {
                let text = self.render_text(template, node, values)?;
                let time = duration::parse(&text);
                Some(time.map_err(|error| StepError::permanent(WAIT_INVALID, &error.to_string()))?)
            }
            None => None,
        };
        Ok(Announcement {
            names,
            picky: wait.matches.is_some() || wait.schema.is_some() || wait.approval || wait.reached.is_some(),
            timeout,
        })
    }

    /// Whether what a `milestone` node waits for is so. A condition that cannot be evaluated is not: the context may change again.
    pub fn is_reached(&self, number: NodeNumber, values: &Values) -> bool {
        let (Ok(wait), Some(node)) = (self.wait(number), self.node(number)) else { return false };
        let Some(reached) = &wait.reached else { return false };
        let input = self.input(number, values).unwrap_or_default();
        self.holds(reached, node, values, &input).unwrap_or_else(|error| {
            tracing::debug!(run_id = %values.run.run_id, node = %node.id, %error, "a milestone cannot be evaluated: it waits on");
            false
        })
    }

    /// Which of these signals, in the order they were sent, are for the waiting node: those it refuses, then the one it takes, if any. One whose
    /// `match` cannot be evaluated is not for it.
    pub fn judge(&self, number: NodeNumber, values: &Values, signals: &[Signal]) -> Result<Vec<Verdict>, StepError> {
        let wait = self.wait(number)?;
        let mut verdicts = Vec::new();
        for signal in signals.iter().filter(|signal| self.is_for(number, wait, values, signal)) {
            let refused = match self.approvers(number, wait, values)? {
                approvers if wait.approval => wait.is_no_answer(&signal.payload, approvers.as_deref()),
                _ => wait.breaks_schema(&signal.payload),
            };
            let taken = refused.is_none();
            verdicts.push(Verdict { signal: signal.id, refused });
            if taken {
                break;
            }
        }
        Ok(verdicts)
    }

    /// The output of a node that took this signal.
    pub fn taken(&self, number: NodeNumber, signal: &Signal) -> Payload {
        match self.wait(number) {
            Ok(CheckedWait { approval: true, .. }) => signal.answer(),
            _ => signal.output(),
        }
    }

    fn approvers(
        &self,
        number: NodeNumber,
        wait: &CheckedWait,
        values: &Values,
    ) -> Result<Option<Vec<String>>, StepError> {
        let (node, _) = self.own(number)?;
        let texts =
            |approvers: &Vec<Template>| approvers.iter().map(|who| self.render_text(who, node, values)).collect();
        wait.approvers.as_ref().map(texts).transpose()
    }

    fn is_for(&self, number: NodeNumber, wait: &CheckedWait, values: &Values, signal: &Signal) -> bool {
        let (Some(matches), Some(node)) = (&wait.matches, self.node(number)) else {
            return true;
        };
        let extra = Extra { error: error(node, values), signal: Some(signal), ..Extra::default() };
        let find = |reference: &Reference| self.find(reference, values, extra);
        matches.is_true(&Scope::new(&find)).unwrap_or_else(|error| {
            tracing::debug!(run_id = %values.run.run_id, node = %node.id, signal = signal.id, %error, "a signal cannot be matched: it is left to others");
            false
        })
    }

    fn wait(&self, number: NodeNumber) -> Result<&CheckedWait, StepError> {
        match self.own(number)? {
            (_, Program::Wait(wait)) => Ok(wait),
            (node, _) => Err(other_type(node, "wait")),
        }
    }
}

impl CheckedWait {
    /// What is wrong with a payload, if anything is.
    fn breaks_schema(&self, payload: &Payload) -> Option<String> {
        self.schema.as_ref()?;
        match payload.parse() {
            Ok(value) => self.violations("payload", &value),
            Err(error) => Some(unreadable(&error)),
        }
    }

    /// Why a payload is no answer to an approval, if it is none.
    fn is_no_answer(&self, payload: &Payload, approvers: Option<&[String]>) -> Option<String> {
        let value: Value = match payload.parse() {
            Ok(value) => value,
            Err(error) => return Some(unreadable(&error)),
        };
        let Some(answer) = value.get("answer") else {
            return Some("payload: an answer is an object with `answer`, and `by` to say whose it is".to_owned());
        };
        if let Some(approvers) = approvers {
            let by = value.get("by").and_then(Value::as_str);
            if !by.is_some_and(|by| approvers.iter().any(|who| who == by)) {
                let by: String = by.unwrap_or("nobody").chars().take(100).collect();
                return Some(format!("payload.by: {by} is none of the approvers"));
            }
        }
        self.violations("payload.answer", answer)
    }

    fn violations(&self, root: &str, value: &Value) -> Option<String> {
        let validator = self.schema.as_ref().filter(|validator| !validator.is_valid(value))?;
        let wrong = violations(validator, root, value, LISTED).into_iter();
        Some(wrong.map(|(path, why)| format!("{path}: {why}")).collect::<Vec<_>>().join("; "))
    }
}

fn unreadable(error: &serde_json::Error) -> String {
    format!("the payload cannot be read: {error}")
}

/// The error of a wait whose time is over.
pub fn timed_out(names: &[String]) -> StepError {
    let names: Vec<_> = names.iter().filter(|name| !name.is_empty()).take(5).map(String::as_str).collect();
    let message = match names.is_empty() {
        true => "the milestone was not reached in time".to_owned(),
        false => format!("no signal came in time; it waited for {}", names.join(", ")),
    };
    StepError::new(TIMEOUT, ErrorKind::Timeout, &message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::sync::Arc;

    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::definition::Definition;
    use crate::graph::RunFacts;

    fn graph(node: Value) -> Graph {
        let definition = json!({"name": "w", "nodes": [node]});
        Graph::compile(&Definition::from_json(&definition).unwrap_or_else(|problems| panic!("{problems}"))).unwrap()
    }

    fn values(input: &Value) -> Values {
        Values::new(Arc::new(RunFacts {
            run_id: Uuid::nil(),
            workflow: "w".into(),
            version: 1,
            key: None,
            parent: None,
            input: Payload::of(input).unwrap(),
            mocks: None,
        }))
    }

    fn signals(payloads: &[Value]) -> Vec<Signal> {
        let signal = |(id, payload): (i64, &Value)| Signal {
            id,
            name: "s".to_owned(),
            payload: Payload::of(payload).unwrap(),
            sent_at: DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
        };
        (1..).zip(payloads).map(signal).collect()
    }

    #[test]
    fn names_and_time_are_templates() {
        let graph = graph(
            json!({"id": "a", "type": "wait", "signals": ["x", "b:{{ run.input.n }}", "x"], "timeout": "{{ run.input.t }}"}),
        );
        let announced = graph.announcement(0, &values(&json!({"n": 7, "t": "1m"}))).unwrap();
        assert_eq!(
            (announced.names, announced.timeout),
            (vec!["b:7".to_owned(), "x".to_owned()], Some(Duration::from_secs(60)))
        );
        assert!(!announced.picky);
        for input in [json!({"n": "y".repeat(300), "t": "1m"}), json!({"n": 1}), json!({"n": 1, "t": "soon"})] {
            assert_eq!(graph.announcement(0, &values(&input)).unwrap_err().name, WAIT_INVALID, "{input}");
        }
    }

    #[test]
    fn the_first_that_matches_is_taken_and_what_breaks_the_schema_is_refused() {
        let graph =
            graph(json!({"id": "a", "type": "wait", "signal": "s", "match": "signal.payload.n + 0 >= run.input",
            "schema": {"required": ["ok"]}}));
        let judge = |payloads: &[Value]| graph.judge(0, &values(&json!(3)), &signals(payloads)).unwrap();
        assert_eq!(judge(&[json!({"n": 1}), json!(null), json!({"n": "x"})]), []);
        let verdicts = judge(&[json!({"n": 1}), json!({"n": 3}), json!({"n": 4, "ok": 1}), json!({"n": 5, "ok": 1})]);
        assert_eq!(
            verdicts.iter().map(|verdict| (verdict.signal, verdict.refused.is_some())).collect::<Vec<_>>(),
            [(2, true), (3, false)]
        );
    }

    #[test]
    fn an_output_holds_the_payload_as_it_was_sent() {
        let signal = &signals(&[json!({"n": 1.0, "t": "\""})])[0];
        let wait = graph(json!({"id": "a", "type": "wait", "signal": "s"}));
        let output = wait.taken(0, signal);
        assert_eq!(
            output.value(),
            json!({"signal": "s", "payload": {"n": 1.0, "t": "\""}, "sent_at": "2027-01-15T08:00:00Z"})
        );
        let approval = graph(json!({"id": "a", "type": "approval"}));
        let answer = &signals(&[json!({"answer": [1], "by": "ann", "more": 1})])[0];
        assert_eq!(
            approval.taken(0, answer).value(),
            json!({"answer": [1], "by": "ann", "at": "2027-01-15T08:00:00Z"})
        );
    }
}
