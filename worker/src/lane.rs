//! A lane: one claim-and-complete loop on one baton. It alone owns the baton, so a heartbeat is nothing but an empty cycle of this loop.
//! It repeats: collect what handlers reported, plan what follows (`longshore_core::attempt`), pass the baton (`longshore_core::cycle`), start what it
//! holds anew (`prepare`). A lane whose lease is over starts nothing; a lane that lost its baton drops everything and begins again under a new name.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use longshore_core::attempt::{self, Ended, Ending, Plan, Room};
use longshore_core::cycle::{self, Baton, HeldRow, Pass, Passed};
use longshore_core::error::{self, StepError};
use longshore_core::graph::Values;
use longshore_core::queue::{Claim, Claimed, HeldStep, LowWater, PRIORITIES, SOLO, Source};
use longshore_core::workflow::LoadedVersion;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::execute::{Report, Token};
use crate::mailbox::Mailbox;
use crate::metrics::StepMetrics;
use crate::shared::Shared;

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

/// What a lane may claim and hold.
#[derive(Clone, Debug)]
pub(crate) struct LaneSpec {
    /// Slots per queue.
    pub(crate) slots: Vec<(i32, i32)>,
    /// A lane for one step at a time, claiming only those that must be alone.
    pub(crate) solo: bool,
}

/// A step that the lane holds.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) step: HeldStep,
    pub(crate) version: Arc<LoadedVersion>,
    pub(crate) values: Values,
    pub(crate) cancellation: CancellationToken,
    pub(crate) metrics: Option<Arc<StepMetrics>>,
    /// It occupies a slot: it runs a handler.
    pub(crate) slot: bool,
    /// Steps of this run that the lane ran one after another, and since when.
    pub(crate) hops: u32,
    pub(crate) since: Instant,
}

/// A held step that ended and waits for its cycle.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) held: Held,
    pub(crate) ending: Ending,
    pub(crate) duration: Option<Duration>,
    pub(crate) since_first: Option<Duration>,
    pub(crate) random: f64,
}

/// A lane.
pub(crate) struct Lane {
    pub(crate) shared: Arc<Shared>,
    pub(crate) spec: LaneSpec,
    pub(crate) mailbox: Arc<Mailbox<Report>>,
    wake: Arc<Wake>,
    baton: Option<Baton>,
    next_token: Token,
    pub(crate) held: HashMap<Token, Held>,
    /// Held, prepared, not started yet.
    pub(crate) to_start: Vec<crate::prepare::Ready>,
    pub(crate) finished: Vec<Finished>,
    closed: HashMap<Uuid, Vec<i64>>,
    low: LowWater,
    /// Until when the lease surely stands, by this process's monotonic clock.
    lease_until: Instant,
    last_pass: Instant,
    claim_after: Instant,
    last_claim: Instant,
    /// The last claim found all it had asked for: others may be waiting.
    backlog: bool,
    sweep_soon: bool,
    private: Option<PrivateEnd>,
}

type PrivateEnd = ();

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
            baton: Some(Baton::new(new_lane_id())),
            next_token: 0,
            held: HashMap::new(),
            to_start: Vec::new(),
            finished: Vec::new(),
            closed: HashMap::new(),
            low: LowWater::default(),
            lease_until: now,
            last_pass: now,
            claim_after: now,
            last_claim: now,
            backlog: false,
            sweep_soon: true,
            private: None,
        }
    }

    /// Run until the worker drains and nothing is held, or it stops.
    pub(crate) async fn run(mut self) {
        loop {
            self.collect();
            if self.shared.stop.is_cancelled() {
                return self.release().await;
            }
            if self.pass_is_due() {
                self.pass().await;
                continue;
            }
            self.start_prepared();
            if self.shared.draining.is_cancelled() && self.held.is_empty() && self.finished.is_empty() {
                return;
            }
            self.wait().await;
        }
    }

    /// Take the reports of handlers that ended.
    fn collect(&mut self) {
        for report in self.mailbox.take() {
            // a report of a step this lane lost is nobody's business any more
            if let Some(held) = self.held.remove(&report.token) {
                self.finish(held, report.ending, Some(report.duration));
            }
        }
    }

    /// A held step ended: it waits for the next cycle.
    pub(crate) fn finish(&mut self, held: Held, ending: Ending, duration: Option<Duration>) {
        let ending = if self.closed.contains_key(&held.step.run_id) { Ending::Canceled } else { ending };
        self.finished.push(Finished { held, ending, duration, since_first: None, random: rand::random() });
    }

    pub(crate) fn hold(&mut self, held: Held) -> Token {
        self.next_token += 1;
        self.held.insert(self.next_token, held);
        self.next_token
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
        self.finished.iter().take(MAX_BATCH).take_while(fits).count().max(1).min(self.finished.len())
    }

    fn draining(&self) -> bool {
        self.shared.draining.is_cancelled()
    }

    fn pass_is_due(&mut self) -> bool {
        let now = Instant::now();
        if self.finished.len() >= MAX_BATCH {
            return true;
        }
        if !self.finished.is_empty() {
            let held = self.held.len() + self.finished.len();
            return self.running() == 0 || held < FLUSH_AT_ONCE_BELOW || now.duration_since(self.last_wait_end()) < Duration::ZERO || self.lingered;
        }
        if !self.held.is_empty() && now.duration_since(self.last_pass) >= self.shared.heartbeat() {
            return true;
        }
        self.claim_is_due(now)
    }
}
