//! A worker's clockwork: one statement a tick carries its heartbeat, promotes timers and tells what else there is to do, for this worker (wake a
//! lane) or for the fleet (take back the steps of a dead lane, settle closed runs). The ticks of a fleet spread, so that an idle one of any size
//! costs Postgres about the same.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use longshore_core::fleet::{self, Registration};
use longshore_core::pacing::Pacing;
use longshore_core::queue::PRIORITIES;
use longshore_core::session::{Access, Session};
use longshore_core::upkeep::{self, Settling, Tick};
use longshore_core::{notify, sample};
use sqlx::postgres::PgListener;

use crate::http::Health;
use crate::lane::{Serves, Wake};
use crate::shared::Shared;
use crate::sweep::rest_after;

/// A worker alone ticks this often; of n workers each ticks every n times that.
const TICK: Duration = Duration::from_millis(500);

/// However large the fleet, a worker ticks at least this often (heartbeats count as live for 30 s).
const LONGEST_TICK: Duration = Duration::from_secs(10);

/// Timers set within this time of each other share a tick.
const TIMERS_TOGETHER: Duration = Duration::from_millis(20);

/// Timers promoted by one tick.
const PROMOTE: i32 = 1000;

/// How often the whole table of lanes is read for leases that the registry misses, and dead workers are forgotten.
const BACKSTOP: Duration = Duration::from_secs(60);

/// How often one worker samples the database for the metrics; a fleet takes turns.
const SAMPLE: Duration = Duration::from_secs(15);

/// A tick that took steps back is followed by the next one so soon.
const AFTER_RECLAIM: Duration = Duration::from_millis(100);

/// Lanes reaped by one tick: a bound, since each is its own transaction.
const REAP: usize = 200;

/// The lanes to wake: all that claim from queues, and the one for lonely steps.
pub(crate) struct Lanes {
    pub(crate) normal: Vec<Arc<Wake>>,
    pub(crate) solo: Arc<Wake>,
}

/// Lanes that serve every queue there is.
pub(crate) struct AllQueues {
    pub(crate) serves: Vec<Serves>,
    pub(crate) alone: Serves,
    /// A lane's slots for a queue that comes later.
    pub(crate) slots: i32,
}

/// How often a worker that serves all queues looks for new ones.
const NEW_QUEUES: Duration = Duration::from_secs(2);

/// See the module.
pub(crate) struct Upkeep {
    pub(crate) all: Option<AllQueues>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) access: Access,
    pub(crate) registration: Registration,
    pub(crate) queues: Vec<i32>,
    pub(crate) lanes: Lanes,
    pub(crate) health: Health,
}

impl Upkeep {
    /// Tick until the worker has left.
    pub(crate) async fn run(mut self) {
        let mut settling = Settling::default();
        let mut from_start = Instant::now();
        let mut pacing = Pacing::reconnect();
        let (mut backstop, mut sampled, mut discovered) = (Instant::now(), None, Instant::now());
        loop {
            let began = Instant::now();
            let full = began >= from_start;
            let pause = match self.tick(&mut settling, full).await {
                Ok(tick) => {
                    pacing.reset();
                    if full {
                        from_start = began + rest_after(tick.took);
                    }
                    let period = (TICK * tick.live.max(1)).min(LONGEST_TICK);
                    self.health.upkeep_ok(period.max(Duration::from_secs(5)));
                    if self.all.is_some() && began >= discovered + NEW_QUEUES {
                        discovered = began;
                        self.discover().await;
                    }
                    if began >= backstop + BACKSTOP {
                        backstop = began;
                        self.backstop().await;
                    }
                    if sampled.is_none_or(|sampled| began >= sampled + SAMPLE * tick.live.max(1)) {
                        sampled = Some(began);
                        self.sample().await;
                    }
                    next_tick(&tick, period, full)
                }
                Err(error) => {
                    tracing::warn!(%error, "upkeep found no database, trying again");
                    pacing.pause()
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // a timer was set that may be due before the tick; many at once cost one look
                () = self.shared.timer_set.notified() => tokio::time::sleep(TIMERS_TOGETHER).await,
            }
        }
    }

    /// One tick; a full one looks for step jobs from the start of the queues, the others above the lanes' marks.
    async fn tick(&self, settling: &mut Settling, full: bool) -> Result<Tick, sqlx::Error> {
        let began = Instant::now();
        let mut session = self.access.session().await?;
        self.shared.metrics.pool_wait(began.elapsed());
        let occupied = self.shared.occupied.load(Ordering::Relaxed);
        let slots = usize::try_from(self.registration.slots).unwrap_or(0);
        self.shared.metrics.slots(occupied, slots.saturating_sub(occupied));
        let marks = self.marks(full);
        let tick = upkeep::tick(&mut session, self.registration.worker_id, &self.queues, &marks, PROMOTE).await?;
        if !tick.known && !self.shared.draining.is_cancelled() {
            fleet::register(&mut session, &self.registration).await?;
        }
        for queue_id in &tick.promoted_queues {
            self.shared.tell(*queue_id);
        }
        if !tick.ready.is_empty() {
            self.lanes.normal.iter().for_each(|lane| if full { lane.sweep() } else { lane.hint() });
        }
        if !tick.solo.is_empty() {
            self.lanes.solo.sweep();
        }
        if tick.expired {
            self.reap(&mut session, false).await?;
        }
        if tick.closings {
            settling.step(&mut session).await?;
        }
        Ok(tick)
    }

    fn marks(&self, full: bool) -> Vec<i64> {
        let marks = self.shared.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let mark = |(queue_id, priority): (i32, i16)| if full { 0 } else { marks.get(queue_id, priority) };
        self.queues
            .iter()
            .flat_map(|queue_id| PRIORITIES.map(move |priority| (*queue_id, priority)))
            .map(mark)
            .collect()
    }

    async fn reap(&self, session: &mut Session<'_>, scan: bool) -> Result<(), sqlx::Error> {
        let mut any = false;
        for _ in 0..REAP {
            let Some(reaped) = upkeep::reap(&mut *session, scan).await? else { break };
            let steps = u64::try_from(reaped.steps).unwrap_or(0);
            tracing::warn!(lane_id = reaped.lane_id, worker_id = ?reaped.worker_id, steps, "took back the steps of a lane whose lease was over");
            self.shared.metrics.leases_lost(steps);
            self.lanes.normal.iter().for_each(|lane| lane.sweep());
            self.lanes.solo.sweep();
            any = true;
        }
        if any {
            // each must be alone in its lane, of which a worker has one: the fleet shares them
            let names = self.shared.queue_names.read().unwrap_or_else(PoisonError::into_inner);
            for name in self.queues.iter().filter_map(|id| names.get(id)) {
                self.shared.notifier.notify(&format!("{}{name}", notify::ALONE));
            }
        }
        Ok(())
    }

    /// Serve the queues that came since.
    async fn discover(&mut self) {
        let (known, Some(all)) = (fleet::queues(&self.access).await, &self.all) else { return };
        let served = self.queues.len();
        for (queue_id, name) in known.unwrap_or_default() {
            if self.queues.contains(&queue_id) {
                continue;
            }
            tracing::info!(queue = name, "serving a new queue");
            all.serves.iter().for_each(|lane| lane.add(queue_id, all.slots));
            all.alone.add(queue_id, 1);
            self.queues.push(queue_id);
            self.registration.queues.push(name.clone());
            let mut names = self.shared.queue_names.write().unwrap_or_else(PoisonError::into_inner);
            names.insert(queue_id, name);
        }
        if served == self.queues.len() {
            return;
        }
        if let Err(error) = fleet::register(&self.access, &self.registration).await {
            tracing::warn!(%error, "cannot tell the fleet which queues this worker serves");
        }
    }

    async fn backstop(&self) {
        let done = async {
            let mut session = self.access.session().await?;
            self.reap(&mut session, true).await?;
            fleet::forget_dead(&mut session).await
        };
        if let Err(error) = done.await {
            tracing::warn!(%error, "the backstop found no database");
        }
    }

    async fn sample(&self) {
        let done = async {
            let mut session = self.access.session().await?;
            let queues = sample::queues(&mut session).await?;
            Ok::<_, sqlx::Error>((queues, sample::database(&mut session).await?))
        };
        match done.await {
            Ok((queues, database)) => {
                for queue in queues {
                    self.shared.metrics.queue_sample(&queue.name, queue.oldest_ready, queue.ready, queue.delayed);
                }
                let dead: Vec<(&str, u64)> =
                    database.dead_rows.iter().map(|(table, rows)| (table.as_str(), *rows)).collect();
                self.shared.metrics.database_sample(database.oldest_snapshot, &dead);
            }
            Err(error) => tracing::warn!(%error, "cannot sample the database"),
        }
    }
}

/// When to tick again: by the period, when the next timer is due, when a lease ends, at once when more timers are due; but a tick that took long (a
/// pinned snapshot
/// makes it walk over dead timers) rests first. A full one took long for its look, which has a pace of its own.
fn next_tick(tick: &Tick, period: Duration, full: bool) -> Duration {
    let more = tick.promoted >= PROMOTE.unsigned_abs();
    let due = if more { Some(Duration::ZERO) } else { tick.next_due.map(|due| due + Duration::from_millis(2)) };
    let period = period.mul_f64(rand::random_range(0.8..1.2));
    let rest = if full { Duration::ZERO } else { rest_after(tick.took) };
    // a lease that nobody renewed until then is over; behind one that was over there may be others
    let expiry = match (tick.expired, tick.next_expiry) {
        (true, _) => AFTER_RECLAIM,
        (false, Some(expiry)) => expiry + Duration::from_millis(20),
        (false, None) => period,
    };
    due.map_or(period, |due| due.min(period)).min(expiry).max(rest).max(Duration::from_millis(2))
}

/// Listen for hints that a queue has work; they may come late or never. Polling goes on beside it.
pub(crate) async fn listen(
    shared: Arc<Shared>,
    url: String,
    wakes: Vec<(Serves, Arc<Wake>)>,
    solo: (Serves, Arc<Wake>),
) {
    let mut pacing = Pacing::reconnect();
    loop {
        let error = match listen_once(&shared, &url, &wakes, &solo, &mut pacing).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        tracing::warn!(%error, "lost the connection that listens, connecting again");
        tokio::time::sleep(pacing.pause()).await;
    }
}

async fn listen_once(
    shared: &Shared,
    url: &str,
    wakes: &[(Serves, Arc<Wake>)],
    solo: &(Serves, Arc<Wake>),
    pacing: &mut Pacing,
) -> Result<std::convert::Infallible, sqlx::Error> {
    let mut listener = PgListener::connect(url).await?;
    listener.listen(notify::CHANNEL).await?;
    pacing.reset();
    loop {
        let hint = listener.recv().await?;
        let names = shared.queue_names.read().unwrap_or_else(PoisonError::into_inner);
        let serves =
            |queues: &Serves, name: &str| queues.get().iter().any(|(id, _)| names.get(id).is_some_and(|n| n == name));
        if let Some(name) = hint.payload().strip_prefix(notify::ALONE) {
            if serves(&solo.0, name) {
                solo.1.sweep();
            }
            continue;
        }
        for (_, wake) in wakes.iter().filter(|(queues, _)| serves(queues, hint.payload())) {
            wake.hint();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(next_due: Option<Duration>, promoted: u32, took: Duration) -> Tick {
        Tick {
            known: true,
            live: 1,
            promoted,
            next_due,
            promoted_queues: Vec::new(),
            ready: Vec::new(),
            solo: Vec::new(),
            next_expiry: None,
            expired: false,
            closings: false,
            took,
        }
    }

    #[test]
    fn a_tick_comes_when_the_next_timer_is_due() {
        let pause = next_tick(&tick(Some(Duration::from_millis(100)), 0, Duration::from_millis(1)), TICK, false);
        assert_eq!(pause, Duration::from_millis(102));
        assert!(next_tick(&tick(None, 1000, Duration::ZERO), TICK, false) <= Duration::from_millis(2));
        assert!(next_tick(&tick(None, 0, Duration::ZERO), TICK, false) >= Duration::from_millis(400));
    }

    #[test]
    fn slow_ticks_rest() {
        assert_eq!(next_tick(&tick(None, 1000, Duration::from_millis(40)), TICK, false), Duration::from_millis(800));
    }
}
