//! A lane: one claim-and-complete loop on one baton. It alone owns the baton, so a heartbeat is nothing but an empty cycle of this loop.
//! It repeats: collect what handlers reported, plan what follows (`longshore_core::attempt`), pass the baton (`longshore_core::cycle`), start what it
//! holds anew (`prepare`). A lane whose lease is over starts nothing; a lane that lost its baton drops everything and begins again under a new name.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use longshore_core::attempt::{self, Ended, Ending, Plan, Room};
use longshore_core::complete::PrivateStep;
use longshore_core::cycle::{self, Baton, Due, HeldRow, Pass, Passed};
use longshore_core::error::{self, StepError};
use longshore_core::fleet;
use longshore_core::graph::{NodeResult, RunFacts, Values};
use longshore_core::payload::Payload;
use longshore_core::queue::{Claim, Claimed, HeldStep, LowWater, PRIORITIES, SOLO, Source, StepKey};
use longshore_core::state::{Outcome, RunState};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::execute::{Report, Token, execute};
use crate::mailbox::Mailbox;
use crate::metrics::StepMetrics;
use crate::prepare::{Decided, Prepared, prepare};
use crate::shared::Shared;
use crate::transaction::{LaneLink, Moved};
use crate::versions::Version;

/// At most this many steps end in one cycle.
const MAX_BATCH: usize = 128;

/// At most this many bytes of outputs and errors go into one cycle (one larger payload still goes, alone).
const MAX_BATCH_BYTES: usize = 1 << 20;

/// Fewer held steps than this are not worth waiting for: a finished step is flushed at once.
const FLUSH_AT_ONCE_BELOW: usize = 8;

/// How long a finished step waits for others that are about to finish.
const LINGER: Duration = Duration::from_millis(1);

/// The same where few of many have finished: each cycle lists all that is held, so small batches of many held steps cost WAL.
const LINGER_FEW: Duration = Duration::from_millis(4);

/// A busy lane that found less than it had slots for looks again this much later, unless it is told of work.
const DRY_PAUSE: Duration = Duration::from_millis(100);

/// A lane with fewer than a quarter of its slots free claims this often at most.
const CLAIM_PAUSE: Duration = Duration::from_millis(20);

/// How often a lane looks which runs were closed, so that it can tell their handlers.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A step of a version that this worker cannot read (a newer one published it) is looked at again after this time.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(30);

/// A step's successors stay with its lane for so many hops and so long while other work waits, then they queue like everyone.
const MAX_HOPS: u32 = 64;
const MAX_STAY: Duration = Duration::from_secs(1);

/// How a lane is told to look for work.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    notify: Notify,
    sweep: AtomicBool,
}

impl Wake {
    /// There may be work above the lane's marks.
    pub(crate) fn hint(&self) {
        self.notify.notify_one();
    }

    /// There is work, perhaps below the lane's marks.
    pub(crate) fn sweep(&self) {
        self.sweep.store(true, Ordering::Release);
        self.notify.notify_one();
    }
}

/// The queues a lane serves and its slots for each. Shared with the upkeep, which adds queues that come later.
#[derive(Clone, Debug, Default)]
pub(crate) struct Serves(Arc<RwLock<Vec<(i32, i32)>>>);

impl Serves {
    pub(crate) fn new(slots: Vec<(i32, i32)>) -> Self {
        Self(Arc::new(RwLock::new(slots)))
    }

    pub(crate) fn get(&self) -> RwLockReadGuard<'_, Vec<(i32, i32)>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serve this queue too, unless the lane does already.
    pub(crate) fn add(&self, queue_id: i32, slots: i32) {
        let mut serves = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if !serves.iter().any(|(id, _)| *id == queue_id) {
            serves.push((queue_id, slots));
        }
    }

    /// All slots together.
    fn total(&self) -> i32 {
        self.get().iter().map(|(_, slots)| *slots).fold(0, i32::saturating_add)
    }
}

/// What a lane may claim and hold.
#[derive(Clone, Debug)]
pub(crate) struct LaneSpec {
    /// Slots per queue.
    pub(crate) slots: Serves,
    /// A lane for one step at a time, claiming only those that must be alone.
    pub(crate) solo: bool,
    /// A lane for the one step it began with.
    pub(crate) private: bool,
}

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

/// A lane.
pub(crate) struct Lane {
    pub(crate) shared: Arc<Shared>,
    spec: LaneSpec,
    pub(crate) mailbox: Arc<Mailbox<Report>>,
    wake: Arc<Wake>,
    baton: Option<Baton>,
    next_token: Token,
    held: HashMap<Token, Held>,
    /// Held, prepared, not started yet.
    to_start: Vec<Prepared>,
    finished: Vec<Finished>,
    /// Closings of runs of which the lane holds steps.
    closed: HashMap<Uuid, Vec<i64>>,
    low: LowWater,
    /// Until when the lease surely stands, by this process's monotonic clock.
    lease_until: Instant,
    last_pass: Instant,
    /// When the lane last asked which runs are closed.
    last_look: Instant,
    last_claim: Instant,
    /// Claim when there are slots; without it the lane looks only in passing, after `claim_after`.
    look: bool,
    claim_after: Instant,
    /// The next claim is to start from 0.
    sweep_soon: bool,
    /// The last claim found all it had asked for: others may be waiting.
    backlog: bool,
    /// The finished steps waited long enough for company.
    flush: bool,
    /// Steps that wish a baton of their own.
    wishes: Vec<(Token, oneshot::Sender<Moved>)>,
    /// Where the reports of such steps go.
    moved: HashMap<Token, Moved>,
    /// Claimed steps of versions that this worker cannot read: put back with the next cycle.
    unreadable: Vec<HeldStep>,
    /// A transaction is about to consume this lane's baton.
    suspended: bool,
    /// What this lane adds to the worker's count of occupied slots.
    occupied: usize,
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.held.clear();
        self.count_occupied();
    }
}

/// A new lane's name: random and never reused.
pub(crate) fn new_lane_id() -> i64 {
    rand::random_range(1..i64::MAX)
}

impl Lane {
    pub(crate) fn new(shared: Arc<Shared>, spec: LaneSpec, wake: Arc<Wake>) -> Self {
        let now = Instant::now();
        Self {
            shared,
            spec,
            mailbox: Arc::default(),
            wake,
            baton: None,
            next_token: 0,
            held: HashMap::new(),
            to_start: Vec::new(),
            finished: Vec::new(),
            closed: HashMap::new(),
            low: LowWater::default(),
            lease_until: now,
            last_pass: now,
            last_look: now,
            last_claim: now,
            look: true,
            claim_after: now,
            sweep_soon: true,
            backlog: false,
            flush: false,
            wishes: Vec::new(),
            moved: HashMap::new(),
            unreadable: Vec::new(),
            suspended: false,
            occupied: 0,
        }
    }

    /// Run until the worker drains and nothing is held, or until it stops and what is held was given back.
    pub(crate) async fn run(mut self) {
        self.cycle_on().await;
        let private = self.baton.as_ref().filter(|baton| self.spec.private && !baton.stands);
        if let Some(baton) = private {
            let forgotten =
                async { fleet::forget_lane(&mut *self.shared.sender.pool.acquire().await?, baton.lane_id).await };
            if let Err(error) = forgotten.await {
                tracing::debug!(%error, "a private lane stays registered until its worker leaves");
            }
        }
    }

    async fn cycle_on(&mut self) {
        loop {
            self.collect();
            if self.shared.stop.is_cancelled() && !self.suspended {
                self.release_all();
                if self.finished.is_empty() && self.unreadable.is_empty() {
                    return;
                }
            }
            self.start_prepared();
            if self.pass_is_due(Instant::now()) {
                self.pass().await;
            } else if (self.draining() || self.spec.private) && self.held.is_empty() && self.finished.is_empty() {
                return;
            } else {
                self.wait().await;
            }
            if self.shared.abandon.is_cancelled() {
                return;
            }
        }
    }

    fn draining(&self) -> bool {
        self.shared.draining.is_cancelled()
    }

    /// Take what handlers report.
    fn collect(&mut self) {
        for report in self.mailbox.take() {
            match report {
                Report::Ended { token, ending, duration } => {
                    self.suspended = false;
                    // a report of a step that this lane lost is nobody's business any more
                    if let Some(held) = self.held.remove(&token) {
                        self.finish(held, ending, Some(duration));
                    } else if let Some(moved) = self.moved.remove(&token) {
                        moved.put(Report::Ended { token, ending, duration });
                    }
                }
                Report::Private { token, answer } => self.wishes.push((token, answer)),
                Report::Suspend { answer } => {
                    if let Some(step) = self.private_step() {
                        self.suspended = answer.send(step).is_ok();
                    }
                }
                Report::Committed => {
                    for (_, held) in self.held.drain() {
                        self.shared.tell(held.step.queue_id);
                    }
                    self.baton = None;
                }
            }
        }
    }

    /// What a transaction needs to consume this lane's baton: only for a lane of one private step.
    fn private_step(&self) -> Option<PrivateStep> {
        let (baton, held) = (self.baton.as_ref()?, self.held.values().next()?);
        let HeldStep { queue_id, priority, run_id, version_id, frame, node, attempt, enqueued_at, claimed_at, .. } =
            held.step;
        self.spec.private.then_some(PrivateStep {
            lane_id: baton.lane_id,
            cycle: baton.cycle,
            queue_id,
            priority,
            run_id,
            version_id,
            frame,
            node,
            attempt,
            enqueued_at,
            claimed_at,
        })
    }

    /// Give the step that wished it a lane of its own, on the baton that the cycle made.
    fn part(&mut self, lane_id: i64, token: Token, answer: oneshot::Sender<Moved>) {
        let Some(held) = self.held.remove(&token) else {
            return;
        };
        let spec = LaneSpec { slots: Serves::default(), solo: false, private: true };
        let mut lane = Lane::new(self.shared.clone(), spec, Arc::default());
        lane.baton = Some(Baton { lane_id, cycle: 1, stands: true, registered: true });
        lane.lease_until = self.lease_until;
        lane.last_pass = self.last_pass;
        lane.look = false;
        lane.held.insert(token, held);
        let mailbox = lane.mailbox.clone();
        self.moved.insert(token, mailbox.clone());
        self.shared.lanes.spawn(lane.run());
        // the handler may be gone already; then its report follows the step
        let _ = answer.send(mailbox);
    }

    /// A step ended: it waits for the next cycle.
    fn finish(&mut self, held: Held, ending: Ending, duration: Option<Duration>) {
        let ending = if self.closed.contains_key(&held.step.run_id) { Ending::Canceled } else { ending };
        self.finished.push(Finished { held, ending, duration, random: rand::random() });
    }

    /// The worker stops: tell the handlers and give back what they did not finish.
    fn release_all(&mut self) {
        self.to_start.clear();
        for (_, held) in std::mem::take(&mut self.held) {
            held.cancellation.cancel();
            self.finish(held, Ending::Released, None);
        }
    }

    /// Start what was prepared, as long as the lease surely stands: past it another worker may be running these steps.
    fn start_prepared(&mut self) {
        if self.to_start.is_empty() || Instant::now() >= self.lease_until {
            return;
        }
        self.count_occupied();
        for prepared in std::mem::take(&mut self.to_start) {
            if !self.held.contains_key(&prepared.token) {
                continue;
            }
            let execution = prepared.into_execution();
            self.shared.runtime.spawn(execute(execution, self.mailbox.clone()));
        }
    }

    /// Keep the worker's count of occupied slots.
    fn count_occupied(&mut self) {
        let occupied = self.held.values().filter(|held| held.slot).count();
        if occupied > self.occupied {
            self.shared.occupied.fetch_add(occupied - self.occupied, Ordering::Relaxed);
        } else {
            self.shared.occupied.fetch_sub(self.occupied - occupied, Ordering::Relaxed);
        }
        self.occupied = occupied;
    }

    fn pass_is_due(&self, now: Instant) -> bool {
        if self.suspended {
            return false;
        }
        if !self.wishes.is_empty() || !self.unreadable.is_empty() {
            return true;
        }
        if self.finished.is_empty() {
            let heartbeat = !self.held.is_empty() && now >= self.last_pass + self.shared.heartbeat;
            return heartbeat || (self.look && self.claim_is_due(now));
        }
        let held = self.held.len() + self.finished.len();
        self.flush || self.held.is_empty() || held < FLUSH_AT_ONCE_BELOW || self.finished.len() >= MAX_BATCH
    }

    /// Slots that a claim could fill now.
    fn free_slots(&self) -> i32 {
        if self.draining() || self.spec.private {
            return 0;
        }
        if self.spec.solo {
            return i32::from(self.held.is_empty() && self.finished.is_empty());
        }
        let places = attempt::places(self.held.len() + self.finished.len());
        let free = |(queue_id, slots): &(i32, i32)| {
            let occupied = self.held.values().filter(|held| held.slot && held.step.queue_id == *queue_id).count();
            (slots - i32::try_from(occupied).unwrap_or(*slots)).max(0)
        };
        self.spec.slots.get().iter().map(free).sum::<i32>().min(places)
    }

    /// Worth a claim: a quarter of the slots is free, or it is a while since the last one.
    fn claim_is_due(&self, now: Instant) -> bool {
        let free = self.free_slots();
        free > 0 && (free * 4 >= self.spec.slots.total().min(places_at_all()) || now >= self.last_claim + CLAIM_PAUSE)
    }

    /// Sleep until there is something to do.
    async fn wait(&mut self) {
        self.count_occupied();
        if !self.finished.is_empty() {
            let few = self.finished.len() * 16 < self.held.len();
            let linger = if few { LINGER_FEW } else { LINGER };
            let enough = self.held.len().min(MAX_BATCH - self.finished.len());
            tokio::select! {
                () = self.mailbox.filled(enough) => {}
                () = tokio::time::sleep(linger) => {}
                () = self.shared.stop.cancelled(), if !self.shared.stop.is_cancelled() => {}
            }
            self.flush = true;
            return;
        }
        let mut until = Instant::now() + Duration::from_secs(3600);
        if !self.held.is_empty() && !self.suspended {
            until = until.min(self.last_pass + self.shared.heartbeat);
        }
        if self.look && self.free_slots() > 0 {
            until = until.min(self.last_claim + CLAIM_PAUSE);
        }
        tokio::select! {
            () = self.mailbox.filled(1) => {}
            () = self.wake.notify.notified() => {
                self.look = true;
                self.sweep_soon = self.wake.sweep.swap(false, Ordering::AcqRel);
            }
            () = tokio::time::sleep_until(until.into()) => {}
            () = self.shared.draining.cancelled(), if !self.draining() => {}
            () = self.shared.stop.cancelled(), if !self.shared.stop.is_cancelled() => {}
        }
    }

    /// Pass the baton with what has finished, as much as fits.
    async fn pass(&mut self) {
        let mut size = self.batch_size();
        loop {
            let now = Instant::now();
            let (plan, sweep) = self.plan(size, now);
            let baton = self.baton.take().unwrap_or_else(|| Baton::new(new_lane_id()));
            let answer = cycle::pass(&self.shared.sender, baton, &plan.batch, self.shared.abandon.cancelled()).await;
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
                Ending::Completed(output) => output.len(),
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
        batch.known_closings =
            batch.ended_runs.iter().filter_map(|run| self.closed.get(run)).flatten().copied().collect();
        batch.look = now >= self.last_look + LOOK_EVERY || ended.is_empty();
        let (claim, sweep) = self.claim(&plan.room, now);
        plan.batch.claim = claim;
        (plan, sweep)
    }

    /// What to claim with this room, and whether it sweeps.
    fn claim(&mut self, room: &Room, now: Instant) -> (Claim, bool) {
        let slots = self.spec.slots.total();
        let free: i32 = room.slots.values().map(|free| (*free).max(0)).sum::<i32>().min(room.total);
        // a lonely step shares its lane with nothing
        let free = if self.spec.solo { i32::from(room.total == attempt::places(0)) } else { free };
        let worth = free > 0 && (free * 4 >= slots.min(places_at_all()) || now >= self.last_claim + CLAIM_PAUSE);
        if self.draining() || !worth || !(self.look || now >= self.claim_after) {
            return (Claim::default(), false);
        }
        let sweep = self.shared.sweeps.begin(now, self.sweep_soon);
        if self.sweep_soon && !sweep {
            // nothing lies above the marks, and it is too soon to look below them
            self.look = false;
            self.claim_after = now + DRY_PAUSE;
            return (Claim::default(), false);
        }
        let serves = self.spec.slots.get();
        let mut sources = Vec::with_capacity(4 * serves.len());
        for priority in PRIORITIES {
            let priority = priority + if self.spec.solo { SOLO } else { 0 };
            for (queue_id, _) in serves.iter() {
                let limit = room.slots.get(queue_id).copied().unwrap_or(0).min(free);
                if limit > 0 {
                    let low = if sweep { 0 } else { self.low.get(*queue_id, priority) };
                    sources.push(Source { queue_id: *queue_id, priority, low, limit });
                }
            }
        }
        (Claim { sources, limit: free }, sweep)
    }

    /// The cycle was committed.
    async fn passed(&mut self, baton: Baton, passed: Passed, plan: Plan, size: usize, sent: Instant, sweep: bool) {
        self.renew(baton, sent);
        if plan.batch.look {
            self.last_look = sent;
        }
        self.grant(&plan);
        self.unreadable.clear();
        let claimed = passed.new.iter().filter(|(_, seq)| seq.is_some()).count();
        self.note_claim(&plan.batch.claim, claimed, sent, sweep);
        for (claimed, seq) in &passed.new {
            if let Some(seq) = seq {
                self.low.claimed(claimed.step.queue_id, claimed.step.queue_priority(), *seq, passed.at);
            }
        }
        self.shared.metrics.cycle(sent.elapsed(), size, claimed, plan.batch.ready.len());
        self.tell_of_ready(&plan.batch.ready, passed.joins_enqueued);
        let finished: Vec<Finished> = self.finished.drain(..size).collect();
        self.count(&finished, &plan, &passed);
        let mut new = self.continued(plan, &finished, passed.at).await;
        drop(finished);
        new.extend(self.admit(passed.new.into_iter().map(|(claimed, _)| claimed).collect()).await);
        self.heed(&passed.closings);
        for held in &mut new {
            // its run was closed while the cycle that keeps it was under way
            held.live &= !passed.closings.iter().any(|(run, _)| *run == held.step.run_id);
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
        for held in &mut kept {
            held.live = !ended.contains(&held.step.key());
        }
        let known: HashSet<StepKey> = self
            .held
            .values()
            .chain(self.finished.iter().map(|f| &f.held))
            .chain(&kept)
            .map(|held| held.step.key())
            .collect();
        let unknown = listed.into_iter().filter(|claimed| !known.contains(&claimed.step.key())).collect();
        let mut new = self.admit(unknown).await;
        new.extend(kept);
        self.take_on(new).await;
    }

    /// The private batons that the cycle made go to the steps that wished them.
    fn grant(&mut self, plan: &Plan) {
        let mut batons = plan.batch.private.iter();
        for (token, answer) in std::mem::take(&mut self.wishes) {
            // a wish for a step that ended meanwhile had no part in the batch
            if self.held.contains_key(&token)
                && let Some((lane_id, _)) = batons.next()
            {
                self.part(*lane_id, token, answer);
            }
        }
    }

    fn renew(&mut self, baton: Baton, sent: Instant) {
        let lease = self.shared.sender.lease;
        self.baton = Some(baton);
        self.last_pass = sent;
        self.lease_until = sent + lease - lease / 10;
        self.flush = false;
    }

    fn note_claim(&mut self, claim: &Claim, claimed: usize, now: Instant, sweep: bool) {
        if claim.limit == 0 {
            return;
        }
        self.last_claim = now;
        self.backlog = claimed >= usize::try_from(claim.limit).unwrap_or(0);
        if self.backlog {
            self.look = true;
            self.sweep_soon = false;
        } else {
            // found less than it has slots for: look below the marks once, then rest
            self.look = !sweep;
            self.sweep_soon = !sweep;
            self.claim_after = now + DRY_PAUSE;
        }
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
        self.look |= joins > 0 || !ready.is_empty();
    }

    fn count(&self, finished: &[Finished], plan: &Plan, passed: &Passed) {
        for (finished, outcome) in finished.iter().zip(&plan.outcomes) {
            if let (Some(metrics), Some(outcome)) = (&finished.held.metrics, outcome) {
                let step = &finished.held.step;
                let wait = step
                    .claimed_at
                    .zip(step.enqueued_at)
                    .and_then(|(claimed, enqueued)| (claimed - enqueued).to_std().ok());
                metrics.attempt(*outcome, wait.unwrap_or_default(), finished.duration.unwrap_or_default());
            }
        }
        for ending in &plan.batch.endings {
            if !passed.already_ended.contains(&ending.run_id) {
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
            // nor is an output at hand that the step's edges made a failure of
            let failed = |from| plan.outcomes.get(from) == Some(&Some(Outcome::Failed));
            let overruled = matches!(before.ending, Ending::Completed(_)) && from.is_some_and(failed);
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
                    if self.closed.contains_key(&held.step.run_id) {
                        self.finish(held, Ending::Canceled, None);
                        continue;
                    }
                    let link = LaneLink {
                        token,
                        mailbox: self.mailbox.clone(),
                        output_limit: self.shared.handlers.output_limit(),
                    };
                    self.to_start.push(Prepared::new(link, &held, start));
                    self.held.insert(token, held);
                }
            }
        }
    }

    /// Runs were closed: tell their handlers; what finishes of them is recorded as canceled.
    fn heed(&mut self, closings: &[(Uuid, i64)]) {
        if closings.is_empty() && self.closed.is_empty() {
            return;
        }
        let runs: HashSet<Uuid> =
            self.held.values().chain(self.finished.iter().map(|f| &f.held)).map(|h| h.step.run_id).collect();
        self.closed.retain(|run, _| runs.contains(run));
        for (run, closing) in closings.iter().filter(|(run, _)| runs.contains(run)) {
            let known = self.closed.entry(*run).or_default();
            if !known.contains(closing) {
                known.push(*closing);
            }
        }
        for held in self.held.values().filter(|held| self.closed.contains_key(&held.step.run_id)) {
            held.cancellation.cancel();
        }
        for finished in &mut self.finished {
            if self.closed.contains_key(&finished.held.step.run_id) {
                finished.ending = Ending::Canceled;
            }
        }
    }

    /// Postgres refuses what follows from the one step of this batch: the step fails for good. False when that was refused too.
    fn isolate(&mut self, error: &sqlx::Error) -> bool {
        let Some(finished) = self.finished.first_mut() else {
            return false;
        };
        let step = &finished.held.step;
        tracing::error!(run_id = %step.run_id, node = step.node, attempt = step.attempt, %error, "postgres refuses the result of a step");
        let already = matches!(&finished.ending, Ending::Failed { error, .. } if error.name == error::OUTPUT_INVALID);
        let text = format!("postgres cannot store the result: {error}");
        finished.ending =
            Ending::Failed { error: StepError::permanent(error::OUTPUT_INVALID, &text), retry_after: None };
        !already
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

/// The slots of a lane that serves more than a baton can list.
fn places_at_all() -> i32 {
    attempt::places(0)
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

impl Finished {
    fn ended(&self, backlog: bool, now: Instant) -> Ended<'_> {
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
    fn continue_with(&self, step: HeldStep, with_values: bool) -> Held {
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

    fn new(claimed: Claimed, version: Arc<Version>) -> Self {
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
            slot: false,
            hops: 0,
            since: Instant::now(),
            since_first: None,
        }
    }
}
