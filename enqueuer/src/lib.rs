//! Start, await and cancel Longshore workflow runs from an application.
//!
//! A start is two rows in Postgres, so it can be part of the application's own transaction: the run exists if and
//! only if that commits. Nothing here executes steps and no handler is linked; the two sides meet in Postgres.
//!
//! ```no_run
//! use longshore_enqueuer::Enqueuer;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize)]
//! struct Order {
//!     order: u64,
//! }
//!
//! #[derive(Deserialize)]
//! struct Receipt {
//!     number: String,
//! }
//!
//! # async fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
//! let enqueuer = Enqueuer::connect("postgres://app@localhost/shop").await?;
//!
//! let mut tx = pool.begin().await?;
//! sqlx::query("insert into orders (id) values (42)").execute(&mut *tx).await?;
//! let run = enqueuer
//!     .start("order-fulfilment", &Order { order: 42 })
//!     .key("order-42")
//!     .in_transaction(&mut tx)
//!     .await?;
//! tx.commit().await?;
//!
//! let ended = enqueuer.wait(run.id).await?;
//! let receipt: Receipt = ended.output()?;
//! println!("run {} printed receipt {}", run.id, receipt.number);
//! # Ok(())
//! # }
//! ```

mod advance;
mod again;
mod cancel;
mod pause;
mod rerun;
mod signal;
mod start;
mod versions;
mod wait;

use std::sync::{Arc, OnceLock};

use longshore_core::notify::Notifier;
use longshore_core::session::{Access, Route, Session};
use longshore_core::{database, migrate, query, run};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

pub use cancel::Cancel;
pub use longshore_core::error::StepError;
pub use longshore_core::rerun::{Error as RerunError, Plan, Version};
pub use longshore_core::run::{Canceled, Error, Run, Switched};
pub use longshore_core::state::RunState;
pub use rerun::Rerun;
pub use signal::SendSignal;
pub use start::{NewRun, StartMany, StartRun, Started};
pub use wait::Wait;

use versions::Versions;

/// Connections that [`Enqueuer::connect`] makes at most.
const CONNECTIONS: u32 = 8;

/// Why an enqueuer could not be connected.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL is wrong or the server cannot be reached.
    #[error(transparent)]
    Connect(#[from] database::Error),
    /// The schema is missing or older than this library.
    #[error(transparent)]
    Schema(#[from] migrate::Error),
}

/// Starts runs and looks after them. Cloning it shares its pool and caches.
#[derive(Clone, Debug)]
pub struct Enqueuer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    access: Access,
    versions: Versions,
    notifier: OnceLock<Notifier>,
}

impl Enqueuer {
    /// Connects a pool of at most 8 connections and checks that the schema is there and new enough.
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        Self::checked(Access::connect(url, CONNECTIONS, Route::Direct).await?).await
    }

    /// The same through a pooler in transaction mode, such as PgBouncer with `pool_mode = transaction`: each statement goes
    /// unnamed and in an explicit transaction.
    pub async fn connect_pooled(url: &str) -> Result<Self, ConnectError> {
        Self::checked(Access::connect(url, CONNECTIONS, Route::Pooled).await?).await
    }

    /// Uses a pool of the application. The schema is not checked: call [`migrate::check`], or let the first start
    /// fail with [`Error::SchemaMissing`].
    pub fn new(pool: PgPool) -> Self {
        Self::on(Access::new(pool, Route::Direct))
    }

    /// As [`Enqueuer::new`] with a pool that connects through a pooler in transaction mode. What it is given for `in_transaction`
    /// must be in one. The application's own statements on such a pool need a transaction and `persistent(false)`, too, and its
    /// options `extra_float_digits(None)`, unless the pooler ignores that parameter.
    pub fn new_pooled(pool: PgPool) -> Self {
        Self::on(Access::new(pool, Route::Pooled))
    }

    async fn checked(access: Access) -> Result<Self, ConnectError> {
        let mut session = access.session().await.map_err(database::Error::Connect)?;
        migrate::check(&mut session).await?;
        drop(session);
        Ok(Self::on(access))
    }

    fn on(access: Access) -> Self {
        Self { inner: Arc::new(Inner { access, versions: Versions::default(), notifier: OnceLock::new() }) }
    }

    /// A run of `workflow` with `input`, to be awaited or written by [`StartRun::in_transaction`]. Nothing happens
    /// before that.
    pub fn start<T: Serialize + ?Sized>(&self, workflow: &str, input: &T) -> StartRun<'_> {
        StartRun::new(self, NewRun::new(workflow, input))
    }

    /// Many runs at once: all of them or none, one round trip per thousand. To be awaited, or written by
    /// [`StartMany::in_transaction`].
    pub fn start_many<'e>(&'e self, runs: &'e [NewRun]) -> StartMany<'e> {
        StartMany::new(self, runs)
    }

    /// The run as it stands; none if there is no such run, or it was pruned.
    pub async fn get(&self, id: Uuid) -> Result<Option<Run>, Error> {
        run::get(&self.inner.access, id).await
    }

    /// The run once it has ended, completed or not: to be awaited, [`Wait::timeout`] bounds it. A run that was
    /// started in a transaction is found once that has committed.
    pub fn wait(&self, id: Uuid) -> Wait<'_> {
        Wait::new(&self.inner.access, id)
    }

    /// Cancels a run that has not ended: to be awaited, [`Cancel::reason`] says why. Not part of a transaction of the
    /// caller. Safe to repeat.
    pub fn cancel(&self, id: Uuid) -> Cancel<'_> {
        Cancel::new(&self.inner.access, id)
    }

    /// A signal to a run, to be awaited or sent by [`SendSignal::in_transaction`]. One that nobody waits for yet is kept until somebody does.
    pub fn signal<T: Serialize + ?Sized>(&self, run: Uuid, name: &str, payload: &T) -> SendSignal<'_> {
        SendSignal::new(self, run, name, payload)
    }

    /// The answer to a query that the run's definition names: an expression over its input, context, states and outputs, all of one moment. It changes
    /// nothing, and a run that has ended answers, too.
    pub async fn query<T: DeserializeOwned>(&self, run: Uuid, name: &str) -> Result<T, Error> {
        let answer = query::query(&mut self.inner.access.session().await?, run, name).await?;
        answer.parse().map_err(Error::OutputUnreadable)
    }

    /// The pool it works on.
    pub fn pool(&self) -> &PgPool {
        self.inner.access.pool()
    }

    fn access(&self) -> &Access {
        &self.inner.access
    }

    /// The caller's transaction, which leads to Postgres as this enqueuer's own connections do.
    fn within<'c>(&self, tx: &'c mut PgConnection) -> Session<'c> {
        Session::within(tx, self.inner.access.route())
    }

    fn versions(&self) -> &Versions {
        &self.inner.versions
    }

    fn notifier(&self) -> &Notifier {
        self.inner.notifier.get_or_init(|| Notifier::start(self.inner.access.clone()))
    }
}
