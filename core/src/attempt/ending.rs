//! How a step that a lane held ended, and what the consequences are decided from.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Call, Left, again};
use crate::context::Change;
use crate::cycle::Due;
use crate::error::StepError;
use crate::frame::Opening;
use crate::graph::{Announcement, NodeNumber, Termination, Values, Verdict};
use crate::payload::Payload;
use crate::queue::{HeldStep, StepKind};
use crate::retry::Failures;
use crate::workflow::LoadedVersion;

/// What became of a step that a lane held.
#[derive(Clone, Debug)]
pub enum Ending {
    /// It gave an output.
    Completed(Payload),
    /// It failed: it is retried as its policy says, or gives up.
    Failed {
        /// Why.
        error: StepError,
        /// The handler asked to be tried again after this time.
        retry_after: Option<Duration>,
    },
    /// Its run was closed: recorded, and nothing follows.
    Canceled,
    /// Given back by a graceful stop: takes a number, charges nothing.
    Released,
    /// Given back untried: takes no number. Due again after this time.
    PutBack(Duration),
    /// Its run is paused: given back untried, for when that is resumed.
    Parked,
    /// A `delay` node: it completes when it is due.
    Delayed(Due),
    /// A `terminate` node: it ends the run and cancels the rest.
    Terminated(Termination),
    /// The engine node `start`.
    Started,
    /// The engine node `end`: the run, or the frame of a body, completes with this output.
    BodyCompleted(Payload),
    /// A block begins, or goes on, with these frames.
    Opened(Box<Opening>),
    /// The frame that stands for a block ends: said by an engine step in that frame.
    BlockEnds(Result<Payload, StepError>),
    /// One of the iterations of a block failed: it is counted.
    IterationFailed,
    /// The frame that stands for a block ended: its attempt ends with this.
    BlockEnded {
        /// Its output, or its error.
        result: Result<Payload, StepError>,
        /// Which attempt.
        attempt: i32,
        /// Attempts that failed before.
        failed: i16,
        /// When the block began.
        began: DateTime<Utc>,
    },
    /// A `wait` node: from now on it waits for a signal.
    Announced(Announcement),
    /// The engine node `deliver`: a signal was sent, or the context changed, and these (frame, node) may have waited for that.
    Delivered(Vec<(i32, NodeNumber)>),
    /// A waiting step looked for signals: these are for it.
    Looked(Vec<Verdict>),
    /// What a milestone waits for is so.
    Reached,
    /// What a step waits for has come without a signal: its time is over, or the run has ended.
    Wakes,
    /// A waiting step was woken.
    Woken {
        /// What it took or was given, or the timeout.
        result: Result<Payload, StepError>,
        /// When it began to wait.
        since: DateTime<Utc>,
        /// The run it waits for no more.
        left: Option<Left>,
    },
    /// A `subflow` node starts a run.
    Called(Box<Call>),
    /// The step job itself says it: a skip, a join that is whole now.
    Told,
    /// The attempt was recorded by `complete_in`: spread what follows from its output.
    Advanced(Payload),
    /// The run, or the frame of a body, cannot go on, whatever the edges say (its input is not what the version demands, its output cannot be built).
    BodyFailed(StepError),
}

/// A step that ended, and what its end is decided from.
#[derive(Debug)]
pub struct Ended<'a> {
    /// The step.
    pub step: &'a HeldStep,
    /// Its run's version.
    pub version: &'a LoadedVersion,
    /// What `when` expressions and templates of the node may refer to.
    pub values: &'a Values,
    /// What became of it.
    pub ending: &'a Ending,
    /// How long its handler ran.
    pub duration: Option<Duration>,
    /// Time since the step's first attempt, where one of its policies bounds that.
    pub since_first: Option<Duration>,
    /// What its earlier failures were, where it has several policies.
    pub failures: &'a [Failures],
    /// For the jitter, 0 to 1.
    pub random: f64,
    /// What it changed of its run's context, if it completes.
    pub changes: &'a [Change],
    /// It occupied a slot of its queue (engine steps do not).
    pub slot: bool,
    /// Its run has ended, as far as the lane heard: it is part of a `finally`.
    pub run_ended: bool,
    /// Its lane may go on with its successor (the bound of fairness).
    pub may_keep: bool,
}

impl Ended<'_> {
    /// The number of the attempt that ends: the step's own, but where the step says how a block ended.
    pub(super) fn attempt(&self) -> i32 {
        match self.ending {
            Ending::BlockEnded { attempt, .. } => *attempt,
            _ => self.step.attempt,
        }
    }

    /// Since when the attempt has lasted, where that is not since its step came to the lane: a block's first frame, a wait's announcement.
    pub(super) fn since(&self) -> Option<DateTime<Utc>> {
        match self.ending {
            Ending::BlockEnded { began, .. } => Some(*began),
            Ending::Woken { since, .. } => Some(*since),
            _ => None,
        }
    }

    /// A step job of the same run: a first try of a node, or one that is no try.
    pub(super) fn step_job(&self, frame: i32, node: NodeNumber, kind: StepKind) -> HeldStep {
        HeldStep {
            frame,
            node,
            kind,
            attempt: i32::from(kind == StepKind::Run),
            failed: 0,
            lost: 0,
            solo: false,
            queue_id: self.version.queue_id(node),
            ..again(self.step)
        }
    }
}
