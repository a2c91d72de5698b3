//! Connections to Postgres, and what an error of one means.
//!
//! The classes of [`ErrorKind`] decide everything that follows a failed statement: send it again, halve the batch,
//! or give up. A result that never arrived is `Ambiguous`: the statement may have been committed.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgDatabaseError, PgPoolOptions, PgSeverity};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, PgPool, Row};

use crate::session::Route;

/// How long a caller waits for a free connection of a pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a statement is sent before its last error is handed back. The pauses between come to more than `REST`: the last attempt meets no connection
/// that was lost before the first.
pub const MAX_ATTEMPTS: u32 = 8;

/// A connection that was idle for so long is asked whether it still answers before it is used.
const REST: Duration = Duration::from_secs(1);

/// How long it has for that, where nothing but the network lies between: a pooler answers when it has a server to lend.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is no Postgres URL. The URL itself is left out: it may hold a password.
    #[error("not a Postgres URL (postgres://user@host:port/database): {0}")]
    Url(#[source] sqlx::Error),
    /// The server cannot be reached or refuses the connection.
    #[error("cannot connect to Postgres: {0}")]
    Connect(#[source] sqlx::Error),
}

/// What a failed statement means for whoever sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// No answer, or the session ended: the statement may or may not have happened. Find out, or send it again if that is safe.
    Ambiguous,
    /// It did not happen because Postgres cannot store or compute one of the values. Sending it again will not help.
    Data,
    /// It did not happen, because of others (a deadlock, a timeout, a full pool). Send it again.
    Retryable,
    /// It did not happen and will not: a mistake of the program, the schema or the permissions.
    Fatal,
}

/// How to connect: `url` with the application name `longshore` unless it names another.
pub fn options(url: &str) -> Result<PgConnectOptions, Error> {
    let options = PgConnectOptions::from_str(url).map_err(Error::Url)?;
    Ok(match options.get_application_name() {
        Some(_) => options,
        None => options.application_name("longshore"),
    })
}

/// A pool of at most `max` connections; the first one is made before this returns, which waits up to 10 s for a
/// server that is just starting.
///
/// A connection is tested when it is taken only if it was idle for a second, so a busy one may fail as [`ErrorKind::Ambiguous`] after Postgres
/// restarted.
pub async fn pool(url: &str, max: u32) -> Result<PgPool, Error> {
    pool_of(options(url)?, max, Route::Direct).await
}

/// The same with these options, along this route.
pub(crate) async fn pool_of(options: PgConnectOptions, max: u32, route: Route) -> Result<PgPool, Error> {
    let patience = match route {
        Route::Direct => ANSWER_TIMEOUT,
        Route::Pooled => ACQUIRE_TIMEOUT,
    };
    let made = PgPoolOptions::new()
        .max_connections(max)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(move |connection, state| {
            Box::pin(async move {
                Ok(state.idle_for < REST
                    || matches!(tokio::time::timeout(patience, connection.ping()).await, Ok(Ok(()))))
            })
        })
        .connect_with(options.clone())
        .await;
    match made {
        Err(sqlx::Error::PoolTimedOut) => Err(Error::Connect(why(&options).await)),
        made => made.map_err(Error::Connect),
    }
}

/// Whether a pooler in transaction mode stands before Postgres: two connections then meet on one server. "No" is no proof, since busy poolers may
/// keep them apart.
pub async fn is_pooled(options: &PgConnectOptions) -> Result<bool, Error> {
    let options = options.clone().extra_float_digits(None);
    let meet = async {
        let (mut first, mut second) = (options.connect().await?, options.connect().await?);
        for _ in 0..3 {
            let mut transaction = first.begin().await?;
            let before = backend(&mut transaction).await?;
            transaction.commit().await?;
            if backend(&mut second).await? == before {
                return Ok(true);
            }
        }
        Ok(false)
    };
    meet.await.map_err(Error::Connect)
}

async fn backend(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    connection.fetch_one(include_str!("../sql/session/backend.sql")).await?.try_get(0)
}

/// The pool only says that time ran out; another try says why.
async fn why(options: &PgConnectOptions) -> sqlx::Error {
    match options.connect().await {
        Err(error) => error,
        Ok(_) => sqlx::Error::PoolTimedOut,
    }
}

/// What `error` means for the statement that met it.
pub fn kind(error: &sqlx::Error) -> ErrorKind {
    use sqlx::Error as E;
    match error {
        E::Database(database) => match database.try_downcast_ref::<PgDatabaseError>() {
            Some(refused) => kind_of_code(refused.code(), ends_session(refused.severity())),
            None => ErrorKind::Fatal,
        },
        E::PoolTimedOut => ErrorKind::Retryable, // nothing was sent
        E::Configuration(_)
        | E::InvalidArgument(_)
        | E::RowNotFound
        | E::TypeNotFound { .. }
        | E::ColumnIndexOutOfBounds { .. }
        | E::ColumnNotFound(_)
        | E::ColumnDecode { .. }
        | E::Encode(_)
        | E::Decode(_)
        | E::PoolClosed
        | E::Migrate(_)
        | E::InvalidSavePointStatement
        | E::BeginFailed => ErrorKind::Fatal,
        _ => ErrorKind::Ambiguous, // io, tls, protocol, a lost worker: no answer
    }
}

/// The five characters of SQLSTATE, if Postgres answered with an error.
pub fn code(error: &sqlx::Error) -> Option<&str> {
    match error {
        sqlx::Error::Database(database) => database.try_downcast_ref::<PgDatabaseError>().map(PgDatabaseError::code),
        _ => None,
    }
}

/// What Postgres says is wrong, without what is around it.
pub fn message(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(database) => database.message().to_owned(),
        other => other.to_string(),
    }
}

fn ends_session(severity: PgSeverity) -> bool {
    matches!(severity, PgSeverity::Fatal | PgSeverity::Panic)
}

fn kind_of_code(code: &str, ends_session: bool) -> ErrorKind {
    if ends_session {
        return ErrorKind::Ambiguous;
    }
    match (code.get(..2).unwrap_or_default(), code) {
        (_, "57P01" | "57P02" | "57P03" | "57P05") | ("08", _) => ErrorKind::Ambiguous,
        // and what our own functions refuse of a result: a change of the context
        ("21" | "22" | "23" | "54", _) | (_, "LS020" | "LS021") => ErrorKind::Data,
        ("53", _) | (_, "40001" | "40P01" | "55P03" | "57014") => ErrorKind::Retryable,
        _ => ErrorKind::Fatal,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn an_error_that_ends_the_session_is_ambiguous_whatever_its_code() {
        for code in ["57P01", "57P02", "57P03", "53300", "40001", "28P01", "22P05"] {
            assert_eq!(kind_of_code(code, true), ErrorKind::Ambiguous, "{code}");
        }
        assert_eq!(kind_of_code("08006", false), ErrorKind::Ambiguous);
    }

    #[test]
    fn a_value_postgres_cannot_store_is_a_data_error() {
        for code in ["21000", "22P05", "22P02", "22003", "23505", "23514", "54001", "54000"] {
            assert_eq!(kind_of_code(code, false), ErrorKind::Data, "{code}");
        }
    }

    #[test]
    fn what_others_caused_is_sent_again() {
        for code in ["40001", "40P01", "55P03", "57014", "53100", "53200", "53300"] {
            assert_eq!(kind_of_code(code, false), ErrorKind::Retryable, "{code}");
        }
        assert_eq!(kind(&sqlx::Error::PoolTimedOut), ErrorKind::Retryable);
    }

    #[test]
    fn mistakes_are_fatal() {
        for code in ["42P01", "42501", "3D000", "LS001", "", "4"] {
            assert_eq!(kind_of_code(code, false), ErrorKind::Fatal, "{code}");
        }
        assert_eq!(kind(&sqlx::Error::RowNotFound), ErrorKind::Fatal);
    }

    #[test]
    fn no_answer_is_ambiguous() {
        let cut = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert_eq!(kind(&cut), ErrorKind::Ambiguous);
        assert_eq!(kind(&sqlx::Error::Protocol("half a message".into())), ErrorKind::Ambiguous);
        assert_eq!(kind(&sqlx::Error::WorkerCrashed), ErrorKind::Ambiguous);
    }

    #[test]
    fn a_url_keeps_its_own_application_name() {
        let named = options("postgres://u@localhost/d?application_name=billing").unwrap();
        assert_eq!(named.get_application_name(), Some("billing"));
        assert_eq!(options("postgres://u@localhost/d").unwrap().get_application_name(), Some("longshore"));
        assert!(matches!(options("not a url"), Err(Error::Url(_))));
    }
}
