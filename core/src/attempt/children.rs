//! Child runs: what follows from a step that starts one, and from one that waits for its end no more.
//!
//! A step that waits for a run is a wait: announced in the cycle that inserts the run, so the cycle that ends the run sees it. That cycle makes a step job
//! of the waiting step ([`CHILD`](crate::graph::CHILD)), whoever ends the run: the function does it, not its caller. Who claims that job reads in a later
//! snapshot whether the run the step waits for now has ended, and wakes it; a retry may have begun to wait for another meanwhile.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::{Ended, Plan};
use crate::cycle::{NewChild, NewWait, RunEnding};
use crate::definition::{ClosePolicy, SubflowMode};
use crate::error::{self, ErrorKind, StepError};
use crate::graph::TIME_UP;
use crate::payload::Payload;
use crate::queue::StepRef;
use crate::state::RunState;

/// A run that a step starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The run's id, larger than that of the run that starts it: runs are locked in the order of their ids, the parent first.
    pub run_id: Uuid,
    /// Its workflow.
    pub workflow_id: i32,
    /// Its version; the newest if none.
    pub version_id: Option<i32>,
    /// What it is given.
    pub input: Payload,
    /// How many runs are around it.
    pub depth: i16,
    /// Whether the step waits for its end.
    pub mode: SubflowMode,
    /// What becomes of it when the step or its run ends before.
    pub close_policy: ClosePolicy,
    /// How long the step waits.
    pub timeout: Option<Duration>,
}

/// A run that a step waited for, and does no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// The run.
    pub run_id: Uuid,
    /// Its workflow.
    pub workflow: Arc<str>,
    /// What becomes of it.
    pub close_policy: ClosePolicy,
}

impl Plan {
    /// A step starts a run.
    pub(super) fn call(&mut self, index: usize, ended: &Ended<'_>, call: &Call) {
        let step = ended.step;
        let key = StepRef { run_id: step.run_id, frame: step.frame, node: step.node };
        self.batch.children.push(NewChild {
            run_id: call.run_id,
            workflow_id: call.workflow_id,
            version_id: call.version_id,
            input: call.input.clone(),
            priority: step.priority,
            depth: call.depth,
            close_policy: call.close_policy,
            awaited: call.mode == SubflowMode::Wait,
            parent: key,
            parent_attempt: step.attempt,
        });
        match call.mode {
            SubflowMode::Wait => self.batch.waiting.push(NewWait {
                key,
                attempt: step.attempt,
                version_id: step.version_id,
                queue_id: step.queue_id,
                priority: step.priority,
                failed: step.failed,
                names: Vec::new(),
                picky: false,
                timeout: call.timeout,
                timer_queue_id: ended.version.queue_id(TIME_UP),
                child: Some(call.run_id),
            }),
            SubflowMode::Detached => {
                let output = format!("{{\"run_id\":\"{}\"}}", call.run_id);
                self.complete(index, ended, &Payload::trusted(output.into()), true);
            }
        }
    }

    /// A step ends before the run it waited for.
    pub(super) fn leave(&mut self, ended: &Ended<'_>, left: &Left) {
        match left.close_policy {
            ClosePolicy::Abandon => {}
            ClosePolicy::RequestCancel => self.batch.asks.push((left.run_id, ended.step.run_id)),
            // a step of this batch may end it already
            ClosePolicy::Terminate if self.batch.endings.iter().any(|ending| ending.run_id == left.run_id) => {}
            ClosePolicy::Terminate => {
                let message = format!("run {}, which started it, waits for it no more", ended.step.run_id);
                let error = StepError::new(error::CANCELED, ErrorKind::Canceled, &message);
                self.batch.endings.push(RunEnding {
                    run_id: left.run_id,
                    workflow: left.workflow.clone(),
                    is_test: ended.values.run.mocks.is_some(),
                    state: RunState::Canceled,
                    output: None,
                    error: Some(error.to_payload()),
                    announce: true,
                });
                self.closed.insert((left.run_id, 0));
            }
        }
    }
}
