//! What a handler is told about the attempt it makes: run, node, attempt, deadline, cancellation, idempotency key.
//! Cloning a `Step` is one reference count; nothing in it is computed before a handler asks. A `Step` gives no right
//! to end the attempt: the lane alone does that, with what the handler returns.

use std::fmt;
use std::sync::{Arc, OnceLock};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::context::{Changes, StepContext};
use crate::transaction::LaneLink;

/// One attempt of a step job, as its handler sees it. Cheap to clone and to send to other tasks.
#[derive(Clone)]
pub struct Step(Arc<Inner>);

struct Inner {
    facts: StepFacts,
    idempotency_key: OnceLock<String>,
}

/// What the lane knows when it starts an attempt.
pub(crate) struct StepFacts {
    pub(crate) run_id: Uuid,
    pub(crate) parent: Option<Uuid>,
    pub(crate) workflow: Arc<str>,
    pub(crate) node: Arc<str>,
    pub(crate) attempt: i32,
    pub(crate) frame: i32,
    pub(crate) deadline: Instant,
    pub(crate) cancellation: CancellationToken,
    /// Where its lane listens.
    pub(crate) link: Option<LaneLink>,
    /// What it changes of its run's context; none where the definition has none.
    pub(crate) changes: Option<Changes>,
}

impl Step {
    pub(crate) fn link(&self) -> Option<LaneLink> {
        self.0.facts.link.clone()
    }

    pub(crate) fn new(facts: StepFacts) -> Self {
        Self(Arc::new(Inner { facts, idempotency_key: OnceLock::new() }))
    }

    /// The run this step job belongs to.
    pub fn run_id(&self) -> Uuid {
        self.0.facts.run_id
    }

    /// The run that started this one by a `subflow` node, if one did; a handler may send it signals.
    pub fn parent(&self) -> Option<Uuid> {
        self.0.facts.parent
    }

    /// The name of the run's workflow.
    pub fn workflow(&self) -> &str {
        &self.0.facts.workflow
    }

    /// The id of the node within the workflow version.
    pub fn node(&self) -> &str {
        &self.0.facts.node
    }

    /// The number of this attempt: 1 for the first try. Tries lost to a crash have numbers too.
    pub fn attempt(&self) -> i32 {
        self.0.facts.attempt
    }

    /// The frame the node runs in: 0 for the run's own graph, another number inside a block's body.
    pub fn frame(&self) -> i32 {
        self.0.facts.frame
    }

    /// When this attempt times out. A handler still busy then is dropped at its next await and the attempt fails
    /// retryably; work that cannot finish before it is better not begun.
    pub fn deadline(&self) -> Instant {
        self.0.facts.deadline
    }

    /// Cancelled when the run was canceled, the attempt timed out, or the worker stops now. Pass it on to what the
    /// handler starts, or await it beside slow work.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.0.facts.cancellation
    }

    /// Whether [`Step::cancellation`] has been cancelled; what the handler returns afterwards may be ignored.
    pub fn is_canceled(&self) -> bool {
        self.0.facts.cancellation.is_cancelled()
    }

    /// The context of the run, for changes that are committed with the completion of this step:
    ///
    /// ```
    /// # use longshore_worker::{Failure, Step};
    /// async fn pay(step: Step, amount: i64) -> Result<(), Failure> {
    ///     step.context().increment("paid", amount)?;
    ///     step.context().append("payments", &amount)
    /// }
    /// ```
    ///
    /// The workflow's definition must have a `context`.
    pub fn context(&self) -> StepContext<'_> {
        StepContext::new(self.0.facts.changes.as_ref())
    }

    pub(crate) fn changes(&self) -> Option<&Changes> {
        self.0.facts.changes.as_ref()
    }

    /// `run_id/frame/node`: the same for every attempt of this step and for no other step. Hand it to systems that
    /// recognize a repeated request, since a handler may run more than once.
    pub fn idempotency_key(&self) -> &str {
        let facts = &self.0.facts;
        self.0.idempotency_key.get_or_init(|| format!("{}/{}/{}", facts.run_id, facts.frame, facts.node))
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step")
            .field("run_id", &self.run_id())
            .field("workflow", &self.workflow())
            .field("frame", &self.frame())
            .field("node", &self.node())
            .field("attempt", &self.attempt())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;

    /// A first attempt of node `charge` in frame 0, due in 30 s.
    pub(crate) fn a_step() -> Step {
        an_attempt(1)
    }

    pub(crate) fn an_attempt(attempt: i32) -> Step {
        Step::new(StepFacts {
            run_id: Uuid::nil(),
            parent: None,
            workflow: Arc::from("order-fulfilment"),
            node: Arc::from("charge"),
            attempt,
            frame: 0,
            deadline: Instant::now() + Duration::from_secs(30),
            cancellation: CancellationToken::new(),
            link: None,
            changes: None,
        })
    }

    #[test]
    fn the_idempotency_key_names_run_frame_and_node_and_not_the_attempt() {
        let key = "00000000-0000-0000-0000-000000000000/0/charge";
        assert_eq!(an_attempt(1).idempotency_key(), key);
        assert_eq!(an_attempt(7).idempotency_key(), key);
    }

    #[test]
    fn a_clone_hears_of_the_cancellation() {
        let step = a_step();
        let clone = step.clone();
        assert!(!clone.is_canceled());
        step.cancellation().cancel();
        assert!(clone.is_canceled());
    }
}
