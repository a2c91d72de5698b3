//! Ending attempts: from what became of the steps a lane held to one batch for the cycle.
//! Everything that follows from an ended attempt (its record, the retry or the successors, the run's end) goes into the same batch, so it is
//! committed with it or not at all. Pure: time and randomness come in as values. What follows from a node is decided in `successor`.

mod children;
mod ending;
mod frames;
mod joins;
mod waits;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use uuid::Uuid;

pub use self::children::{Call, Left};
pub use self::ending::{Ended, Ending};
use self::joins::Arrived;
use crate::context;
use crate::cycle::{Batch, ContextWrite, Due, EndedAttempt, RunEnding};
use crate::error::{self, StepError};
use crate::graph::{DELIVER, END, GivesUp, Node, NodeNumber, NodeResult, START, Termination};
use crate::payload::Payload;
use crate::queue::{HeldStep, MAX_HELD, StepKind};
use crate::retry::{self, FailedBefore, Retry, RetryPolicies};
use crate::state::{Outcome, RunState};
use crate::successor::{BodyEnd, Consequences, Ending as Successors, TOO_FEW, successor};

/// What a lane has room for: free slots per queue it serves, and in all.
#[derive(Clone, Debug, Default)]
pub struct Room {
    /// Free slots per queue; a queue that is missing is not served.
    pub slots: HashMap<i32, i32>,
    /// Steps the baton can still list.
    pub total: i32,
    /// The lane keeps successors at all (not while it drains, not a lane for one lonely step).
    pub keep: bool,
}

impl Room {
    /// Take a slot of this queue if there is one.
    fn take(&mut self, queue_id: i32) -> bool {
        match self.slots.get_mut(&queue_id) {
            Some(free) if *free > 0 && self.total > 0 && self.keep => {
                *free -= 1;
                self.total -= 1;
                true
            }
            _ => false,
        }
    }

    /// Engine steps are decided by the lane at once: they need a place in the baton, no slot.
    fn take_engine(&mut self) -> bool {
        let taken = self.keep && self.total > 0;
        self.total -= i32::from(taken);
        taken
    }

    fn give_back(&mut self, ended: &Ended<'_>) {
        if let Some(free) = self.slots.get_mut(&ended.step.queue_id).filter(|_| ended.slot) {
            *free += 1;
        }
        self.total += 1;
    }
}

/// A batch in the making.
#[derive(Debug, Default)]
pub struct Plan {
    /// The batch.
    pub batch: Batch,
    /// For each of `batch.kept`: the index of the ended step it follows from (`None`: a join that was complete within the batch).
    pub kept_from: Vec<Option<usize>>,
    /// For each ended step: the outcome its attempt is recorded with, if it is recorded.
    pub outcomes: Vec<Option<Outcome>>,
    /// What the lane still has room for.
    pub room: Room,
    arrivals: BTreeMap<(Uuid, i32, NodeNumber), Arrived>,
    /// Runs closed by this batch (by a give-up or `terminate`), and frames of theirs; 0 is the whole run.
    closed: HashSet<(Uuid, i32)>,
    /// Of the frames that steps of this batch belong to: those whose closing concerns them.
    concerning: HashMap<(Uuid, i32), Vec<i32>>,
    /// Entry nodes of frames that begin, but for the first of each opening: after the step that ended, its frame, and whether it may stay with the lane.
    begun: Vec<(usize, i32, NodeNumber, bool)>,
}

impl Plan {
    /// A plan for a lane with this room (before the steps that end here give theirs back).
    #[must_use]
    pub fn new(room: Room) -> Self {
        Self { room, ..Self::default() }
    }

    /// Put everything that follows from the ended steps into the batch, sealed but for what the lane holds and claims.
    pub fn end_all(&mut self, ended: &[Ended<'_>]) {
        self.outcomes = vec![None; ended.len()];
        for (index, ended_step) in ended.iter().enumerate() {
            self.room.give_back(ended_step);
            self.end(index, ended_step);
        }
        // now that all have given back their room, and the successors of others have taken of it
        for (index, frame, node, may_stay) in std::mem::take(&mut self.begun) {
            if let Some(ended_step) = ended.get(index) {
                self.make_ready_in(index, ended_step, frame, node, may_stay);
            }
        }
        self.settle_complete_joins(ended);
        if !self.closed.is_empty() {
            self.drop_consequences_of_what_closed();
        }
        self.enlist_joins(ended);
        self.batch.seal();
    }

    fn end(&mut self, index: usize, ended: &Ended<'_>) {
        let step = ended.step;
        if !matches!(ended.ending, Ending::Canceled) {
            self.batch.ended_runs.push(step.run_id);
            self.forget_whole_join(ended);
            self.note_frames(ended);
        }
        if !matches!(ended.ending, Ending::PutBack(_) | Ending::Parked | Ending::Released) {
            self.forget_wait(ended);
        }
        match ended.ending {
            Ending::Completed(output) => self.complete(index, ended, output, true),
            Ending::Advanced(output) => self.complete(index, ended, output, false),
            Ending::Failed { error, .. } if step.node < 0 => self.fail_engine_step(index, ended, error),
            Ending::Failed { error, retry_after } => {
                let error = error.clone().at(ended.version.graph.id(step.node), step.attempt);
                self.fail(index, ended, &error, *retry_after);
            }
            Ending::Canceled => {
                if step.kind.is_try() {
                    self.record(index, ended, Outcome::Canceled, None, None);
                }
            }
            Ending::Released => {
                let mut again = again(step);
                if step.kind.is_try() {
                    self.record(index, ended, Outcome::Released, None, None);
                    again.attempt += 1;
                }
                self.batch.ready.push(again);
            }
            Ending::Parked => self.batch.parked.push(again(step)),
            Ending::PutBack(after) => self.batch.delayed.push((Due::After(*after), again(step))),
            Ending::Delayed(due) => {
                self.batch.delayed.push((*due, HeldStep { kind: StepKind::Due, ..again(step) }));
            }
            Ending::Terminated(termination) => self.terminate(index, ended, termination),
            Ending::Started => {
                self.record(index, ended, Outcome::Completed, Some(Payload::null()), None);
                self.follow(index, ended, &Successors::Started);
            }
            Ending::BodyCompleted(output) => {
                self.record(index, ended, Outcome::Completed, Some(Payload::null()), None);
                self.complete_body(index, ended, output.clone());
            }
            Ending::BodyFailed(error) => {
                self.record(index, ended, Outcome::Failed, None, Some(error));
                self.fail_body(ended, error);
            }
            Ending::Opened(opening) => self.open(index, ended, opening),
            Ending::BlockEnds(result) => self.end_block(index, ended, result),
            Ending::IterationFailed => self.count_failure(index, ended),
            Ending::BlockEnded { result, .. } => self.end_with(index, ended, result),
            Ending::Woken { result, left, .. } => {
                if let Some(left) = left {
                    self.leave(ended, left);
                }
                self.end_with(index, ended, result);
            }
            Ending::Called(call) => self.call(index, ended, call),
            Ending::Announced(announcement) => self.announce(index, ended, announcement),
            Ending::Delivered(waiters) => self.deliver(index, ended, waiters),
            Ending::Looked(verdicts) => self.take(index, ended, verdicts),
            Ending::Reached => self.reach(ended),
            Ending::Wakes => self.wake(ended),
            // a count of a block's iterations that decides nothing any more, or news of a run for which nobody waits
            Ending::Told if step.node < 0 => {}
            Ending::Told => match step.kind {
                StepKind::Rest => self.follow(index, ended, &Successors::Rested),
                _ => {
                    self.record_skip(step.run_id, step.frame, step.node, TOO_FEW);
                    self.follow(index, ended, &Successors::Skipped);
                    if ended.version.graph.join(step.node).is_some_and(|join| join.fires_early()) {
                        self.follow(index, ended, &Successors::Rested);
                    }
                }
            },
        }
    }

    fn end_with(&mut self, index: usize, ended: &Ended<'_>, result: &Result<Payload, StepError>) {
        match result {
            Ok(output) => self.complete(index, ended, output, true),
            Err(error) => self.fail(index, ended, error, None),
        }
    }

    fn complete(&mut self, index: usize, ended: &Ended<'_>, output: &Payload, record: bool) {
        match successor(&ended.version.graph, ended.step.node, Successors::Completed(output), ended.values) {
            Ok(consequences) => {
                if record {
                    self.record(index, ended, Outcome::Completed, Some(output.clone()), None);
                    self.change_context(index, ended);
                }
                self.apply(index, ended, consequences, Some(output));
            }
            // an edge's `when` cannot be evaluated: the step fails for good and its failure edges apply
            Err(error) if record => {
                let error = error.at(ended.version.graph.id(ended.step.node), ended.attempt());
                self.give_up(index, ended, &error);
            }
            // its success is on record already; the run cannot go on
            Err(error) => self.fail_body(ended, &error),
        }
    }

    /// What the step changed of its run's context; whoever waits for the context looks again.
    fn change_context(&mut self, index: usize, ended: &Ended<'_>) {
        let step = ended.step;
        if ended.changes.is_empty() {
            return;
        }
        let by = (step.frame, step.node, ended.attempt(), context::text(ended.changes));
        self.batch.contexts.push(ContextWrite { run_id: step.run_id, version_id: step.version_id, by: Some(by) });
        if ended.version.graph.waits_for_context() {
            let tell = ended.step_job(0, DELIVER, StepKind::Advance);
            self.put_once(index, ended, tell);
        }
    }

    fn fail(&mut self, index: usize, ended: &Ended<'_>, error: &StepError, retry_after: Option<Duration>) {
        let step = ended.step;
        let policies = ended.version.graph.node(step.node).and_then(Node::retry);
        let failed_before = match ended.ending {
            Ending::BlockEnded { failed, .. } => *failed,
            _ => step.failed,
        };
        let next = |policies: &RetryPolicies| {
            let before = FailedBefore { count: u32::try_from(failed_before).unwrap_or(0), errors: ended.failures };
            policies.next(before, error, retry_after, ended.since_first, ended.random)
        };
        match policies.map_or((Retry::GiveUp, retry::GiveUp::Fail), next) {
            (Retry::After(after), _) => {
                self.record(index, ended, Outcome::Failed, None, Some(error));
                let retry = HeldStep {
                    kind: StepKind::Run,
                    attempt: ended.attempt() + 1,
                    failed: failed_before.saturating_add(1),
                    ..again(step)
                };
                self.batch.delayed.push((Due::After(after), retry));
            }
            // nobody pauses a run that has ended
            (Retry::GiveUp, retry::GiveUp::Pause) if !ended.run_ended => {
                self.record(index, ended, Outcome::Failed, None, Some(error));
                self.pause(ended, error);
                // its policies begin anew, and a poison step may be tried again
                let next =
                    HeldStep { kind: StepKind::Run, attempt: ended.attempt() + 1, failed: 0, lost: 0, ..again(step) };
                self.batch.parked.push(next);
            }
            (Retry::GiveUp, _) => self.give_up(index, ended, error),
        }
    }

    /// An engine step cannot be done: the block that it belongs to fails, or the body. None is tried again, and only those of a body's start and end
    /// are on record.
    fn fail_engine_step(&mut self, index: usize, ended: &Ended<'_>, error: &StepError) {
        if ended.version.graph.engine_step_of(ended.step.node, &ended.values.frames).is_some() {
            return self.end_block(index, ended, &Err(error.clone()));
        }
        if matches!(ended.step.node, START | END) {
            self.record(index, ended, Outcome::Failed, None, Some(error));
        }
        self.fail_body(ended, error);
    }

    /// The step has no attempt left: what that means is the node's policy on errors.
    fn give_up(&mut self, index: usize, ended: &Ended<'_>, error: &StepError) {
        let graph = &ended.version.graph;
        let error = &match graph.gives_up(ended.step.node, error, ended.values) {
            Ok(GivesUp::Up) => error.clone(),
            Ok(GivesUp::Skips) => {
                self.record(index, ended, Outcome::Failed, None, Some(error));
                return self.follow(index, ended, &Successors::Skipped);
            }
            Ok(GivesUp::Completes(output)) => {
                match successor(graph, ended.step.node, Successors::Completed(&output), ended.values) {
                    Ok(consequences) => {
                        self.record(index, ended, Outcome::Completed, Some(output.clone()), Some(error));
                        return self.apply(index, ended, consequences, Some(&output));
                    }
                    Err(error) => error.at(graph.id(ended.step.node), ended.attempt()),
                }
            }
            Err(error) => error.at(graph.id(ended.step.node), ended.attempt()),
        };
        self.record(index, ended, Outcome::Failed, None, Some(error));
        match successor(&ended.version.graph, ended.step.node, Successors::GaveUp(error), ended.values) {
            Ok(consequences) => self.apply(index, ended, consequences, None),
            Err(error) => self.fail_body(ended, &error),
        }
    }

    fn follow(&mut self, index: usize, ended: &Ended<'_>, ending: &Successors<'_>) {
        match successor(&ended.version.graph, ended.step.node, *ending, ended.values) {
            Ok(consequences) => self.apply(index, ended, consequences, None),
            Err(error) => self.fail_body(ended, &error),
        }
    }

    fn apply(&mut self, index: usize, ended: &Ended<'_>, consequences: Consequences, output: Option<&Payload>) {
        let step = ended.step;
        for (position, node) in consequences.ready.iter().enumerate() {
            self.make_ready(index, ended, *node, position == 0);
        }
        for arrival in &consequences.arrivals {
            self.arrive(index, ended, arrival.node, arrival.resolved, arrival.taken);
        }
        for skip in &consequences.skips {
            self.record_skip(step.run_id, step.frame, skip.node, &skip.reason);
        }
        match consequences.end {
            None => {}
            Some(BodyEnd::Completed) => match body_output(ended, output) {
                Ok(output) => self.complete_body(index, ended, output),
                Err(error) => self.fail_body(ended, &error),
            },
            Some(BodyEnd::Failed(error)) => self.fail_body(ended, &error),
        }
    }

    fn make_ready(&mut self, index: usize, ended: &Ended<'_>, node: NodeNumber, first: bool) {
        let step = ended.step;
        self.make_ready_in(index, ended, step.frame, node, first);
    }

    fn make_ready_in(&mut self, index: usize, ended: &Ended<'_>, frame: i32, node: NodeNumber, first: bool) {
        let next = ended.step_job(frame, node, StepKind::Run);
        // the first successor stays with the lane; the others go to whoever is free (this lane too: its claim sees them)
        let room =
            if is_engine(ended, node) { self.room.take_engine() } else { first && self.room.take(next.queue_id) };
        self.put(next, ended.may_keep && room, Some(index));
    }

    /// A step job of the batch: the lane keeps it, or it goes to whoever is free.
    fn put(&mut self, step: HeldStep, keep: bool, from: Option<usize>) {
        if keep {
            self.batch.kept.push(step);
            self.kept_from.push(from);
        } else {
            self.batch.ready.push(step);
        }
    }

    /// An engine step that does no more if it is there twice.
    fn put_once(&mut self, index: usize, ended: &Ended<'_>, step: HeldStep) {
        let same = |other: &HeldStep| other.key() == step.key();
        if self.batch.kept.iter().any(same) || self.batch.ready.iter().any(same) {
            return;
        }
        let room = ended.may_keep && self.room.take_engine();
        self.put(step, room, Some(index));
    }

    /// Keep room for a step job that the cycle may make, if there is any: it needs no slot.
    fn keep_engine(&mut self, ended: &Ended<'_>) -> bool {
        let keep = ended.may_keep && self.room.take_engine();
        self.batch.keep_joins += i32::from(keep);
        keep
    }

    fn terminate(&mut self, index: usize, ended: &Ended<'_>, termination: &Termination) {
        self.record(index, ended, Outcome::Completed, Some(termination.output.clone()), None);
        if ended.run_ended {
            return self.complete_body(index, ended, termination.output.clone());
        }
        let error = termination.error.as_ref().map(StepError::to_payload);
        let output = (termination.state == RunState::Completed).then(|| termination.output.clone());
        let announce = ended.step.frame != 0 || !ended.version.graph.is_chain();
        self.end_run(ended, termination.state, output, error, announce);
        self.closed.insert((ended.step.run_id, 0));
    }

    /// The run's own graph, or a body of a block, has nothing left to do.
    fn complete_body(&mut self, index: usize, ended: &Ended<'_>, output: Payload) {
        if ended.step.frame == 0 {
            self.end_run(ended, RunState::Completed, Some(output), None, false);
        } else {
            self.complete_frame(index, ended, output);
        }
    }

    /// The run's own graph, or a body of a block, cannot go on.
    fn fail_body(&mut self, ended: &Ended<'_>, error: &StepError) {
        if ended.step.frame == 0 {
            let announce = !ended.version.graph.is_chain();
            self.end_run(ended, RunState::Failed, None, Some(error.to_payload()), announce);
            self.closed.insert((ended.step.run_id, 0));
        } else {
            self.fail_frame(ended, error);
        }
    }

    fn end_run(
        &mut self,
        ended: &Ended<'_>,
        state: RunState,
        output: Option<Payload>,
        error: Option<Payload>,
        announce: bool,
    ) {
        // two steps of one run may end it in one batch: the first does
        let run_id = ended.step.run_id;
        if state.has_ended() {
            // and a pause is nothing to a run that ends
            self.batch.endings.retain(|ending| ending.run_id != run_id || ending.state.has_ended());
            self.batch.pauses.retain(|(paused, _)| *paused != run_id);
        }
        if !self.batch.endings.iter().any(|e| e.run_id == run_id) {
            if state.has_ended() && ended.version.graph.context().is_some() && state != RunState::Canceled {
                self.batch.contexts.push(ContextWrite { run_id, version_id: ended.step.version_id, by: None });
            }
            let workflow = ended.version.workflow.clone();
            let is_test = ended.values.run.mocks.is_some();
            // settling closes the child runs that nobody waits for, and who holds part of a `finally` must hear that the run is over
            let graph = &ended.version.graph;
            let announce = announce || graph.closes_children() || graph.has_finally();
            self.batch.endings.push(RunEnding { run_id, workflow, is_test, state, output, error, announce });
        }
    }

    /// The run is to wait for someone who looks after it.
    fn pause(&mut self, ended: &Ended<'_>, error: &StepError) {
        let run_id = ended.step.run_id;
        if self.batch.endings.iter().all(|ending| ending.run_id != run_id) {
            let why = error.clone().at(ended.version.graph.id(ended.step.node), ended.attempt()).to_payload();
            self.batch.pauses.push((run_id, why));
            self.end_run(ended, RunState::Paused, None, None, false);
        }
    }

    fn record(
        &mut self,
        index: usize,
        ended: &Ended<'_>,
        outcome: Outcome,
        output: Option<Payload>,
        error: Option<&StepError>,
    ) {
        let step = ended.step;
        self.outcomes[index] = Some(outcome);
        let node = ended.version.graph.node(step.node).map_or("", |node| &node.id);
        self.batch.attempts.push(EndedAttempt {
            run_id: step.run_id,
            frame: step.frame,
            node: step.node,
            attempt: ended.attempt(),
            outcome,
            enqueued_at: ended.since().or(step.enqueued_at),
            claimed_at: ended.since().or(step.claimed_at),
            duration: ended.duration,
            output,
            error: error.map(|error| error.clone().at(node, ended.attempt()).to_payload()),
        });
    }

    fn record_skip(&mut self, run_id: Uuid, frame: i32, node: NodeNumber, reason: &str) {
        let reason = Payload::of(&serde_json::json!({ "reason": reason })).unwrap_or_else(|_| Payload::null());
        self.batch.attempts.push(EndedAttempt {
            run_id,
            frame,
            node,
            attempt: 0,
            outcome: Outcome::Skipped,
            enqueued_at: None,
            claimed_at: None,
            duration: None,
            output: None,
            error: Some(reason),
        });
    }

    /// What this batch closes, a run or a frame, starts nothing more: what its other steps of the batch led to is dropped, their records stay.
    fn drop_consequences_of_what_closed(&mut self) {
        let (closed, concerning) = (&self.closed, &self.concerning);
        let open = |run_id: Uuid, frame: i32| {
            let concerning = concerning.get(&(run_id, frame)).map_or(&[0][..], Vec::as_slice);
            !concerning.iter().chain([&frame]).any(|frame| closed.contains(&(run_id, *frame)))
        };
        let mut kept_from = std::mem::take(&mut self.kept_from).into_iter();
        let kept = std::mem::take(&mut self.batch.kept).into_iter();
        for step in kept {
            let from = kept_from.next().flatten();
            if open(step.run_id, step.frame) {
                self.batch.kept.push(step);
                self.kept_from.push(from);
            }
        }
        self.batch.ready.retain(|step| open(step.run_id, step.frame));
        self.batch.delayed.retain(|(_, step)| open(step.run_id, step.frame));
        self.arrivals.retain(|(run_id, frame, _), _| open(*run_id, *frame));
        self.batch.frames.retain(|new| open(new.run_id, new.facts.frame));
        self.batch.chunks.retain(|new| open(new.run_id, new.frame));
        self.batch.parked.retain(|step| open(step.run_id, step.frame));
        self.batch.waiting.retain(|wait| open(wait.key.run_id, wait.key.frame));
        self.batch.wakes.retain(|wake| open(wake.key.run_id, wake.key.frame));
        // the run of a detached child's step is closed with the record that names the child: it begins, and settling finds it
        self.batch.children.retain(|child| !child.awaited || open(child.parent.run_id, child.parent.frame));
    }
}

/// A node that the lane decides itself.
fn is_engine(ended: &Ended<'_>, node: NodeNumber) -> bool {
    node < 0 || ended.version.graph.node(node).is_some_and(Node::is_engine_own)
}

/// The same step job, to be put back.
#[must_use]
pub fn again(step: &HeldStep) -> HeldStep {
    HeldStep {
        run_id: step.run_id,
        version_id: step.version_id,
        frame: step.frame,
        node: step.node,
        kind: step.kind,
        attempt: step.attempt,
        failed: step.failed,
        lost: step.lost,
        queue_id: step.queue_id,
        priority: step.priority,
        solo: step.solo,
        enqueued_at: None,
        claimed_at: None,
    }
}

/// The output of a body that ends with its only sink, whose own output is not among the values yet.
fn body_output(ended: &Ended<'_>, output: Option<&Payload>) -> Result<Payload, StepError> {
    let graph = &ended.version.graph;
    let body = graph.body_within(&ended.values.frames).unwrap_or(0);
    match output {
        Some(output) => {
            let mut values = ended.values.clone();
            values.results.insert(ended.step.node, NodeResult::Completed(output.clone()));
            graph.body_output(body, &values)
        }
        None => graph.body_output(body, ended.values),
    }
}

/// The failure of a step that was lost too often while alone: it takes no more workers with it.
#[must_use]
pub fn poisoned(lost: i16) -> StepError {
    StepError::permanent(
        error::LOST,
        &format!("its worker died {lost} times while running this step alone: it is given up as a poison step"),
    )
}

/// How many steps the baton may still list.
#[must_use]
pub fn places(held: usize) -> i32 {
    i32::try_from(MAX_HELD.saturating_sub(held)).unwrap_or(0)
}
