//! The system lane: rare upkeep of the whole fleet (partitions ahead, pruning, a look for stuck runs) as jobs of apalis, on its own small queue
//! and its own connections.
//! The only module that knows apalis. Its clocks are workers' clocks and a job may run twice at once, so jobs are idempotent and
//! nothing that a run needs soon is done here. A worker that may not create the queue's schema goes without, and says so.

use std::any::Any;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use apalis::layers::catch_panic::CatchPanicLayer;
use apalis::layers::tracing::{DefaultOnFailure, TraceLayer};
use apalis::prelude::{
    BoxDynError, Context, Data, Event, Monitor, Worker, WorkerBuilder, WorkerBuilderExt, WorkerFactoryFn,
};
use apalis_sql::Config;
use apalis_sql::postgres::PostgresStorage;
use futures::FutureExt;
use futures::future::BoxFuture;
use longshore_core::database::{self, ErrorKind};
use longshore_core::pacing::Pacing;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool, Row};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Level;

/// The job type in `apalis.jobs`.
const NAMESPACE: &str = "longshore::system";
/// One for the job under way, two for the queue itself.
const MAX_CONNECTIONS: u32 = 3;
/// Partitions are made months ahead, so a few times a day is plenty.
const MAKE_PARTITIONS_EVERY: Duration = Duration::from_secs(6 * 3600);
const PRUNE_EVERY: Duration = Duration::from_secs(3600);
/// The look reads every run, so not more often. The gauge it sets lives somewhat longer (see `metrics`).
const CHECK_STUCK_EVERY: Duration = Duration::from_secs(600);
/// A job that takes longer is dropped, and begun again later.
const JOB_TIMEOUT: Duration = Duration::from_secs(45 * 60);
/// How long a worker must have been silent until others take its jobs; apalis compares the workers' own clocks.
const ORPHANED_AFTER: Duration = Duration::from_secs(2 * 3600);
const KEEP_ALIVE: Duration = Duration::from_secs(300);
/// What apalis is given to write down how a job ended.
const RECORDING: Duration = Duration::from_secs(1);
/// How often set-up may collide with that of other workers.
const MAX_REFUSED: u32 = 10;

/// What the system lane does, as the rest of the worker supplies it. Each must be safe to repeat and to run twice at once.
#[derive(Clone)]
pub(crate) struct SystemTasks {
    /// Make the partitions that coming runs will need.
    pub(crate) make_partitions: Task<()>,
    /// Delete runs that ended longer ago than this.
    pub(crate) prune: Task<Duration>,
    /// Count the live runs that nothing holds and show it.
    pub(crate) check_stuck: Task<()>,
}

/// An async function of the worker, given the lane's own pool, which leads past any pooler.
pub(crate) type Task<A> = Arc<dyn Fn(PgPool, A) -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync>;

/// How a system lane works.
#[derive(Clone, Debug)]
pub(crate) struct SystemConfig {
    /// This process, by a name that no other one has.
    pub(crate) worker: String,
    /// How long ended runs are kept; nothing is pruned without it.
    pub(crate) prune_older_than: Option<Duration>,
    /// Between two looks at the queue.
    pub(crate) poll: Duration,
    /// Between two times that this worker sees to it that jobs are on the queue.
    pub(crate) tick: Duration,
    /// Between two looks for stuck runs.
    pub(crate) check_stuck: Duration,
}

impl SystemConfig {
    /// Rates at which a large fleet costs Postgres next to nothing.
    pub(crate) fn new(worker: String, prune_older_than: Option<Duration>) -> Self {
        let (poll, tick) = (Duration::from_secs(60), CHECK_STUCK_EVERY / 2);
        Self { worker, prune_older_than, poll, tick, check_stuck: CHECK_STUCK_EVERY }
    }
}

/// A job of the system lane, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum SystemJob {
    MakePartitions,
    Prune {
        #[serde(with = "longshore_core::duration")]
        older_than: Duration,
    },
    CheckStuck,
    /// Written by a newer worker. apalis panics on a job that does not read, so this one reads anything.
    #[serde(untagged)]
    Unknown(Value),
}

/// Run the lane until `shutdown`; a job under way is then dropped and left to another worker. `options` must lead past any
/// pooler. Returns at once; the task ends early where the lane cannot work, after a warning.
pub(crate) fn spawn(
    options: PgConnectOptions,
    config: SystemConfig,
    tasks: SystemTasks,
    shutdown: CancellationToken,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let lane = AssertUnwindSafe(run(options, config, tasks, shutdown));
        match lane.catch_unwind().await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(
                %error, "this worker goes on without the system lane: pruning and partition upkeep are left to others"
            ),
            Err(_) => tracing::error!("the system lane panicked: this worker goes on without it"),
        }
    })
}

/// Why a worker has no system lane.
#[derive(Debug)]
enum Error {
    /// An `apalis` schema that is not ours is there, of another version.
    Foreign,
    /// Postgres refuses to make the schema, the extension or the tables.
    Setup(sqlx::Error),
    /// The monitor of apalis failed.
    Monitor(std::io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Foreign => f.write_str(
                "the schema apalis of this database has another version, migrate it or use another database",
            ),
            Error::Setup(error) => {
                write!(f, "the schemas apalis and longshore_system or the extension pgcrypto cannot be made: {error}")
            }
            Error::Monitor(error) => write!(f, "the monitor failed: {error}"),
        }
    }
}

async fn run(
    options: PgConnectOptions,
    config: SystemConfig,
    tasks: SystemTasks,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        ready = set_up(&options) => ready?,
    }
    let pool = PgPoolOptions::new().max_connections(MAX_CONNECTIONS).connect_lazy_with(options);
    let working = work(pool.clone(), config.clone(), tasks, shutdown);
    let keeping = keep_enqueued(pool.clone(), config);
    let worked = tokio::select! {
        worked = working => worked,
        () = keeping => Ok(()),
    };
    pool.close().await;
    worked.map_err(Error::Monitor)
}

/// Make the queue's tables, or find them. Several workers may do so at once.
async fn set_up(options: &PgConnectOptions) -> Result<(), Error> {
    let mut pacing = Pacing::idle(Duration::from_millis(500), Duration::from_secs(30));
    let mut refused = 0;
    loop {
        let error = match set_up_once(options).await {
            Ok(true) => return Ok(()),
            Ok(false) => return Err(Error::Foreign),
            Err(error) => error,
        };
        match database::kind(&error) {
            ErrorKind::Fatal => return Err(Error::Setup(error)),
            // Another worker made the same thing in the same instant: it is there the next time.
            ErrorKind::Data if refused == MAX_REFUSED => return Err(Error::Setup(error)),
            ErrorKind::Data => refused += 1,
            ErrorKind::Ambiguous | ErrorKind::Retryable => {}
        }
        tracing::debug!(%error, "setting up the system lane is tried again");
        tokio::time::sleep(pacing.pause()).await;
    }
}

/// Whether the tables are there now; false where another version of them is in the way.
async fn set_up_once(options: &PgConnectOptions) -> Result<bool, sqlx::Error> {
    let options = options.clone().options([("search_path", "longshore_system")]);
    let mut db = PgConnection::connect_with(&options).await?;
    let there = sqlx::query(include_str!("../../core/sql/system/find_tables.sql")).fetch_one(&mut db).await?;
    let ours: bool = there.try_get("ours")?;
    let found: bool = there.try_get("found")?;
    let usable: bool = there.try_get("usable")?;
    let usable = if ours || !found {
        migrate(&mut db).await?;
        true
    } else {
        usable
    };
    db.close().await?;
    Ok(usable)
}

async fn migrate(db: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(include_str!("../../core/sql/system/make_schema.sql")).execute(&mut *db).await?;
    let mut migrations = PostgresStorage::migrations();
    migrations.set_ignore_missing(true);
    migrations.run_direct(db).await.map_err(|error| match error {
        sqlx::migrate::MigrateError::Execute(error) | sqlx::migrate::MigrateError::ExecuteMigration(error, _) => error,
        error => sqlx::Error::Migrate(Box::new(error)),
    })
}

/// See to it, now and then, that every kind of job is on the queue once in its period.
async fn keep_enqueued(pool: PgPool, config: SystemConfig) {
    let mut due = tokio::time::interval(config.tick);
    loop {
        due.tick().await;
        if let Err(error) = enqueue_due(&pool, &config).await {
            tracing::warn!(%error, "system jobs are not enqueued, tried again later");
        }
    }
}

async fn enqueue_due(pool: &PgPool, config: &SystemConfig) -> Result<(), sqlx::Error> {
    enqueue(pool, &SystemJob::MakePartitions, 0, MAKE_PARTITIONS_EVERY).await?;
    enqueue(pool, &SystemJob::CheckStuck, 2, config.check_stuck).await?;
    if let Some(older_than) = config.prune_older_than {
        enqueue(pool, &SystemJob::Prune { older_than }, 1, PRUNE_EVERY).await?;
    }
    for forget in [
        include_str!("../../core/sql/system/forget_jobs.sql"),
        include_str!("../../core/sql/system/forget_workers.sql"),
    ] {
        sqlx::query(forget).bind(NAMESPACE).execute(pool).await?;
    }
    Ok(())
}

/// Whether it was this worker that put the job there. `kind` is one digit, different for each kind.
async fn enqueue(pool: &PgPool, job: &SystemJob, kind: i32, every: Duration) -> Result<bool, sqlx::Error> {
    let enqueued = sqlx::query(include_str!("../../core/sql/system/enqueue_job.sql"))
        .bind(NAMESPACE)
        .bind(sqlx::types::Json(job))
        .bind(kind)
        .bind(every.as_secs_f64())
        .execute(pool)
        .await?;
    Ok(enqueued.rows_affected() > 0)
}

/// The apalis worker, until `shutdown`.
async fn work(
    pool: PgPool,
    config: SystemConfig,
    tasks: SystemTasks,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let queue = Config::new(NAMESPACE)
        .set_buffer_size(1)
        .set_poll_interval(config.poll)
        .set_keep_alive(KEEP_ALIVE)
        .set_reenqueue_orphaned_after(ORPHANED_AFTER);
    let storage: PostgresStorage<SystemJob> = PostgresStorage::new_with_config(pool.clone(), queue);
    let worker = WorkerBuilder::new(format!("longshore/{}", config.worker))
        .layer(TraceLayer::new().on_failure(DefaultOnFailure::new().level(Level::WARN)))
        .layer(CatchPanicLayer::with_panic_handler(panicked))
        .concurrency(1)
        .data(Running { tasks, pool, shutdown: shutdown.clone() })
        .backend(storage)
        .build_fn(run_job);
    // Without a terminator: with one, apalis 0.7 wakes its workers only when that fires.
    Monitor::new()
        .register(worker)
        .on_event(log)
        .run_with_signal(async move {
            shutdown.cancelled().await;
            Ok(())
        })
        .await
}

/// What a job needs to run.
#[derive(Clone)]
struct Running {
    tasks: SystemTasks,
    pool: PgPool,
    shutdown: CancellationToken,
}

async fn run_job(job: SystemJob, running: Data<Running>, worker: Worker<Context>) -> Result<(), BoxDynError> {
    let pool = running.pool.clone();
    let (kind, task) = match job {
        SystemJob::MakePartitions => ("making partitions", (running.tasks.make_partitions)(pool, ())),
        SystemJob::Prune { older_than } => ("pruning", (running.tasks.prune)(pool, older_than)),
        SystemJob::CheckStuck => ("looking for stuck runs", (running.tasks.check_stuck)(pool, ())),
        SystemJob::Unknown(job) => {
            return Err(format!("no system job of this version: {job}").into());
        }
    };
    let outcome = tokio::select! {
        biased;
        () = running.shutdown.cancelled() => Err("left to another worker, this one stops".to_owned()),
        outcome = tokio::time::timeout(JOB_TIMEOUT, task) => match outcome {
            Ok(outcome) => outcome.map_err(|error| format!("{error:#}")),
            Err(_) => Err(format!("not done in {} s", JOB_TIMEOUT.as_secs())),
        },
    };
    // A stopping worker would not wait for the note of how the job ended, and the job would look held until it is orphaned.
    tokio::spawn(worker.track(tokio::time::sleep(RECORDING)));
    outcome.map_err(|error| format!("{kind}: {error}").into())
}

/// Unlike apalis' own answer to a panic, which ends the job for good, this one has it tried again.
fn panicked(panic: Box<dyn Any + Send>) -> apalis::prelude::Error {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    let error: BoxDynError = format!("the job panicked: {message}").into();
    apalis::prelude::Error::Failed(Arc::new(error))
}

/// What happens to a job is told by the trace layer; the rest is trouble with the queue itself.
fn log(event: Worker<Event>) {
    match event.inner() {
        Event::Error(error) if !error.is::<apalis::prelude::Error>() => {
            tracing::warn!(%error, "system lane");
        }
        event => tracing::trace!(?event, "system lane"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]
    use std::str::FromStr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;
    use tokio::sync::Notify;

    use super::*;

    /// A database of its own on the cluster that `LONGSHORE_TEST_DATABASE_URL` names.
    struct Database {
        server: PgConnectOptions,
        options: PgConnectOptions,
        name: String,
    }

    impl Database {
        async fn make() -> Option<Self> {
            let Ok(url) = std::env::var("LONGSHORE_TEST_DATABASE_URL") else {
                eprintln!("skipped: LONGSHORE_TEST_DATABASE_URL names no Postgres");
                return None;
            };
            let server = PgConnectOptions::from_str(&url).unwrap();
            let name = format!("system_lane_{}", uuid::Uuid::new_v4().simple());
            let database = Self { options: server.clone().database(&name), server, name };
            database.on_server(&format!("create database {}", database.name)).await;
            Some(database)
        }

        async fn on_server(&self, statement: &str) {
            let mut db = PgConnection::connect_with(&self.server).await.unwrap();
            sqlx::query(statement).execute(&mut db).await.unwrap();
        }

        async fn run(&self, statement: &str) -> u64 {
            let mut db = PgConnection::connect_with(&self.options).await.unwrap();
            sqlx::query(statement).execute(&mut db).await.unwrap().rows_affected()
        }

        async fn count(&self, query: &str) -> i64 {
            let mut db = PgConnection::connect_with(&self.options).await.unwrap();
            sqlx::query_scalar(query).fetch_one(&mut db).await.unwrap()
        }

        async fn until(&self, query: &str, expected: i64) {
            let seen = tokio::time::timeout(Duration::from_secs(20), async {
                while self.count(query).await != expected {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
            seen.await.unwrap_or_else(|_| panic!("never {expected}: {query}"));
        }

        async fn drop(self) {
            self.on_server(&format!("drop database {} with (force)", self.name)).await;
        }
    }

    fn config(worker: &str) -> SystemConfig {
        SystemConfig {
            poll: Duration::from_millis(100),
            tick: Duration::from_millis(200),
            check_stuck: PRUNE_EVERY,
            ..SystemConfig::new(worker.to_owned(), Some(Duration::from_secs(86_400)))
        }
    }

    #[derive(Default)]
    struct Calls {
        partitions: AtomicUsize,
        prunes: AtomicUsize,
        looks: AtomicUsize,
        prune_begins: Notify,
        prune_hangs: bool,
        prune_fails_first: bool,
    }

    fn tasks(calls: &Arc<Calls>) -> SystemTasks {
        let (partitions, prunes, looks) = (Arc::clone(calls), Arc::clone(calls), Arc::clone(calls));
        SystemTasks {
            make_partitions: Arc::new(move |_, ()| {
                partitions.partitions.fetch_add(1, Ordering::SeqCst);
                async { Ok(()) }.boxed()
            }),
            prune: Arc::new(move |_, older_than| prune(Arc::clone(&prunes), older_than).boxed()),
            check_stuck: Arc::new(move |pool, ()| {
                looks.looks.fetch_add(1, Ordering::SeqCst);
                async move {
                    sqlx::query("select 1").execute(&pool).await?;
                    Ok(())
                }
                .boxed()
            }),
        }
    }

    async fn prune(calls: Arc<Calls>, older_than: Duration) -> anyhow::Result<()> {
        assert_eq!(older_than, Duration::from_secs(86_400));
        let earlier = calls.prunes.fetch_add(1, Ordering::SeqCst);
        calls.prune_begins.notify_one();
        if calls.prune_hangs {
            std::future::pending::<()>().await;
        }
        if calls.prune_fails_first && earlier == 0 {
            panic!("the first prune panics");
        }
        Ok(())
    }

    const DONE: &str = "select count(*) from apalis.jobs where status = 'Done'";
    const JOBS: &str = "select count(*) from apalis.jobs";

    async fn stops(lane: JoinHandle<()>) {
        tokio::time::timeout(Duration::from_secs(5), lane).await.expect("the lane stops with its worker").unwrap();
    }

    #[tokio::test]
    async fn a_fleet_does_each_job_once_in_its_period_and_stops_at_once() {
        let Some(database) = Database::make().await else {
            return;
        };
        let (calls, stop) = (Arc::new(Calls::default()), CancellationToken::new());
        let lanes: Vec<_> = ["a", "b", "c"]
            .into_iter()
            .map(|name| spawn(database.options.clone(), config(name), tasks(&calls), stop.clone()))
            .collect();
        database.until("select count(*) from pg_namespace where nspname = 'apalis'", 1).await;
        database.until("select count(*) from apalis.jobs where status = 'Done'", 3).await;
        let registered = "select count(*) from apalis.workers";
        database.until(registered, 3).await;
        stop.cancel();
        for lane in lanes {
            stops(lane).await;
        }
        assert_eq!(database.count(JOBS).await, 3);
        assert_eq!(calls.partitions.load(Ordering::SeqCst), 1);
        assert_eq!(calls.prunes.load(Ordering::SeqCst), 1);
        assert_eq!(calls.looks.load(Ordering::SeqCst), 1);
        let in_public = "select count(*) from pg_class where relnamespace = 'public'::regnamespace";
        assert_eq!(database.count(in_public).await, 0, "nothing is left in schema public");
        database.drop().await;
    }

    #[tokio::test]
    async fn a_stop_leaves_the_job_under_way_to_another_worker() {
        let Some(database) = Database::make().await else {
            return;
        };
        let calls = Arc::new(Calls { prune_hangs: true, ..Calls::default() });
        let stop = CancellationToken::new();
        let lane = spawn(database.options.clone(), config("a"), tasks(&calls), stop.clone());
        calls.prune_begins.notified().await;
        stop.cancel();
        stops(lane).await;
        let left =
            "select count(*) from apalis.jobs where status = 'Failed' and last_error like '%left to another worker%'";
        assert_eq!(database.count(left).await, 1);

        let (calls, stop) = (Arc::new(Calls::default()), CancellationToken::new());
        let lane = spawn(database.options.clone(), config("b"), tasks(&calls), stop.clone());
        database.until(DONE, 3).await;
        assert_eq!(calls.prunes.load(Ordering::SeqCst), 1);
        stop.cancel();
        stops(lane).await;
        database.drop().await;
    }

    #[tokio::test]
    async fn a_job_that_panics_or_is_of_a_newer_version_does_not_end_the_lane() {
        let Some(database) = Database::make().await else {
            return;
        };
        let calls = Arc::new(Calls { prune_fails_first: true, ..Calls::default() });
        set_up(&database.options).await.unwrap();
        database
            .run(
                "insert into apalis.jobs (job, id, job_type, max_attempts)
                 values ('{\"kind\": \"polish\"}', '00000000009999999999999999', 'longshore::system', 2)",
            )
            .await;
        let stop = CancellationToken::new();
        let lane = spawn(database.options.clone(), config("a"), tasks(&calls), stop.clone());
        database.until(DONE, 3).await;
        database
            .until("select count(*) from apalis.jobs where status = 'Killed' and last_error like '%polish%'", 1)
            .await;
        assert_eq!(calls.prunes.load(Ordering::SeqCst), 2);
        stop.cancel();
        stops(lane).await;
        database.drop().await;
    }

    #[tokio::test]
    async fn jobs_come_again_in_the_next_period_and_old_ones_are_forgotten() {
        let Some(database) = Database::make().await else {
            return;
        };
        set_up(&database.options).await.unwrap();
        let pool = PgPoolOptions::new().connect_with(database.options.clone()).await.unwrap();
        let config = config("a");
        enqueue_due(&pool, &config).await.unwrap();
        enqueue_due(&pool, &config).await.unwrap();
        assert_eq!(database.count(JOBS).await, 3);
        // A period later, while the last one still waits: no second one.
        database.run("update apalis.jobs set id = translate(id, '0123456789', 'ABCDEFGHJK')").await;
        enqueue_due(&pool, &config).await.unwrap();
        assert_eq!(database.count(JOBS).await, 3);
        // The last one ended: now there is a new one.
        database.run("update apalis.jobs set status = 'Done', done_at = now()").await;
        enqueue_due(&pool, &config).await.unwrap();
        assert_eq!(database.count(JOBS).await, 6);
        // What ended long ago goes, and so do workers that nobody has seen since.
        database.run("update apalis.jobs set done_at = now() - interval '8 days' where status = 'Done'").await;
        database
            .run(
                "insert into apalis.workers (id, worker_type, storage_name, last_seen)
                 values ('gone', 'longshore::system', '', now() - interval '2 days'), ('here', 'longshore::system', '', now()),
                        ('other', 'mail', '', now() - interval '2 days')",
            )
            .await;
        enqueue_due(&pool, &config).await.unwrap();
        assert_eq!(database.count(JOBS).await, 3);
        assert_eq!(database.count("select count(*) from apalis.workers").await, 2);
        pool.close().await;
        database.drop().await;
    }

    #[tokio::test]
    async fn a_look_for_stuck_runs_shows_how_many_there_are() {
        let Some(database) = Database::make().await else {
            return;
        };
        let pool = PgPoolOptions::new().connect_with(database.options.clone()).await.unwrap();
        longshore_core::migrate::up(&mut pool.acquire().await.unwrap()).await.unwrap();
        let (metrics, scrape) = crate::metrics::Metrics::install().unwrap();
        let tasks = crate::worker::system_tasks(&metrics);
        assert!(scrape.render().contains("longshore_stuck_runs NaN"));
        (tasks.check_stuck)(pool.clone(), ()).await.unwrap();
        assert!(scrape.render().contains("longshore_stuck_runs 0"));
        database
            .run(
                "insert into longshore.workflow_runs (run_id, workflow_id, version_id, shard, priority, input)
                 select longshore.new_run_id(), 1, 1, 0, 1, '{}' from generate_series(1, 3)",
            )
            .await;
        (tasks.check_stuck)(pool.clone(), ()).await.unwrap();
        assert!(scrape.render().contains("longshore_stuck_runs 3"));
        pool.close().await;
        database.drop().await;
    }

    #[tokio::test]
    async fn without_the_right_to_make_schemas_the_worker_goes_without() {
        let Some(database) = Database::make().await else {
            return;
        };
        let role = format!("{}_role", database.name);
        database.on_server(&format!("create role {role} login")).await;
        let error = set_up(&database.options.clone().username(&role)).await.unwrap_err();
        assert!(matches!(error, Error::Setup(_)), "{error}");
        assert!(error.to_string().contains("permission denied"), "{error}");
        let lane = spawn(
            database.options.clone().username(&role),
            config("a"),
            tasks(&Arc::default()),
            CancellationToken::new(),
        );
        stops(lane).await;
        let (server, role) = (database.server.clone(), role);
        database.drop().await;
        let mut db = PgConnection::connect_with(&server).await.unwrap();
        sqlx::query(&format!("drop role {role}")).execute(&mut db).await.unwrap();
    }

    #[tokio::test]
    async fn tables_that_an_application_has_already_are_used_as_they_are() {
        let Some(database) = Database::make().await else {
            return;
        };
        let pool = PgPoolOptions::new().connect_with(database.options.clone()).await.unwrap();
        PostgresStorage::setup(&pool).await.unwrap();
        set_up(&database.options).await.unwrap();
        let ours = "select count(*) from pg_namespace where nspname = 'longshore_system'";
        assert_eq!(database.count(ours).await, 0);
        database.run("alter table apalis.jobs drop column priority").await;
        assert!(matches!(set_up(&database.options).await, Err(Error::Foreign)));
        pool.close().await;
        database.drop().await;
    }

    #[test]
    fn jobs_read_back_and_unknown_ones_are_kept() {
        let prune = SystemJob::Prune { older_than: Duration::from_secs(30 * 86_400) };
        let stored = serde_json::to_value(&prune).unwrap();
        assert_eq!(stored["kind"], "prune");
        assert_eq!(serde_json::from_value::<SystemJob>(stored).unwrap(), prune);
        let newer = json!({ "kind": "polish", "shine": 3 });
        assert_eq!(serde_json::from_value::<SystemJob>(newer.clone()).unwrap(), SystemJob::Unknown(newer));
    }
}
