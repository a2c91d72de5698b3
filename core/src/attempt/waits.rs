//! Waits: what follows from a step that announces what it waits for, looks for a signal, or was woken.
//!
//! Announce, then look: the announced row is the step's home from then on, and in the same cycle a step job is made that looks for a signal in a later
//! snapshot. A signal is its row and a step job that has everyone looked for who may wait for it. So whichever of the two is committed last sees the
//! other. A changed context is told like a signal, and a milestone looks at the context instead. A look that saw something looks again after the cycle that tried to take it, since another may have been faster; it ends when it saw nothing.
//! Who wakes a wait is decided by its row: signal, time and close each change it only while nobody else did.

use super::{Ended, Plan};
use crate::cycle::{NewWait, Wake};
use crate::graph::{Announcement, LOOK, Node, NodeNumber, TIME_UP, Verdict};
use crate::queue::{HeldStep, StepKind, StepRef};
use crate::signal::NO_SIGNAL;

/// The wait that an engine step is about: its number is the node's.
fn waiting(ended: &Ended<'_>) -> StepRef {
    let step = ended.step;
    StepRef { run_id: step.run_id, frame: step.frame, node: step.attempt }
}

impl Plan {
    /// A step begins to wait.
    pub(super) fn announce(&mut self, index: usize, ended: &Ended<'_>, announcement: &Announcement) {
        let step = ended.step;
        self.batch.waiting.push(NewWait {
            key: StepRef { run_id: step.run_id, frame: step.frame, node: step.node },
            attempt: step.attempt,
            version_id: step.version_id,
            queue_id: step.queue_id,
            priority: step.priority,
            failed: step.failed,
            names: announcement.names.clone(),
            picky: announcement.picky,
            timeout: announcement.timeout,
            timer_queue_id: ended.version.queue_id(TIME_UP),
            child: None,
        });
        self.look_for(index, ended, step.frame, step.node);
    }

    /// A signal was sent: these may have waited for it.
    pub(super) fn deliver(&mut self, index: usize, ended: &Ended<'_>, waiters: &[(i32, NodeNumber)]) {
        for (frame, node) in waiters {
            self.look_for(index, ended, *frame, *node);
        }
    }

    /// A waiting step saw these signals for it: the cycle takes them if they are still there, and the step looks again.
    pub(super) fn take(&mut self, index: usize, ended: &Ended<'_>, verdicts: &[Verdict]) {
        for verdict in verdicts {
            let keep = verdict.refused.is_none() && self.keep_engine(ended);
            let (signal, refused) = (Some(verdict.signal), verdict.refused.clone());
            self.batch.wakes.push(Wake { key: waiting(ended), signal, refused, keep });
        }
        if !verdicts.is_empty() {
            self.look_for(index, ended, ended.step.frame, ended.step.attempt);
        }
    }

    /// What a milestone waits for is so.
    pub(super) fn reach(&mut self, ended: &Ended<'_>) {
        let keep = self.keep_engine(ended);
        self.batch.wakes.push(Wake { key: waiting(ended), signal: Some(NO_SIGNAL), refused: None, keep });
    }

    /// The time of a wait is over, or the run it waits for has ended.
    pub(super) fn wake(&mut self, ended: &Ended<'_>) {
        let keep = self.keep_engine(ended);
        self.batch.wakes.push(Wake { key: waiting(ended), signal: None, refused: None, keep });
    }

    /// A woken step whose attempt ends leaves no row.
    pub(super) fn forget_wait(&mut self, ended: &Ended<'_>) {
        let step = ended.step;
        if ended.version.graph.node(step.node).is_some_and(Node::waits) && step.kind == StepKind::Due {
            self.batch.waited.push(StepRef { run_id: step.run_id, frame: step.frame, node: step.node });
        }
    }

    /// The step job that looks for a signal for this wait.
    fn look_for(&mut self, index: usize, ended: &Ended<'_>, frame: i32, node: NodeNumber) {
        let look = HeldStep { attempt: node, ..ended.step_job(frame, LOOK, StepKind::Advance) };
        // several signals of one batch: one look sees them all
        self.put_once(index, ended, look);
    }
}
