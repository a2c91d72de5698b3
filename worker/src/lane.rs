//! A lane: one claim-and-complete loop on one baton. It alone owns the baton, so a heartbeat is nothing but an empty cycle of this loop.
//! It repeats: collect what handlers reported, plan what follows (`longshore_core::attempt`), pass the baton (`longshore_core::cycle`), start what it
//! holds anew (`prepare`). A lane whose lease is over starts nothing; a lane that lost its baton drops everything and begins again under a new name.

mod claiming;
mod held;
mod pass;
mod private;
mod serves;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use longshore_core::attempt::Ending;
use longshore_core::cycle::{Baton, Closing, Line};
use longshore_core::error::{self, ErrorKind, StepError};
use longshore_core::fleet;
use longshore_core::queue::HeldStep;
use longshore_core::state::Outcome;
use tokio::sync::oneshot;
use uuid::Uuid;

use self::claiming::CLAIM_PAUSE;
pub(crate) use self::held::{Finished, Held};
pub(crate) use self::serves::{LaneSpec, Serves, Wake};
use crate::execute::{Report, Token, execute};
use crate::mailbox::Mailbox;
use crate::prepare::Prepared;
use crate::shared::Shared;
use crate::transaction::Moved;

/// At most this many steps end in one cycle.
const MAX_BATCH: usize = 128;

/// Fewer held steps than this are not worth waiting for: a finished step is flushed at once.
const FLUSH_AT_ONCE_BELOW: usize = 8;

/// How long a finished step waits for others that are about to finish.
const LINGER: Duration = Duration::from_millis(1);

/// The same where few of many have finished: each cycle lists all that is held, so small batches of many held steps cost WAL.
const LINGER_FEW: Duration = Duration::from_millis(4);

/// How often a lane looks for handlers that outlast their timeout.
const LOOK_FOR_OVERDUE: Duration = Duration::from_secs(1);

/// A lane.
pub(crate) struct Lane {
    pub(crate) shared: Arc<Shared>,
    spec: LaneSpec,
    pub(crate) mailbox: Arc<Mailbox<Report>>,
    wake: Arc<Wake>,
    baton: Option<Baton>,
    line: Line,
    next_token: Token,
    held: HashMap<Token, Held>,
    /// Held, prepared, not started yet.
    to_start: Vec<Prepared>,
    finished: Vec<Finished>,
    /// Closings of runs of which the lane holds steps.
    closed: HashMap<Uuid, Vec<Closing>>,
    /// Until when the lease surely stands, by this process's monotonic clock.
    lease_until: Instant,
    last_pass: Instant,
    /// When the lane last asked which runs are closed.
    last_look: Instant,
    last_claim: Instant,
    /// When the lane last looked for handlers that outlast their timeout.
    last_overdue: Instant,
    /// Claim when there are slots; without it the lane looks only in passing, after `claim_after`.
    look: bool,
    claim_after: Instant,
    /// The next claim is to start from 0, as soon as the pace of sweeps allows.
    sweep_soon: bool,
    /// The last claim found less than it had slots for: nothing is known to lie above the marks.
    dry: bool,
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
        // of private lanes there may be many
        let line = if shared.keep_lines && !spec.private { Line::kept() } else { Line::shared() };
        Self {
            shared,
            spec,
            mailbox: Arc::default(),
            wake,
            baton: None,
            line,
            next_token: 0,
            held: HashMap::new(),
            to_start: Vec::new(),
            finished: Vec::new(),
            closed: HashMap::new(),
            lease_until: now,
            last_pass: now,
            last_look: now,
            last_claim: now,
            last_overdue: now,
            // with marks at 0 the first claim looks from the start anyway
            look: true,
            claim_after: now,
            sweep_soon: false,
            dry: false,
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
        if let Some(baton) = private
            && let Err(error) = fleet::forget_lane(&self.shared.sender.access, baton.lane_id).await
        {
            tracing::debug!(%error, "a private lane stays registered until its worker leaves");
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
            self.end_overdue(Instant::now());
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
                Report::Ended { token, ending, duration, changes } => {
                    self.suspended = false;
                    // a report of a step that this lane lost is nobody's business any more
                    if let Some(mut held) = self.held.remove(&token) {
                        held.changes = changes;
                        self.finish(held, ending, Some(duration));
                    } else if let Some(moved) = self.moved.remove(&token) {
                        moved.put(Report::Ended { token, ending, duration, changes });
                    }
                }
                Report::Private { token, answer } => self.wishes.push((token, answer)),
                Report::Suspend { answer } => {
                    if let Some(step) = self.private_step() {
                        self.suspended = answer.send(step).is_ok();
                    }
                }
                Report::Committed { duration } => {
                    for (_, held) in self.held.drain() {
                        held.count(Outcome::Completed, Some(duration));
                        self.shared.tell(held.step.queue_id);
                    }
                    self.baton = None;
                }
            }
        }
    }

    /// A step ended: it waits for the next cycle.
    fn finish(&mut self, held: Held, ending: Ending, duration: Option<Duration>) {
        let ending = if self.is_closed(&held) { Ending::Canceled } else { ending };
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
        let now = Instant::now();
        for prepared in std::mem::take(&mut self.to_start) {
            let Some(held) = self.held.get_mut(&prepared.token) else {
                continue;
            };
            let execution = prepared.into_execution();
            held.overdue_at = now.checked_add(execution.timeout + self.shared.sender.lease);
            self.shared.runtime.spawn(execute(execution, self.mailbox.clone()));
        }
    }

    /// A handler that never yields cannot be stopped by its timeout: a lease past it, the lane ends the attempt without it. Whatever it reports later is
    /// nobody's business any more.
    fn end_overdue(&mut self, now: Instant) {
        if now < self.last_overdue + LOOK_FOR_OVERDUE || self.shared.blocked() || self.suspended {
            return;
        }
        self.last_overdue = now;
        let overdue = self.held.extract_if(|_, held| held.overdue_at.is_some_and(|at| at <= now));
        for (_, held) in overdue.collect::<Vec<_>>() {
            held.cancellation.cancel();
            let step = &held.step;
            tracing::error!(run_id = %step.run_id, node = step.node, attempt = step.attempt, "a handler outlasts its timeout and does not yield: its attempt ends without it");
            let text = "the handler did not end at its timeout, nor for a lease after it: it blocks its thread";
            let error = StepError::new(error::TIMEOUT, ErrorKind::Timeout, text);
            self.finish(held, Ending::Failed { error, retry_after: None }, None);
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
            // a worker that runs no handler any more lets its leases run out
            let blocked = self.shared.blocked();
            let heartbeat = !self.held.is_empty() && !blocked && now >= self.last_pass + self.shared.heartbeat;
            return heartbeat || (self.look && self.claim_is_due(now));
        }
        let held = self.held.len() + self.finished.len();
        self.flush || self.held.is_empty() || held < FLUSH_AT_ONCE_BELOW || self.finished.len() >= MAX_BATCH
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
            let blocked = self.shared.blocked();
            until = until.min(if blocked { Instant::now() } else { self.last_pass } + self.shared.heartbeat);
        }
        if self.look && self.free_slots() > 0 {
            until = until.min(self.last_claim + CLAIM_PAUSE);
        }
        tokio::select! {
            () = self.mailbox.filled(1) => {}
            () = self.wake.notify.notified() => {
                self.look = true;
                self.dry = false;
                self.sweep_soon = self.wake.sweep.swap(false, Ordering::AcqRel);
            }
            () = tokio::time::sleep_until(until.into()) => {}
            () = self.shared.draining.cancelled(), if !self.draining() => {}
            () = self.shared.stop.cancelled(), if !self.shared.stop.is_cancelled() => {}
        }
    }
}
