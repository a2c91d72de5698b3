//! One node: what its type needs, and its templates.

use std::time::Duration;

use serde_json::Value;

use super::references::Place;
use super::{CheckedNode, Checker, Program, check_name};
use crate::definition::{DelayTime, JoinRule, MAX_ID, NodeDefinition, NodeType, OnError, SubflowMode};
use crate::duration;
use crate::expression::Template;
use crate::retry::RetryPolicies;

impl<'d> Checker<'d> {
    pub(super) fn node(&mut self, number: usize, node: &'d NodeDefinition, path: &str) -> CheckedNode {
        if let Some(queue) = &node.queue {
            check_name(&format!("{path}.queue"), queue, &mut self.problems);
        }
        let input = node.input.as_ref();
        let input = input.map(|input| self.template(&format!("{path}.input"), input, Place::Input(number)));
        let program = self.program(number, node, path);
        if let JoinRule::Count(0) = node.join {
            self.wrong(format!("{path}.join"), "it is zero", "use \"any\" or at least 1");
        }
        let fallback = self.on_error(number, node, path);
        CheckedNode { input, program, fallback }
    }

    /// What the policy on errors asks of the edges, and the output that takes the place of the node's own.
    fn on_error(&mut self, number: usize, node: &'d NodeDefinition, path: &str) -> Option<Template> {
        let path = format!("{path}.on_error");
        let takes_failures = self.around.takes_failures(number);
        match &node.on_error {
            OnError::Fail => {}
            OnError::Route if takes_failures => {}
            OnError::Route => {
                self.wrong(path, "no edge takes a failure", "add an edge with \"on\": \"failure\", or leave it out");
            }
            OnError::Continue | OnError::Fallback(_) | OnError::Skip
                if matches!(node.kind, NodeType::Fail { .. } | NodeType::Terminate { .. }) =>
            {
                self.wrong(
                    path,
                    format!("a node of type {} is there to fail or to end", node.kind.word()),
                    "leave it out",
                );
            }
            OnError::Fallback(output) => {
                return Some(self.template(&format!("{path}.fallback"), output, Place::When(number)));
            }
            OnError::Continue | OnError::Skip => {}
        }
        None
    }

    fn program(&mut self, number: usize, node: &'d NodeDefinition, path: &str) -> Program {
        let mut own = |field: &str, value: &Value| {
            let path = format!("{path}.{field}");
            self.template(&path, value, Place::Own(number))
        };
        match &node.kind {
            NodeType::Task { handler, timeout, retry } => {
                self.handler(handler, path);
                self.patience(*timeout, retry.as_ref(), path);
                Program::Task
            }
            NodeType::Set { output } => Program::Set(own("output", output)),
            NodeType::Delay(DelayTime::For(time)) => {
                let template = own("duration", &Value::from(time.as_str()));
                if template.is_constant()
                    && let Err(error) = duration::parse(time)
                    && !time.contains("{{")
                {
                    let fix = "such as \"5s\", or a template that gives such a text";
                    self.wrong(format!("{path}.duration"), error.to_string(), fix);
                }
                Program::DelayFor(template)
            }
            NodeType::Delay(DelayTime::Until(time)) => {
                let template = own("until", &Value::from(time.as_str()));
                if template.is_constant() && chrono::DateTime::parse_from_rfc3339(time).is_err() && !time.contains("{{")
                {
                    let message = format!("`{}` is no time", time.chars().take(60).collect::<String>());
                    let fix = "write RFC 3339 with a zone, such as \"2030-01-31T08:00:00Z\"";
                    self.wrong(format!("{path}.until"), message, fix);
                }
                Program::DelayUntil(template)
            }
            NodeType::Wait(wait) => Program::Wait(Box::new(self.wait(number, wait, path))),
            NodeType::Approval(approval) => Program::Wait(Box::new(self.approval(number, &node.id, approval, path))),
            NodeType::Milestone(milestone) => Program::Wait(Box::new(self.milestone(number, milestone, path))),
            NodeType::Context(context) => Program::Context(self.context(number, context, path)),
            NodeType::Subflow(subflow) => {
                if !subflow.workflow.is_empty() {
                    check_name(&format!("{path}.workflow"), &subflow.workflow, &mut self.problems);
                }
                self.patience(subflow.timeout, subflow.retry.as_ref(), path);
                if subflow.mode == SubflowMode::Detached && subflow.timeout.is_some() {
                    let fix = "leave it out, or use \"mode\": \"wait\"";
                    self.wrong(format!("{path}.timeout"), "nothing is waited for", fix);
                }
                Program::Task
            }
            NodeType::Fail { name, message, retryable } => Program::Fail {
                name: own("name", &Value::from(name.as_str())),
                message: own("message", &Value::from(message.as_str())),
                retryable: *retryable,
            },
            NodeType::Terminate { state, output, error } => {
                let output = output.as_ref().map(|output| own("output", output));
                let error = error.as_ref().map(|(name, message)| {
                    let name = own("error.name", &Value::from(name.as_str()));
                    (name, own("error.message", &Value::from(message.as_str())))
                });
                if !state.has_ended() {
                    let fix = "use \"completed\", \"failed\" or \"canceled\"";
                    self.wrong(format!("{path}.state"), "a run cannot end so", fix);
                }
                Program::Terminate { state: *state, output, error }
            }
            NodeType::Block(block) => Program::Block(Box::new(self.block(number, node, block, path))),
        }
    }

    pub(super) fn handler(&mut self, handler: &str, path: &str) {
        if handler.len() > MAX_ID || handler.contains(char::is_control) {
            let fix = "use at most 128 characters without control characters";
            self.wrong(format!("{path}.handler"), "it is no handler name", fix);
        }
    }

    /// How long an attempt may take and how often there is another.
    pub(super) fn patience(&mut self, timeout: Option<Duration>, retry: Option<&RetryPolicies>, path: &str) {
        if timeout.is_some_and(|timeout| timeout > duration::MAX || timeout.is_zero()) {
            let fix = "give a time longer than zero and up to 100 years";
            self.wrong(format!("{path}.timeout"), "it is out of range", fix);
        }
        for (field, message, fix) in retry.iter().flat_map(|retry| retry.validate()) {
            self.wrong(format!("{path}.retry{field}"), message, fix);
        }
    }
}
