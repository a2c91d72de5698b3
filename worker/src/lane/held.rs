//! The steps a lane holds and those that finished: what is known of each, and what its successor takes over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use longshore_core::attempt::{Ended, Ending};
use longshore_core::context::Change;
use longshore_core::cycle::{Closing, FrameEnding};
use longshore_core::error::StepError;
use longshore_core::frame::Child;
use longshore_core::graph::{BlockKind, Body, CLEAN_UP, FrameFacts, Graph, NEXT, NodeResult, RunFacts, Values};
use longshore_core::mock::Mocks;
use longshore_core::payload::Payload;
use longshore_core::queue::{Claimed, HeldStep, StepKind};
use longshore_core::results::Instance;
use longshore_core::retry::Failures;
use longshore_core::state::{Outcome, RunState};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::metrics::StepMetrics;
use crate::prepare::Heard;
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
    /// The run had not ended when the step was claimed, or this is part of a `finally`, which goes on then.
    pub(crate) live: bool,
    /// The run had ended.
    pub(crate) run_ended: bool,
    /// The run was paused when the step was claimed.
    pub(crate) paused: bool,
    /// What an engine step of a block was read: the instances it is about.
    pub(crate) instances: Vec<Instance>,
    /// The iterations of its block.
    pub(crate) iterations: Vec<Child>,
    /// And the items of the iterations it opens.
    pub(crate) items: Option<Payload>,
    /// What a step of a wait was read.
    pub(crate) heard: Heard,
    /// What the step changed of its run's context.
    pub(crate) changes: Vec<Change>,
    /// `values.run.input` is the run's input.
    pub(crate) input_at_hand: bool,
    /// When its first attempt began, where one of its policies bounds the time since then.
    pub(crate) since_first: Option<Instant>,
    /// What its earlier failures were, where it has several policies.
    pub(crate) failures: Vec<Failures>,
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
            changes: &held.changes,
            since_first: held.since_first.map(|first| now.duration_since(first)),
            failures: &held.failures,
            random: self.random,
            slot: held.slot,
            run_ended: held.run_ended,
            may_keep: !held.step.solo
                && !(backlog && (held.hops >= MAX_HOPS || now.duration_since(held.since) >= MAX_STAY)),
        }
    }

    /// The successor `step` in this step's place, with what it may need of the values at hand.
    pub(super) fn continue_with(&self, step: HeldStep, with_values: bool) -> Held {
        let before = &self.held;
        let mut values = before.values.clone();
        // it is another by now
        values.context = None;
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
        if step.frame != before.step.frame {
            let frames = self.frames_of(step.frame, step.claimed_at);
            enter(&before.version.graph, &mut values, frames);
        }
        Held {
            run_ended: before.run_ended,
            input_at_hand: before.input_at_hand,
            hops: before.hops + 1,
            since: before.since,
            ..Held::fresh(step, before.version.clone(), values)
        }
    }

    /// The frames around a step of a frame that began with this step; none where it is not known, and will be read.
    fn frames_of(&self, frame: i32, began: Option<DateTime<Utc>>) -> Arc<[FrameFacts]> {
        let Ending::Opened(opening) = &self.ending else {
            return Arc::default();
        };
        let Some(own) = opening.frames.iter().find(|facts| facts.frame == frame) else {
            return Arc::default();
        };
        let whole = opening.frames.first().filter(|first| first.whole && first.frame != frame);
        let new = whole.into_iter().chain([own]).map(|facts| FrameFacts { created_at: began, ..facts.clone() });
        self.held.values.frames.iter().cloned().chain(new).collect()
    }

    /// Where a frame is among those around the step.
    fn place_of(&self, run_id: Uuid, frame: i32) -> Option<usize> {
        let frames = (self.held.step.run_id == run_id).then_some(&self.held.values.frames)?;
        frames.iter().position(|facts| facts.frame == frame)
    }
}

/// Values of a step as those of one in another frame: nodes of the two have the same numbers, so only what is around both frames is known there.
fn enter(graph: &Graph, values: &mut Values, frames: Arc<[FrameFacts]>) {
    let around = |node| graph.frame_of(node, &frames).filter(|of| graph.frame_of(node, &values.frames) == Some(*of));
    values.results.retain(|node, _| around(*node).is_some());
    values.frames = frames;
}

/// The step may be part of a `finally`, which goes on after the run's end: its frames say.
fn may_outlive(step: &HeldStep, version: &Version) -> bool {
    step.frame != 0 && version.graph.has_finally()
}

impl Held {
    /// Whether the run has ended meanwhile.
    pub(super) fn note_run(&mut self, ended: bool) {
        self.run_ended = ended;
        self.live = !ended || may_outlive(&self.step, &self.version);
    }

    /// What it is part of was closed meanwhile.
    pub(super) fn note(&mut self, closing: &Closing) {
        if closing.frame == 0 {
            self.run_ended = true;
            self.live &= may_outlive(&self.step, &self.version);
        }
        // where the frames are not known they are read, and say so
        if self.knows_its_frames() {
            self.live &= self.step.node == CLEAN_UP || !closing.concerns(&self.values.frames);
        }
    }

    /// A step that the end of a frame, or of a count, made within the lane: it stays no longer than what made it would.
    pub(super) fn stay_like(&mut self, finished: &[Finished]) {
        let of_run = finished.iter().filter(|finished| finished.held.step.run_id == self.step.run_id);
        if let Some(before) = of_run.max_by_key(|finished| finished.held.hops) {
            self.hops = before.held.hops + 1;
            self.since = before.held.since;
        }
    }

    /// What is known of the frames around such a step, and of the frame whose end it follows, from the steps that ended with that cycle: it is not read
    /// again. What was closed meanwhile the cycle's answer says.
    pub(super) fn know_like(&mut self, finished: &[Finished], ends: &[FrameEnding], at: DateTime<Utc>) {
        let (step, graph) = (&self.step, &self.version.graph);
        let within =
            |frame| finished.iter().find_map(|finished| Some((finished, finished.place_of(step.run_id, frame)?)));
        let follows = |end: &&FrameEnding| {
            let then = end.then.is_some_and(|then| (then.frame, then.node) == (step.frame, step.node));
            then && (end.run_id, end.frame, StepKind::Advance) == (step.run_id, step.attempt, step.kind)
        };
        let end = ends.iter().find(follows);
        // the frame that ended is within the step's own
        let (before, depth) = match (end, within(end.map_or(step.frame, |end| end.frame))) {
            (Some(_), Some((before, place))) => (before, place),
            (None, Some((before, place))) => (before, place + 1),
            (_, None) => return,
        };
        let frames = &before.held.values.frames;
        if let (Some(end), Some(ended)) = (end, frames.get(depth)) {
            self.instances.extend(instance(end, ended, at).filter(|_| !needs_more(graph, step, ended)));
        }
        let around = frames.get(..depth).unwrap_or_default().into();
        self.values.results.clone_from(&before.held.values.results);
        self.values.frames = before.held.values.frames.clone();
        enter(graph, &mut self.values, around);
    }

    /// Its attempt is on record.
    pub(super) fn count(&self, outcome: Outcome, duration: Option<Duration>) {
        let Some(metrics) = &self.metrics else {
            return;
        };
        let waited = self.step.claimed_at.zip(self.step.enqueued_at);
        let waited = waited.and_then(|(claimed, enqueued)| (claimed - enqueued).to_std().ok());
        metrics.attempt(outcome, waited.unwrap_or_default(), duration);
    }

    /// The body that the step belongs to; none for an engine step of a block.
    pub(crate) fn body(&self) -> Option<&Body> {
        let graph = &self.version.graph;
        graph.body(graph.body_within(&self.values.frames)?)
    }

    /// What is known of the step's frame, and those around it, is at hand.
    pub(crate) fn knows_its_frames(&self) -> bool {
        self.values.frames.last().map_or(0, |frame| frame.frame) == self.step.frame
    }

    /// Drop the values that neither this step nor its edges refer to.
    pub(crate) fn keep_needed_values(&mut self) {
        if let Some(node) = self.version.graph.node(self.step.node) {
            let needs = &node.needs().nodes;
            self.values.results.retain(|node, _| needs.contains(node));
        }
    }

    pub(super) fn new(claimed: Claimed, version: Arc<Version>) -> Self {
        let Claimed { step, run_state, input, key, parent, mocks } = claimed;
        let input_at_hand = input.is_some();
        let run_ended = run_state.is_some_and(RunState::has_ended);
        let live = run_state.is_some() && (!run_ended || may_outlive(&step, &version));
        let run = RunFacts {
            run_id: step.run_id,
            workflow: version.workflow.clone(),
            version: version.version,
            key,
            parent,
            input: input.unwrap_or_else(Payload::null),
            // they were read when the run was started
            mocks: mocks.map(|mocks| Arc::new(Mocks::from_json(&mocks.value()).unwrap_or_default())),
        };
        Self {
            live,
            run_ended,
            paused: run_state == Some(RunState::Paused),
            input_at_hand,
            ..Self::fresh(step, version, Values::new(Arc::new(run)))
        }
    }

    /// A step of a live run of which nothing was read yet.
    fn fresh(step: HeldStep, version: Arc<Version>, values: Values) -> Self {
        Self {
            step,
            version,
            values,
            live: true,
            run_ended: false,
            paused: false,
            instances: Vec::new(),
            iterations: Vec::new(),
            items: None,
            heard: Heard::default(),
            changes: Vec::new(),
            input_at_hand: false,
            cancellation: CancellationToken::new(),
            metrics: None,
            since_first: None,
            failures: Vec::new(),
            overdue_at: None,
            slot: false,
            hops: 0,
            since: Instant::now(),
        }
    }
}

/// An instance that ended with this cycle; none where it is not known when it began.
fn instance(end: &FrameEnding, ended: &FrameFacts, at: DateTime<Utc>) -> Option<Instance> {
    let child = Child {
        frame: ended.frame,
        iteration: ended.iteration,
        result: Some(end.result.clone().map_err(|error| StepError::from_payload(&error))),
        input: None,
        before: ended.before.clone(),
        finished_at: Some(at),
    };
    Some(Instance { child, attempt: ended.attempt, failed: ended.failed, created_at: ended.created_at? })
}

/// What follows a body of a `try` may need those before it, and what the block was given.
fn needs_more(graph: &Graph, step: &HeldStep, ended: &FrameFacts) -> bool {
    let kind = graph.node(ended.block).and_then(|node| Some(&node.block()?.kind));
    step.node == NEXT && matches!(kind, Some(BlockKind::Try { .. }))
}
