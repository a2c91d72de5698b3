//! Where statements go: straight to Postgres in autocommit, or through a pooler in transaction mode. There the server behind a connection is ours only
//! inside a transaction, so each statement goes unnamed (a named one would be prepared on another server, or be somebody else's) and in a transaction of
//! its own (in autocommit sqlx parses in one and executes in the next). [`Access`] and [`Session`] are executors: whoever sends does not see the difference.

use futures::future::{self, BoxFuture};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Connection, Describe, Either, Execute, Executor, PgConnection, PgPool, Postgres, Transaction};

use crate::database;

/// The words that begin a transaction through a pooler.
const BEGIN: &str = include_str!("../sql/session/begin.sql");

/// What stands between this process and Postgres.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Route {
    /// Nothing, or a pooler that gives each connection a server of its own (session mode).
    #[default]
    Direct,
    /// A pooler that gives a connection a server for each transaction, such as PgBouncer with `pool_mode = transaction`.
    Pooled,
}

/// A pool, and how its connections are to be used. Send single statements to it, or take a [`Session`] for several.
#[derive(Clone, Debug)]
pub struct Access {
    pool: PgPool,
    route: Route,
}

/// A connection, and how it is to be used. Each statement it is sent is committed when its answer is there, in a pooled session too; one that sends
/// within a transaction of the caller leaves that to the caller.
#[derive(Debug)]
pub struct Session<'c> {
    connection: Connected<'c>,
    route: Route,
}

#[derive(Debug)]
enum Connected<'c> {
    /// From a pool.
    Own(PoolConnection<Postgres>),
    /// The caller's, who may be in a transaction.
    Of(&'c mut PgConnection),
}

impl Connected<'_> {
    fn raw(&mut self) -> &mut PgConnection {
        match self {
            Self::Own(connection) => connection,
            Self::Of(connection) => connection,
        }
    }
}

/// A part of an answer.
type Part = Either<PgQueryResult, PgRow>;

impl Access {
    /// A pool of at most `max` connections, as [`database::pool`] makes it.
    pub async fn connect(url: &str, max: u32, route: Route) -> Result<Self, database::Error> {
        let options = database::options(url)?;
        let options = match route {
            Route::Direct => options,
            // poolers refuse this parameter unless they are told to ignore it, and no Postgres that we serve needs it
            Route::Pooled => options.extra_float_digits(None),
        };
        Ok(Self::new(database::pool_of(options, max, route).await?, route))
    }

    /// This pool, whose connections lead along `route`.
    #[must_use]
    pub fn new(pool: PgPool, route: Route) -> Self {
        Self { pool, route }
    }

    /// Takes a connection from the pool.
    pub async fn session(&self) -> Result<Session<'static>, sqlx::Error> {
        Ok(Session { connection: Connected::Own(self.pool.acquire().await?), route: self.route })
    }

    /// The pool itself. What is sent on it directly is not made fit for a pooler.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// How its connections are used.
    #[must_use]
    pub fn route(&self) -> Route {
        self.route
    }
}

impl<'c> Session<'c> {
    /// A connection of the caller's that leads to Postgres itself, in a transaction or not.
    #[must_use]
    pub fn direct(connection: &'c mut PgConnection) -> Self {
        Self::within(connection, Route::Direct)
    }

    /// Statements within a transaction of the caller's, who commits it. On a pooled route there must be one.
    #[must_use]
    pub fn within(connection: &'c mut PgConnection, route: Route) -> Self {
        Self { connection: Connected::Of(connection), route }
    }

    /// How it is used.
    #[must_use]
    pub fn route(&self) -> Route {
        self.route
    }

    /// A transaction on this connection, a savepoint where the caller has one open. Send in it through [`Session::within`].
    pub async fn begin(&mut self) -> Result<Transaction<'_, Postgres>, sqlx::Error> {
        match (self.route, &mut self.connection) {
            (Route::Pooled, Connected::Own(connection)) => Connection::begin_with(&mut **connection, BEGIN).await,
            (_, connection) => connection.raw().begin().await,
        }
    }

    /// Closes the connection at once, for one whose answer is overdue. One of the caller's is left to the caller.
    pub fn abandon(self) {
        if let Connected::Own(connection) = self.connection {
            drop(connection.detach());
        }
    }
}

impl<'s> Executor<'s> for &'s mut Session<'_> {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Part, sqlx::Error>>
    where
        's: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        match (self.route, &mut self.connection) {
            (Route::Direct, connection) => connection.raw().fetch_many(query),
            (Route::Pooled, Connected::Of(connection)) => unnamed(connection, query),
            (Route::Pooled, Connected::Own(connection)) => whole(alone(connection, query)),
        }
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        's: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        match self.route {
            Route::Direct => self.connection.raw().fetch_optional(query),
            Route::Pooled => first_row(self.fetch_many(query)),
        }
    }

    fn prepare_with<'e, 'q: 'e>(
        self,
        _: &'q str,
        _: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement<'q>, sqlx::Error>>
    where
        's: 'e,
    {
        Box::pin(future::err(nothing_is_prepared()))
    }

    fn describe<'e, 'q: 'e>(self, _: &'q str) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        's: 'e,
    {
        Box::pin(future::err(nothing_is_prepared()))
    }
}

impl<'p> Executor<'p> for &'p Access {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Part, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        match self.route {
            Route::Direct => (&self.pool).fetch_many(query),
            Route::Pooled => whole(async move { alone(&mut self.pool.acquire().await?, query).await }),
        }
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        match self.route {
            Route::Direct => (&self.pool).fetch_optional(query),
            Route::Pooled => first_row(self.fetch_many(query)),
        }
    }

    fn prepare_with<'e, 'q: 'e>(
        self,
        _: &'q str,
        _: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement<'q>, sqlx::Error>>
    where
        'p: 'e,
    {
        Box::pin(future::err(nothing_is_prepared()))
    }

    fn describe<'e, 'q: 'e>(self, _: &'q str) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'p: 'e,
    {
        Box::pin(future::err(nothing_is_prepared()))
    }
}

/// The statement in a transaction of its own: the answer is there when it is committed, and not before. A commit without an answer is as unclear as any
/// statement in autocommit without one.
async fn alone<'q, E>(connection: &mut PoolConnection<Postgres>, query: E) -> Result<Vec<Part>, sqlx::Error>
where
    E: 'q + Execute<'q, Postgres>,
{
    let mut unended = Unended { connection, ended: false };
    let mut transaction = Connection::begin_with(&mut **unended.connection, BEGIN).await?;
    let answer = match unnamed(&mut transaction, query).try_collect().await {
        Ok(parts) => transaction.commit().await.map(|()| parts)?,
        Err(error) => {
            // at once: a connection that is kept would hold a server of the pooler until its next statement
            unended.ended = transaction.rollback().await.is_ok();
            return Err(error);
        }
    };
    unended.ended = true;
    Ok(answer)
}

/// Closes a connection whose transaction was left in the middle, by an error or by a caller who did not wait: in the pool it might keep it open.
struct Unended<'s> {
    connection: &'s mut PoolConnection<Postgres>,
    ended: bool,
}

impl Drop for Unended<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.connection.close_on_drop();
        }
    }
}

/// The statement without a name, wherever the connection stands.
fn unnamed<'e, 'q: 'e, E>(connection: &'e mut PgConnection, mut query: E) -> BoxStream<'e, Result<Part, sqlx::Error>>
where
    E: 'q + Execute<'q, Postgres>,
{
    let sql = query.sql();
    match query.take_arguments() {
        Ok(Some(arguments)) => connection.fetch_many(sqlx::query_with(sql, arguments).persistent(false)),
        Ok(None) => connection.fetch_many(sql),
        Err(error) => Box::pin(stream::once(future::err(sqlx::Error::Encode(error)))),
    }
}

/// An answer that comes as a whole, as the stream that it is asked for.
fn whole<'e>(
    answer: impl Future<Output = Result<Vec<Part>, sqlx::Error>> + Send + 'e,
) -> BoxStream<'e, Result<Part, sqlx::Error>> {
    Box::pin(stream::once(answer).map_ok(|parts| stream::iter(parts).map(Ok)).try_flatten())
}

fn first_row<'e>(
    mut parts: BoxStream<'e, Result<Part, sqlx::Error>>,
) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>> {
    Box::pin(async move {
        let mut first = None;
        // to its end: an error may come after the row
        while let Some(part) = parts.try_next().await? {
            if let Either::Right(row) = part {
                first.get_or_insert(row);
            }
        }
        Ok(first)
    })
}

fn nothing_is_prepared() -> sqlx::Error {
    sqlx::Error::InvalidArgument("a session prepares no statements ahead: send them as they are".to_owned())
}
