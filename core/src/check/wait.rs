//! One wait or approval: the signals it names, what it asks of them, and how long it waits.

use serde_json::Value;

use super::references::Place;
use super::{CheckedWait, Checker, schema};
use crate::definition::block::MAX_ITERATIONS;
use crate::definition::reminder::MAX_REMINDED_ID;
use crate::definition::wait::{MAX_SIGNAL, MAX_SIGNALS, approval_signal};
use crate::definition::{
    ApprovalDefinition, MAX_ID, MilestoneDefinition, RemindedApproval, ReminderDefinition, WaitDefinition,
};
use crate::duration;
use crate::expression::{Reference, Template};

/// The most approvers that a node names.
const MAX_APPROVERS: usize = 1000;

impl<'d> Checker<'d> {
    pub(super) fn wait(&mut self, number: usize, wait: &'d WaitDefinition, path: &str) -> CheckedWait {
        if !(1..=MAX_SIGNALS).contains(&wait.signals.len()) {
            let fix = format!("name 1 to {MAX_SIGNALS} signals");
            self.wrong(format!("{path}.signals"), format!("there are {} of them", wait.signals.len()), fix);
        }
        let several = wait.signals.len() != 1;
        let mut names = Vec::with_capacity(wait.signals.len());
        for (place, name) in wait.signals.iter().enumerate() {
            let path = if several { format!("{path}.signals[{place}]") } else { format!("{path}.signal") };
            let template = self.template(&path, &Value::from(name.as_str()), Place::Own(number));
            if template.is_constant() && !name.contains("{{") && !is_signal(name) {
                let fix = format!("use 1 to {MAX_SIGNAL} characters, or a template that gives such a text");
                self.wrong(path, "it is no name of a signal", fix);
            }
            names.push(template);
        }
        let matches = wait.matches.as_deref();
        let matches =
            matches.and_then(|text| self.condition(&format!("{path}.match"), text, Some(Place::Match(number))));
        let timeout = self.wait_timeout(number, wait.timeout.as_deref(), path);
        let schema = wait.schema.as_ref();
        let schema = schema.and_then(|schema| schema::compile(&format!("{path}.schema"), schema, &mut self.problems));
        CheckedWait { names, approvers: None, approval: false, reached: None, matches, timeout, schema }
    }

    pub(super) fn approval(
        &mut self,
        number: usize,
        id: &str,
        approval: &'d ApprovalDefinition,
        path: &str,
    ) -> CheckedWait {
        let names = vec![Template::constant(&Value::from(approval_signal(self.around.approval().unwrap_or(id))))];
        let approvers = approval.approvers.as_ref().map(|approvers| {
            if !(1..=MAX_APPROVERS).contains(&approvers.len()) {
                let fix = format!("name 1 to {MAX_APPROVERS}, or leave it out and anyone may answer");
                self.wrong(format!("{path}.approvers"), format!("there are {} of them", approvers.len()), fix);
            }
            let approvers = approvers.iter().enumerate();
            approvers
                .map(|(place, who)| {
                    let path = format!("{path}.approvers[{place}]");
                    self.template(&path, &Value::from(who.as_str()), Place::Own(number))
                })
                .collect()
        });
        let timeout = self.wait_timeout(number, approval.timeout.as_deref(), path);
        let schema = approval.schema.as_ref();
        let schema = schema.and_then(|schema| schema::compile(&format!("{path}.schema"), schema, &mut self.problems));
        CheckedWait { names, approvers, approval: true, reached: None, matches: None, timeout, schema }
    }

    /// Whether nothing is wrong with what the author of an approval with a reminder wrote.
    pub(super) fn reminded(&mut self, number: usize, id: &str, reminded: &'d RemindedApproval, path: &str) -> bool {
        let before = self.problems.len();
        if (MAX_REMINDED_ID + 1..=MAX_ID).contains(&id.len()) {
            let fix = format!("use at most {MAX_REMINDED_ID} characters: the nodes that remind are named after it");
            self.wrong(format!("{path}.id"), "it is too long for an approval with a reminder", fix);
        }
        self.approval(number, id, &reminded.approval, path);
        let ReminderDefinition { handler, after, every, times } = &reminded.reminder;
        self.handler(handler, &format!("{path}.reminder"));
        for (field, time) in [("after", Some(*after)), ("every", *every)] {
            if time.is_some_and(|time| time > duration::MAX || time.is_zero()) {
                let fix = "give a time longer than zero and up to 100 years";
                self.wrong(format!("{path}.reminder.{field}"), "it is out of range", fix);
            }
        }
        if times.is_some_and(|times| !(1..=MAX_ITERATIONS).contains(&times)) {
            let fix = format!("use 1 to {MAX_ITERATIONS}, or leave it out");
            self.wrong(format!("{path}.reminder.times"), "it is out of range", fix);
        }
        self.problems.len() == before
    }

    pub(super) fn milestone(&mut self, number: usize, milestone: &'d MilestoneDefinition, path: &str) -> CheckedWait {
        let reached = self.condition(&format!("{path}.when"), &milestone.when, Some(Place::Own(number)));
        if reached.as_ref().is_some_and(|reached| !reached.references().contains(&Reference::RunContext)) {
            let fix = "wait for something in run.context, such as run.context.paid >= 100";
            self.wrong(format!("{path}.when"), "it does not read the context, so nothing would change it", fix);
        }
        let timeout = self.wait_timeout(number, milestone.timeout.as_deref(), path);
        CheckedWait {
            names: Vec::new(),
            approvers: None,
            approval: false,
            reached,
            matches: None,
            timeout,
            schema: None,
        }
    }

    fn wait_timeout(&mut self, number: usize, timeout: Option<&str>, path: &str) -> Option<Template> {
        timeout.map(|time| {
            let path = format!("{path}.timeout");
            let template = self.template(&path, &Value::from(time), Place::Own(number));
            if template.is_constant() && !time.contains("{{") {
                match duration::parse(time) {
                    Ok(time) if !time.is_zero() => {}
                    Ok(_) => self.wrong(path, "it is zero", "give a time longer than zero, or leave it out"),
                    Err(error) => {
                        let fix = "such as \"30s\", or a template that gives such a text";
                        self.wrong(path, error.to_string(), fix);
                    }
                }
            }
            template
        })
    }
}

/// True for what may name a signal.
pub(crate) fn is_signal(name: &str) -> bool {
    (1..=MAX_SIGNAL).contains(&name.chars().count()) && !name.contains('\0')
}
