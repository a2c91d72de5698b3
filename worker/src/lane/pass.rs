//! Passing the baton: the plan of a cycle, its answer, and what the lane holds then.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use longshore_core::attempt::{self, Ended, Ending, Plan, Room};
use longshore_core::cycle::{self, Baton, Closing, Due, HeldRow, Pass, Passed};
use longshore_core::database;
use longshore_core::error::{self, StepError};
use longshore_core::graph::CLEAN_UP;
use longshore_core::queue::{Claimed, HeldStep, StepKey};
use longshore_core::state::{Outcome, RunState};
use uuid::Uuid;

use super::{Finished, Held, Lane, MAX_BATCH, new_lane_id};
use crate::execute::Token;
use crate::prepare::{Decided, Prepared, prepare};
use crate::transaction::LaneLink;

/// At most this many bytes of outputs and errors go into one cycle (one larger payload still goes, alone).
const MAX_BATCH_BYTES: usize = 1 << 20;

/// How often a lane looks which runs were closed, so that it can tell their handlers.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A step of a version that this worker cannot read (a newer one published it) is looked at again after this time.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(30);

impl Lane {
    /// Pass the baton with what has finished, as much as fits.
    pub(super) async fn pass(&mut self) {
        let mut size = self.batch_size();
        loop {
            let now = Instant::now();
            let (plan, sweep) = self.plan(size, now);
            let baton = self.baton.take().unwrap_or_else(|| Baton::new(new_lane_id()));
            let (shared, line) = (&self.shared, &mut self.line);
            let answer = cycle::pass(&shared.sender, line, baton, &plan.batch, shared.abandon.cancelled()).await;
            if sweep {
                let took = if let Pass::Passed(_, passed) = &answer { Some(passed.claim_took) } else { None };
                self.shared.sweeps.done(Instant::now(), took);
            }
            match answer {
                Pass::Passed(baton, passed) => return self.passed(baton, passed, plan, size, now, sweep).await,
                Pass::Recovered(baton, held) => return self.recovered(baton, held, plan, size, now).await,
                Pass::Refused(baton, closings) => {
                    self.baton = Some(baton);
                    self.heed(&closings);
                }
                Pass::Data(baton, error) => {
                    self.baton = Some(baton);
                    if size > 1 {
                        size /= 2;
                    } else if !self.isolate(&error) {
                        return self.forget("postgres refuses whatever follows from one of its steps");
                    }
                }
                Pass::Fenced => {
                    self.shared.metrics.fenced();
                    return self.forget("its baton was taken back");
                }
                Pass::Unclear(error) => return self.forget(&format!("stopped without a clear answer: {error}")),
            }
        }
    }

    /// How many of the finished steps go into the next cycle.
    fn batch_size(&self) -> usize {
        let mut bytes = 0;
        let fits = |finished: &&Finished| {
            bytes += match &finished.ending {
                Ending::Completed(output)
                | Ending::BodyCompleted(output)
                | Ending::BlockEnds(Ok(output))
                | Ending::BlockEnded { result: Ok(output), .. }
                | Ending::Woken { result: Ok(output), .. } => output.len(),
                Ending::Called(call) => call.input.len(),
                Ending::Opened(opening) => opening.bytes(),
                _ => 256,
            };
            bytes <= MAX_BATCH_BYTES
        };
        let size = self.finished.iter().take(MAX_BATCH).take_while(fits).count();
        size.max(1).min(self.finished.len())
    }

    /// Everything that follows from the first `size` finished steps, and what to claim. Changes nothing, so it can be planned again.
    fn plan(&mut self, size: usize, now: Instant) -> (Plan, bool) {
        let (ending, staying) = self.finished.split_at(size);
        let mut room = Room {
            slots: self.spec.slots.get().iter().copied().collect(),
            total: attempt::places(self.held.len() + self.finished.len()),
            keep: !self.draining() && !self.spec.solo,
        };
        let occupying = self.held.values().chain(self.finished.iter().map(|f| &f.held)).filter(|held| held.slot);
        for held in occupying {
            if let Some(free) = room.slots.get_mut(&held.step.queue_id) {
                *free -= 1;
            }
        }
        let mut plan = Plan::new(room);
        let ended: Vec<Ended<'_>> = ending.iter().map(|finished| finished.ended(self.backlog, now)).collect();
        plan.end_all(&ended);
        let batch = &mut plan.batch;
        batch.delayed.extend(self.unreadable.iter().map(|step| (Due::After(UNREADABLE_PAUSE), attempt::again(step))));
        for (token, _) in &self.wishes {
            batch.private.extend(self.held.get(token).and_then(|held| Some((new_lane_id(), row(&held.step)?))));
        }
        let wishes = |token: &Token| self.wishes.iter().any(|(wishing, _)| wishing == token);
        let held = self.held.iter().filter(|(token, _)| !wishes(token)).map(|(_, held)| held);
        batch.held = held.chain(staying.iter().map(|f| &f.held)).filter_map(|held| row(&held.step)).collect();
        batch.known_closings = batch
            .ended_runs
            .iter()
            .filter_map(|run| self.closed.get(run))
            .flatten()
            .map(|closing| closing.close_id)
            .collect();
        batch.look = now >= self.last_look + LOOK_EVERY || ended.is_empty();
        let (claim, sweep) = self.claim(&plan.room, now);
        plan.batch.claim = claim;
        (plan, sweep)
    }

    /// The cycle was committed.
    async fn passed(&mut self, baton: Baton, passed: Passed, mut plan: Plan, size: usize, sent: Instant, sweep: bool) {
        self.renew(baton, sent);
        if plan.batch.look {
            self.last_look = sent;
        }
        self.grant(&plan);
        self.unreadable.clear();
        let claimed = passed.new.iter().filter(|(_, seq)| seq.is_some()).count();
        self.note_claim(&plan.batch.claim, claimed, sent, sweep);
        if claimed > 0 {
            let mut marks = self.shared.marks.lock().unwrap_or_else(PoisonError::into_inner);
            for (claimed, seq) in &passed.new {
                if let Some(seq) = seq {
                    marks.claimed(claimed.step.queue_id, claimed.step.queue_priority(), *seq, passed.at);
                }
            }
        }
        self.shared.metrics.cycle(sent.elapsed(), size, claimed, plan.batch.ready.len());
        self.tell_of_ready(&plan.batch.ready, passed.joins_enqueued);
        if !plan.batch.delayed.is_empty() {
            self.shared.timer_set.notify_one();
        }
        let finished: Vec<Finished> = self.finished.drain(..size).collect();
        self.count(&finished, &plan, &passed);
        let ends = std::mem::take(&mut plan.batch.frame_endings);
        let mut new = self.continued(plan, &finished, passed.at).await;
        let (followed, claimed): (Vec<_>, Vec<_>) = passed.new.into_iter().partition(|(_, seq)| seq.is_none());
        let mut followed = self.admit(followed.into_iter().map(|(claimed, _)| claimed).collect()).await;
        for held in &mut followed {
            held.stay_like(&finished);
            held.know_like(&finished, &ends, passed.at);
        }
        new.extend(followed);
        drop(finished);
        new.extend(self.admit(claimed.into_iter().map(|(claimed, _)| claimed).collect()).await);
        self.heed(&passed.closings);
        for held in &mut new {
            held.paused |= passed.paused.contains(&held.step.run_id);
            // its run was closed while the cycle that keeps it was under way
            let run = held.step.run_id;
            passed.closings.iter().filter(|closing| closing.run_id == run).for_each(|closing| held.note(closing));
        }
        self.take_on(new).await;
    }

    /// The cycle was committed but its answer got lost: what the baton lists is what the lane holds.
    async fn recovered(&mut self, baton: Baton, listed: Vec<Claimed>, plan: Plan, size: usize, sent: Instant) {
        self.renew(baton, sent);
        self.grant(&plan);
        self.unreadable.clear();
        self.sweep_soon = true;
        let finished: Vec<Finished> = self.finished.drain(..size).collect();
        let at = listed.iter().filter_map(|claimed| claimed.step.claimed_at).max().unwrap_or_default();
        self.count(&finished, &plan, &Passed::default());
        let mut kept: Vec<Held> = self.continued(plan, &finished, at).await;
        let ended: HashSet<StepKey> = listed
            .iter()
            .filter(|claimed| claimed.run_state.is_none_or(RunState::has_ended))
            .map(|claimed| claimed.step.key())
            .collect();
        let of_paused = listed.iter().filter(|claimed| claimed.run_state == Some(RunState::Paused));
        let paused: HashSet<Uuid> = of_paused.map(|claimed| claimed.step.run_id).collect();
        for held in &mut kept {
            held.note_run(ended.contains(&held.step.key()));
            held.paused = paused.contains(&held.step.run_id);
            // what the lost answer said of closings is read again with the frames
            held.values.frames = Arc::default();
        }
        // as often as it is held: two step jobs that look for a signal may be alike, and each of them has to look
        let mut known: HashMap<StepKey, usize> = HashMap::new();
        for held in self.held.values().chain(self.finished.iter().map(|f| &f.held)).chain(&kept) {
            *known.entry(held.step.key()).or_default() += 1;
        }
        let unknown = listed
            .into_iter()
            .filter(|claimed| match known.get_mut(&claimed.step.key()) {
                Some(left) if *left > 0 => {
                    *left -= 1;
                    false
                }
                _ => true,
            })
            .collect();
        let mut new = self.admit(unknown).await;
        new.extend(kept);
        self.take_on(new).await;
    }

    fn renew(&mut self, baton: Baton, sent: Instant) {
        let lease = self.shared.sender.lease;
        self.baton = Some(baton);
        self.last_pass = sent;
        self.lease_until = sent + lease - lease / 10;
        self.flush = false;
    }

    /// Others may be idle: tell them of the step jobs this cycle put to the queues.
    fn tell_of_ready(&mut self, ready: &[HeldStep], joins: i32) {
        let mut told: Vec<i32> = Vec::new();
        for step in ready {
            if !told.contains(&step.queue_id) {
                told.push(step.queue_id);
                self.shared.tell(step.queue_id);
            }
        }
        if joins > 0 {
            for (queue_id, _) in self.spec.slots.get().iter() {
                self.shared.tell(*queue_id);
            }
        }
        if joins > 0 || !ready.is_empty() {
            self.look = true;
            self.dry = false;
        }
    }

    fn count(&self, finished: &[Finished], plan: &Plan, passed: &Passed) {
        for (finished, outcome) in finished.iter().zip(&plan.outcomes) {
            if let Some(outcome) = outcome {
                finished.held.count(*outcome, finished.duration);
            }
        }
        for ending in &plan.batch.endings {
            if ending.state.has_ended() && !ending.is_test && !passed.already_ended.contains(&ending.run_id) {
                let took = run_id_time(ending.run_id).and_then(|started| (passed.at - started).to_std().ok());
                self.shared.metrics.run_ended(&ending.workflow, ending.state, took);
            }
        }
    }

    /// The successors the lane keeps: held from this cycle on.
    async fn continued(&self, plan: Plan, finished: &[Finished], at: DateTime<Utc>) -> Vec<Held> {
        let mut kept = Vec::with_capacity(plan.batch.kept.len());
        for (mut step, from) in plan.batch.kept.into_iter().zip(plan.kept_from) {
            step.enqueued_at = Some(at);
            step.claimed_at = Some(at);
            // a join that was complete within the batch has values of several steps: they are read again
            let before = from.and_then(|from| finished.get(from));
            let Some(before) = before.or_else(|| finished.iter().find(|f| f.held.step.run_id == step.run_id)) else {
                continue;
            };
            // nor is an output at hand that the step's edges made a failure of, nor one that its policy on errors made of a failure
            let recorded = |as_what| from.and_then(|from| plan.outcomes.get(from)) == Some(&Some(as_what));
            let overruled = match before.ending {
                Ending::Completed(_) => recorded(Outcome::Failed),
                Ending::Failed { .. } => recorded(Outcome::Completed),
                _ => false,
            };
            kept.push(before.continue_with(step, from.is_some() && !overruled));
        }
        kept
    }

    /// Make what was claimed a held step with its version at hand. A step of a version that this worker cannot read goes back, for a newer one.
    async fn admit(&mut self, claimed: Vec<Claimed>) -> Vec<Held> {
        let mut new = Vec::with_capacity(claimed.len());
        for claimed in claimed {
            match self.shared.version(claimed.step.version_id).await {
                Some(version) => new.push(Held::new(claimed, version)),
                None if claimed.run_state.is_some() => self.unreadable.push(claimed.step),
                None => tracing::warn!(run_id = %claimed.step.run_id, "dropped a step job of a run that is gone"),
            }
        }
        new
    }

    /// Prepare what the lane holds anew: engine steps are decided here, tasks wait for their start.
    async fn take_on(&mut self, new: Vec<Held>) {
        if new.is_empty() {
            return;
        }
        for decided in prepare(&self.shared, new).await {
            match decided {
                Decided::Ended(held, ending) => self.finish(held, ending, None),
                Decided::Start(held, start) => {
                    self.next_token += 1;
                    let token = self.next_token;
                    if self.is_closed(&held) {
                        self.finish(held, Ending::Canceled, None);
                        continue;
                    }
                    let link = LaneLink {
                        token,
                        mailbox: self.mailbox.clone(),
                        output_limit: self.shared.handlers.output_limit(),
                        route: self.shared.sender.access.route(),
                    };
                    self.to_start.push(Prepared::new(link, &held, start));
                    self.held.insert(token, held);
                }
            }
        }
    }

    /// Runs were closed: tell their handlers; what finishes of them is recorded as canceled.
    fn heed(&mut self, closings: &[Closing]) {
        if closings.is_empty() && self.closed.is_empty() {
            return;
        }
        let runs: HashSet<Uuid> =
            self.held.values().chain(self.finished.iter().map(|f| &f.held)).map(|h| h.step.run_id).collect();
        self.closed.retain(|run, _| runs.contains(run));
        for closing in closings.iter().filter(|closing| runs.contains(&closing.run_id)) {
            let known = self.closed.entry(closing.run_id).or_default();
            if !known.contains(closing) {
                known.push(*closing);
            }
        }
        let closed = &self.closed;
        let ended = |run| closed.get(run).is_some_and(|closings| closings.iter().any(|closing| closing.frame == 0));
        for held in self.held.values_mut().chain(self.finished.iter_mut().map(|f| &mut f.held)) {
            held.run_ended |= ended(&held.step.run_id);
        }
        for held in self.held.values().filter(|held| self.is_closed(held)) {
            held.cancellation.cancel();
        }
        let mut finished = std::mem::take(&mut self.finished);
        for finished in finished.iter_mut().filter(|finished| self.is_closed(&finished.held)) {
            finished.ending = Ending::Canceled;
        }
        self.finished = finished;
    }

    /// The step's run was closed, or a frame around it.
    pub(super) fn is_closed(&self, held: &Held) -> bool {
        let mut closings = self.closed.get(&held.step.run_id).into_iter().flatten();
        held.step.node != CLEAN_UP && closings.any(|closing| closing.concerns(&held.values.frames))
    }

    /// Postgres refuses what follows from the one step of this batch: the step fails for good. False when that was refused too.
    fn isolate(&mut self, error: &sqlx::Error) -> bool {
        let Some(finished) = self.finished.first_mut() else {
            return false;
        };
        let step = &finished.held.step;
        tracing::error!(run_id = %step.run_id, node = step.node, attempt = step.attempt, %error, "postgres refuses the result of a step");
        let error = match database::code(error) {
            Some("LS020") => StepError::permanent(error::CONTEXT_INVALID, &database::message(error)),
            Some("LS021") => StepError::permanent(error::CONTEXT_TOO_LARGE, &database::message(error)),
            _ => StepError::permanent(error::OUTPUT_INVALID, &format!("postgres cannot store the result: {error}")),
        };
        let before = match &mut finished.ending {
            // whose attempt it is, is said by the ending and not by the step
            Ending::BlockEnded { result, .. } | Ending::Woken { result, .. } => {
                std::mem::replace(result, Err(error)).err()
            }
            ending => match std::mem::replace(ending, Ending::Failed { error, retry_after: None }) {
                Ending::Failed { error, .. } => Some(error),
                _ => None,
            },
        };
        before.is_none_or(|before| before.name != error::OUTPUT_INVALID)
    }

    /// The lane lost its baton: whatever it held is or will be another's. Start again under a new name.
    fn forget(&mut self, why: &str) {
        let lost = self.held.len() + self.finished.len();
        tracing::warn!(lost, why, "a lane drops what it holds and starts again");
        for (_, held) in self.held.drain() {
            held.cancellation.cancel();
        }
        self.finished.clear();
        self.to_start.clear();
        self.closed.clear();
        self.wishes.clear();
        self.unreadable.clear();
        self.baton = None;
        self.flush = false;
        self.suspended = false;
        self.look = true;
        self.sweep_soon = true;
    }
}

fn row(step: &HeldStep) -> Option<HeldRow> {
    Some(HeldRow {
        run_id: step.run_id,
        frame: step.frame,
        node: step.node,
        kind: step.kind,
        attempt: step.attempt,
        claimed_at: step.claimed_at?,
    })
}

/// When a run was started: its id (UUIDv7) begins with the milliseconds.
fn run_id_time(run_id: Uuid) -> Option<DateTime<Utc>> {
    let (seconds, nanos) = run_id.get_timestamp()?.to_unix();
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)
}
