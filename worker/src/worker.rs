//! A worker: how it is built, how it starts, and how it leaves. Its own work (lanes, upkeep, listening, health) runs on a runtime of its own, so that
//! handlers, which run on the application's, cannot starve a heartbeat.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use futures::FutureExt;
use longshore_core::cycle::Sender;
use longshore_core::fleet::{self, Registration};
use longshore_core::notify::Notifier;
use longshore_core::pacing::Pacing;
use longshore_core::session::{Access, Route};
use longshore_core::{database, migrate};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::handler::{Handler, Handlers};
use crate::http::{self, Health};
use crate::lane::{Lane, LaneSpec, Serves, Wake};
use crate::metrics::{Metrics, Scrape};
use crate::shared::{FrameNumbers, Shared, UnknownHandlers};
use crate::stall;
use crate::sweep::Sweeps;
use crate::system::{self, SystemConfig, SystemTasks};
use crate::upkeep::{self, AllQueues, Lanes, Upkeep};
use crate::versions::Versions;

/// Beyond this many slots a worker opens another lane.
const SLOTS_PER_LANE: u32 = 100;

/// After the grace, how long the lanes may take to give back what they hold.
const RELEASE_WITHIN: Duration = Duration::from_secs(5);

/// How many handlers of one queue a worker runs at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots(pub u32);

/// Why a worker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Postgres cannot be reached.
    #[error(transparent)]
    Connect(#[from] database::Error),
    /// The schema is missing or too old: run `longshore migrate up`.
    #[error(transparent)]
    Schema(#[from] migrate::Error),
    /// A statement failed.
    #[error("postgres refused to set the worker up: {0}")]
    Database(#[from] sqlx::Error),
    /// The address for metrics and health cannot be taken.
    #[error(transparent)]
    Listen(#[from] http::Error),
    /// The metrics recorder cannot be installed.
    #[error("metrics cannot be set up: {0}")]
    Metrics(String),
    /// The worker's own threads cannot be started.
    #[error("the worker's threads cannot be started: {0}")]
    Threads(#[source] std::io::Error),
    /// Pruning detaches partitions, which no pooler can do: there must be a way past it.
    #[error(
        "pruning needs a connection past the pooler: give --direct-url (`direct_url`), or leave --prune-older-than to a worker that has one"
    )]
    PruneNeedsDirect,
    /// The lease is too short to heartbeat within it.
    #[error("a lease of {0:?} is too short: give at least 500ms")]
    Lease(Duration),
}

/// Builds a [`Worker`].
#[derive(Debug)]
pub struct WorkerBuilder {
    url: String,
    route: Route,
    direct_url: Option<String>,
    name: Option<String>,
    handlers: Handlers,
    queues: BTreeMap<String, u32>,
    all_queues: Option<u32>,
    lease: Duration,
    grace: Duration,
    listen: Option<SocketAddr>,
    connections: Option<u32>,
    system_lane: bool,
    prune_older_than: Option<Duration>,
}

/// A running member of the fleet. Dropping it abandons what it holds, which others take over when the lease is over; [`Worker::until`] leaves well.
pub struct Worker {
    worker_id: Uuid,
    shared: Arc<Shared>,
    access: Access,
    runtime: Option<Runtime>,
    system: Option<JoinHandle<()>>,
    health: Health,
    address: Option<SocketAddr>,
    grace: Duration,
    served: CancellationToken,
}

impl WorkerBuilder {
    /// Register a handler under the name that `task` nodes use.
    #[must_use]
    pub fn handler<I, O>(mut self, name: &str, handler: impl Handler<I, O>) -> Self
    where
        I: DeserializeOwned + Send + 'static,
        O: Serialize + Send + 'static,
    {
        self.handlers.add(name, handler);
        self
    }

    /// Take in all of these handlers; one that is registered already stays.
    #[must_use]
    pub fn handlers(mut self, handlers: Handlers) -> Self {
        self.handlers.add_missing(handlers);
        self
    }

    /// Serve this queue. Without any the worker serves `default` with 100 slots.
    #[must_use]
    pub fn queue(mut self, name: &str, slots: Slots) -> Self {
        self.queues.insert(name.to_owned(), slots.0.max(1));
        self
    }

    /// Serve every queue there is, also those that come later, with so many slots each.
    #[must_use]
    pub fn all_queues(mut self, slots: Slots) -> Self {
        self.all_queues = Some(slots.0.max(1));
        self
    }

    /// How long the worker may be silent before others take its steps over; 15 s by default. A step it held then runs twice at worst.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How long handlers may go on once the worker is told to leave; 30 s by default.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Serve `/metrics` and `/health/*` here; port 0 takes any free port. Without it nothing is served.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }

    /// At most so many connections for its lanes, which take turns where there are more of them, and as many for everything else, besides the one that
    /// listens and those of the system lane. By default each lane has its own.
    #[must_use]
    pub fn connections(mut self, connections: u32) -> Self {
        self.connections = Some(connections.max(1));
        self
    }

    /// The database URL leads through a pooler in transaction mode, such as PgBouncer with `pool_mode = transaction`: each statement goes unnamed and in
    /// an explicit transaction. Without [`WorkerBuilder::direct_url`] the worker only polls and has no system lane. A transaction that a handler
    /// gives to `complete_in` may come through the pooler, too.
    #[must_use]
    pub fn pooled(mut self) -> Self {
        self.route = Route::Pooled;
        self
    }

    /// Where to listen for hints, and where the system lane works: a URL that leads past any pooler.
    #[must_use]
    pub fn direct_url(mut self, url: &str) -> Self {
        self.direct_url = Some(url.to_owned());
        self
    }

    /// Leave pruning and the making of partitions to other workers.
    #[must_use]
    pub fn without_system_lane(mut self) -> Self {
        self.system_lane = false;
        self
    }

    /// Let the system lane prune runs that ended longer ago than this; nothing is pruned without it.
    #[must_use]
    pub fn prune_older_than(mut self, age: Duration) -> Self {
        self.prune_older_than = Some(age);
        self
    }

    /// What an operator calls this worker; host and process id by default.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Join the fleet. Claims at once. Handlers run on the runtime this is called on.
    pub async fn start(self) -> Result<Worker, StartError> {
        if self.lease < Duration::from_millis(500) {
            return Err(StartError::Lease(self.lease));
        }
        if self.system_lane && self.prune_older_than.is_some() && self.direct().is_none() {
            return Err(StartError::PruneNeedsDirect);
        }
        let application = tokio::runtime::Handle::current();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("longshore")
            .enable_all()
            .build()
            .map_err(StartError::Threads)?;
        let handle = runtime.handle().clone();
        // connections belong to the runtime that opens them
        let started = handle.spawn(self.set_up(application)).await;
        match started {
            Ok(Ok(mut worker)) => {
                worker.runtime = Some(runtime);
                Ok(worker)
            }
            Ok(Err(error)) => {
                runtime.shutdown_background();
                Err(error)
            }
            Err(error) => {
                runtime.shutdown_background();
                Err(StartError::Threads(std::io::Error::other(error)))
            }
        }
    }

    async fn set_up(mut self, application: tokio::runtime::Handle) -> Result<Worker, StartError> {
        let (metrics, scrape) = Metrics::install().map_err(|error| StartError::Metrics(error.to_string()))?;
        let total = |queues: &BTreeMap<String, u32>| queues.values().sum::<u32>();
        if self.queues.is_empty() && self.all_queues.is_none() {
            self.queues.insert("default".to_owned(), SLOTS_PER_LANE);
        }
        let most = self.connections.unwrap_or(u32::MAX);
        let direct = self.direct().map(str::to_owned);
        let direct_options = direct.as_deref().map(database::options).transpose()?;
        let access = Access::connect(&self.url, most.min(2 + 4), self.route).await?;
        let mut session = access.session().await?;
        migrate::check(&mut session).await?;
        // three months are in hand: whoever may make them does so in time
        if let Err(error) = longshore_core::upkeep::make_partitions(&mut session).await {
            tracing::warn!(%error, "no partitions for attempts are made by this worker");
        }
        let names: Vec<String> = self.queues.keys().cloned().collect();
        fleet::ensure_queues(&mut session, &names).await?;
        let known = fleet::queues(&mut session).await?;
        if let Some(slots) = self.all_queues {
            self.queues = known.values().map(|name| (name.clone(), slots)).collect();
        }
        let slots: Vec<(i32, u32)> =
            known.iter().filter_map(|(id, name)| Some((*id, *self.queues.get(name)?))).collect();
        let lanes = total(&self.queues).div_ceil(SLOTS_PER_LANE).max(1);
        let registration = self.registration(total(&self.queues));
        fleet::register(&mut session, &registration).await?;
        drop(session);
        // one connection for each lane, the lane for lonely steps, upkeep, and two to spare
        let lane_access = Access::connect(&self.url, most.min(lanes + 3), self.route).await?;
        let shared = Arc::new(Shared {
            sender: Sender { access: lane_access, worker_id: registration.worker_id, lease: self.lease },
            keep_lines: most >= lanes + 3,
            heartbeat: self.lease / 5,
            handlers: self.handlers,
            unknown: UnknownHandlers::default(),
            versions: Versions::new(access.clone()),
            metrics,
            sweeps: Sweeps::default(),
            marks: Mutex::default(),
            runtime: application,
            blocked: AtomicBool::new(false),
            draining: CancellationToken::new(),
            stop: CancellationToken::new(),
            abandon: CancellationToken::new(),
            notifier: Notifier::start(access.clone()),
            timer_set: Notify::new(),
            lanes: TaskTracker::new(),
            occupied: AtomicUsize::new(0),
            queue_names: RwLock::new(known.into_iter().collect()),
            frame_numbers: FrameNumbers::default(),
        });
        let health = Health::new();
        let served = CancellationToken::new();
        let address = match self.listen {
            Some(address) => Some(serve(address, scrape, health.clone(), served.clone()).await?),
            None => None,
        };
        let mut wakes = Vec::new();
        let mut serves = Vec::new();
        for lane in 0..lanes {
            let share = |slots: u32| i32::try_from(slots / lanes + u32::from(lane < slots % lanes)).unwrap_or(i32::MAX);
            let slots = slots.iter().map(|(id, slots)| (*id, share(*slots))).filter(|(_, slots)| *slots > 0).collect();
            let slots = Serves::new(slots);
            serves.push(slots.clone());
            let wake = open(&shared, LaneSpec { slots, solo: false, private: false });
            wakes.push(wake);
        }
        let alone = Serves::new(slots.iter().map(|(id, _)| (*id, 1)).collect());
        let solo = open(&shared, LaneSpec { slots: alone.clone(), solo: true, private: false });
        let queues: Vec<i32> = slots.iter().map(|(id, _)| *id).collect();
        let system = match direct_options {
            Some(options) if self.system_lane => {
                let config = SystemConfig::new(registration.worker_id.to_string(), self.prune_older_than);
                Some(system::spawn(options, config, system_tasks(&shared.metrics), shared.draining.clone()))
            }
            _ => None,
        };
        match direct {
            Some(url) => {
                let told = serves.iter().cloned().zip(wakes.iter().cloned()).collect();
                tokio::spawn(upkeep::listen(shared.clone(), url, told, (alone.clone(), solo.clone())));
            }
            None => tracing::warn!(
                "a pooler and no direct URL: this worker polls, and leaves pruning and partition upkeep to others"
            ),
        }
        let worker_id = registration.worker_id;
        let upkeep = Upkeep {
            shared: shared.clone(),
            access: access.clone(),
            registration,
            queues,
            lanes: Lanes { normal: wakes, solo },
            all: self.all_queues.map(|slots| AllQueues { serves, alone: alone.clone(), slots: share_of(slots, lanes) }),
            health: health.clone(),
        };
        tokio::spawn(upkeep.run());
        tokio::spawn(stall::watch(shared.clone(), health.clone()));
        health.started();
        tracing::info!(%worker_id, lanes, address = ?address, "the worker claims");
        Ok(Worker { worker_id, shared, access, runtime: None, system, health, address, grace: self.grace, served })
    }

    /// The URL that leads past any pooler, if there is one.
    fn direct(&self) -> Option<&str> {
        self.direct_url.as_deref().or_else(|| (self.route == Route::Direct).then_some(self.url.as_str()))
    }

    fn registration(&self, slots: u32) -> Registration {
        let host = std::fs::read_to_string("/etc/hostname").map(|name| name.trim().to_owned()).unwrap_or_default();
        let host = if host.is_empty() { "localhost".to_owned() } else { host };
        let pid = std::process::id();
        Registration {
            worker_id: Uuid::now_v7(),
            name: self.name.clone().unwrap_or_else(|| format!("{host}-{pid}")),
            host,
            pid: i32::try_from(pid).unwrap_or(0),
            queues: self.queues.keys().cloned().collect(),
            handlers: self.handlers.names(),
            slots: i32::try_from(slots).unwrap_or(i32::MAX),
        }
    }
}

/// A lane's share of a queue's slots.
fn share_of(slots: u32, lanes: u32) -> i32 {
    i32::try_from(slots.div_ceil(lanes)).unwrap_or(i32::MAX)
}

/// Open a lane that is opened again should it ever break; what it held then is reclaimed.
fn open(shared: &Arc<Shared>, spec: LaneSpec) -> Arc<Wake> {
    let wake = Arc::new(Wake::default());
    let (again, told) = (shared.clone(), wake.clone());
    shared.lanes.spawn(async move {
        let mut pacing = Pacing::reconnect();
        loop {
            let lane = Lane::new(again.clone(), spec.clone(), told.clone());
            if AssertUnwindSafe(lane.run()).catch_unwind().await.is_ok() {
                return;
            }
            tracing::error!(
                "a lane broke, which is a mistake of longshore's: what it held is reclaimed when its lease is over"
            );
            tokio::time::sleep(pacing.pause()).await;
        }
    });
    wake
}

/// What the system lane does for the fleet.
pub(crate) fn system_tasks(metrics: &Metrics) -> SystemTasks {
    let metrics = metrics.clone();
    SystemTasks {
        make_partitions: Arc::new(|pool, ()| {
            Box::pin(async move {
                longshore_core::upkeep::make_partitions(&mut *pool.acquire().await?).await?;
                Ok(())
            })
        }),
        prune: Arc::new(|pool, older_than| {
            Box::pin(async move {
                let pruned = longshore_core::prune::prune(&pool, older_than).await?;
                tracing::info!(?pruned, "pruned runs that ended long ago");
                Ok(())
            })
        }),
        check_stuck: Arc::new(move |pool, ()| {
            let metrics = metrics.clone();
            Box::pin(async move {
                let stuck = longshore_core::doctor::stuck_runs(&mut *pool.acquire().await?).await?;
                metrics.stuck_runs(u64::try_from(stuck).unwrap_or(0));
                if stuck > 0 {
                    tracing::error!(
                        stuck,
                        "live runs that nothing holds, a broken promise: ask `longshore doctor` which"
                    );
                }
                Ok(())
            })
        }),
    }
}

async fn serve(
    address: SocketAddr,
    scrape: Scrape,
    health: Health,
    served: CancellationToken,
) -> Result<SocketAddr, http::Error> {
    let listener = http::bind(address).await?;
    let taken = listener.local_addr().unwrap_or(address);
    tokio::spawn(async move {
        if let Err(error) = http::serve(listener, scrape, health, served).await {
            tracing::error!(%error, "metrics and health are not served any more");
        }
    });
    Ok(taken)
}

impl Worker {
    /// A worker for this database (`postgres://…`).
    pub fn builder(database_url: &str) -> WorkerBuilder {
        WorkerBuilder {
            url: database_url.to_owned(),
            route: Route::Direct,
            direct_url: None,
            name: None,
            handlers: Handlers::new(),
            queues: BTreeMap::new(),
            all_queues: None,
            lease: Duration::from_secs(15),
            grace: Duration::from_secs(30),
            listen: None,
            connections: None,
            system_lane: true,
            prune_older_than: None,
        }
    }

    /// This process's id in the table `workers`.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.worker_id
    }

    /// Look for timers that are due before the next tick would.
    pub(crate) fn look_for_timers(&self) {
        self.shared.timer_set.notify_one();
    }

    /// Tell the fleet that this queue has work.
    pub(crate) fn tell(&self, queue: &str) {
        self.shared.notifier.notify(queue);
    }

    /// Where `/metrics` and `/health/*` are served, if they are.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Work until `leave` ends, then drain: claim nothing more, let handlers finish within the grace, and give the rest back uncharged.
    /// If `leave` is awaited again by [`Worker::until_or_now`] a second signal cuts the grace short.
    pub async fn until(self, leave: impl Future<Output = ()>) {
        self.until_or_now(leave, std::future::pending()).await;
    }

    /// As [`Worker::until`]; while it drains, `now` ends the grace at once.
    pub async fn until_or_now(mut self, leave: impl Future<Output = ()>, now: impl Future<Output = ()>) {
        leave.await;
        tracing::info!(grace = ?self.grace, "draining: nothing more is claimed");
        self.health.draining();
        self.shared.draining.cancel();
        if let Ok(Ok(mut session)) = tokio::time::timeout(Duration::from_secs(1), self.access.session()).await {
            let said = tokio::time::timeout(Duration::from_secs(1), fleet::drain(&mut session, self.worker_id)).await;
            tracing::debug!(?said, "told the fleet");
        }
        let grace = tokio::time::sleep(self.grace);
        self.shared.lanes.close();
        tokio::select! {
            () = self.shared.lanes.wait() => {}
            () = grace => tracing::warn!("the grace is over: giving back what handlers did not finish"),
            () = now => tracing::warn!("told again to leave: giving back what handlers did not finish"),
        }
        self.shared.stop.cancel();
        if tokio::time::timeout(RELEASE_WITHIN, self.shared.lanes.wait()).await.is_err() {
            tracing::error!("could not give back all steps: they are reclaimed when their lease is over");
            self.shared.abandon.cancel();
        }
        if let Ok(Ok(mut session)) = tokio::time::timeout(Duration::from_secs(2), self.access.session()).await {
            let gone =
                tokio::time::timeout(Duration::from_secs(2), fleet::deregister(&mut session, self.worker_id)).await;
            tracing::debug!(?gone, "left the fleet");
        }
        if let Some(system) = self.system.take() {
            // a job under way goes back to its queue
            let ended = tokio::time::timeout(Duration::from_secs(2), system).await;
            tracing::debug!(?ended, "the system lane ended");
        }
        self.served.cancel();
        let closed = async { tokio::join!(self.shared.sender.access.pool().close(), self.access.pool().close()) };
        let closed = tokio::time::timeout(Duration::from_secs(1), closed).await;
        tracing::debug!(?closed, "closed the connections");
        tracing::info!("left the fleet");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.abandon.cancel();
        self.served.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
