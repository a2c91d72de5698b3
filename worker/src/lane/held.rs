//! The steps a lane holds and those that finished: what is known of each, and what its successor takes over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use longshore_core::attempt::{Ended, Ending};
use longshore_core::graph::{NodeResult, RunFacts, Values};
use longshore_core::payload::Payload;
use longshore_core::queue::{Claimed, HeldStep};
use longshore_core::state::RunState;
use tokio_util::sync::CancellationToken;

use crate::metrics::StepMetrics;
use crate::versions::Version;

/// A step's successors stay with its lane for so many hops and so long while other work waits, then they queue like everyone.
const MAX_HOPS: u32 = 64;
const MAX_STAY: Duration = Duration::from_secs(1);

/// A step that the lane holds.
pub(crate) struct Held {
    pub(crate) step: HeldStep,
    pub(crate) version: Arc<Version>,
    pub(crate) values: Values,
    pub(crate) cancellation: CancellationToken,
    pub(crate) metrics: Option<Arc<StepMetrics>>,
    /// The run had not ended when the step was claimed.
    pub(crate) live: bool,
    /// The run was paused when the step was claimed.
    pub(crate) paused: bool,
    /// `values.run.input` is the run's input.
    pub(crate) input_at_hand: bool,
    /// When its first attempt began, where its policy bounds the time since then.
    pub(crate) since_first: Option<Instant>,
    /// A handler that is still at it then does not yield.
    pub(crate) overdue_at: Option<Instant>,
    /// It occupies a slot: it runs a handler.
    pub(crate) slot: bool,
    /// Steps of this run that the lane ran one after another, and since when.
    pub(crate) hops: u32,
    pub(crate) since: Instant,
}

/// A held step that ended and waits for its cycle.
pub(crate) struct Finished {
    pub(crate) held: Held,
    pub(crate) ending: Ending,
    pub(crate) duration: Option<Duration>,
    pub(crate) random: f64,
}
impl Finished {
    pub(super) fn ended(&self, backlog: bool, now: Instant) -> Ended<'_> {
        let held = &self.held;
        Ended {
            step: &held.step,
            version: &held.version,
            values: &held.values,
            ending: &self.ending,
            duration: self.duration,
            since_first: held.since_first.map(|first| now.duration_since(first)),
            random: self.random,
            slot: held.slot,
            may_keep: !held.step.solo
                && !(backlog && (held.hops >= MAX_HOPS || now.duration_since(held.since) >= MAX_STAY)),
        }
    }

    /// The successor `step` in this step's place, with what it may need of the values at hand.
    pub(super) fn continue_with(&self, step: HeldStep, with_values: bool) -> Held {
        let before = &self.held;
        let mut values = before.values.clone();
        if with_values {
            match &self.ending {
                Ending::Completed(output) | Ending::Advanced(output) => {
                    values.results.insert(before.step.node, NodeResult::Completed(output.clone()));
                }
                Ending::Failed { error, .. } => {
                    let error = error.clone().at(before.version.graph.id(before.step.node), before.step.attempt);
                    values.results.insert(before.step.node, NodeResult::Failed(error.to_payload()));
                }
                _ => {}
            }
        }
        Held {
            step,
            version: before.version.clone(),
            values,
            live: true,
            paused: false,
            input_at_hand: before.input_at_hand,
            cancellation: CancellationToken::new(),
            metrics: None,
            overdue_at: None,
            slot: false,
            hops: before.hops + 1,
            since: before.since,
            since_first: None,
        }
    }
}

impl Held {
    /// Drop the values that neither this step nor its edges refer to.
    pub(crate) fn keep_needed_values(&mut self) {
        if let Some(node) = self.version.graph.node(self.step.node) {
            let needs = &node.needs().nodes;
            self.values.results.retain(|node, _| needs.contains(node));
        }
    }

    pub(super) fn new(claimed: Claimed, version: Arc<Version>) -> Self {
        let Claimed { step, run_state, input, key } = claimed;
        let input_at_hand = input.is_some();
        let run = RunFacts {
            run_id: step.run_id,
            workflow: version.workflow.clone(),
            version: version.version,
            key,
            input: input.unwrap_or_else(Payload::null),
        };
        Self {
            step,
            version,
            values: Values::new(Arc::new(run)),
            live: run_state.is_some_and(|state| !state.has_ended()),
            paused: run_state == Some(RunState::Paused),
            input_at_hand,
            cancellation: CancellationToken::new(),
            metrics: None,
            overdue_at: None,
            slot: false,
            hops: 0,
            since: Instant::now(),
            since_first: None,
        }
    }
}
