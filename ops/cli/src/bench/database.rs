//! The database of a measurement: one of its own on the cluster, so that nothing else is counted and nothing of anyone is touched.
//! What is asked of it before and after the window is here: the pinned snapshot, the books, the times.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use longshore_core::{database, migrate};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};
use tokio::time::{Instant, sleep};

use super::workload::Scenario;

/// How long the last runs may take to end once every handler was called.
const END_WITHIN: Duration = Duration::from_secs(60);

/// A database that was made for one measurement.
#[derive(Debug)]
pub(super) struct Scratch {
    name: String,
    url: String,
    cluster: PgConnectOptions,
}

/// Half of the waits were at most this long, and 99 of 100, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Percentiles {
    pub(super) p50: f64,
    pub(super) p99: f64,
}

#[derive(Debug, sqlx::FromRow)]
struct Books {
    runs: i64,
    completed_runs: i64,
    live_runs: i64,
    attempts: i64,
    completed_attempts: i64,
    doubles: i64,
    ready: i64,
    delayed: i64,
    held: i64,
    joins: i64,
}

impl Scratch {
    /// A new database with our schema on the cluster that `url` leads to.
    pub(super) async fn create(url: &str) -> Result<Self> {
        let cluster = database::options(url)?.disable_statement_logging();
        let name = format!("longshore_bench_{}", uuid::Uuid::now_v7().simple());
        let url = cluster.clone().database(&name).to_url_lossy().to_string();
        let scratch = Self { name, url, cluster };
        scratch
            .on_cluster(include_str!("../../../../core/sql/bench/create_database.sql"))
            .await
            .context("cannot make a database for the measurement: name a role that may, or leave --database-url out")?;
        let mut connection = scratch.connect().await?;
        migrate::up(&mut connection).await?;
        connection.close().await?;
        Ok(scratch)
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) async fn connect(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect_with(&self.options()).await?)
    }

    /// A pool for an application that starts runs.
    pub(super) async fn pool(&self) -> Result<PgPool> {
        Ok(PgPoolOptions::new().max_connections(2).connect_with(self.options()).await?)
    }

    /// Slow statements are no news here.
    fn options(&self) -> PgConnectOptions {
        self.cluster.clone().database(&self.name).disable_statement_logging()
    }

    pub(super) async fn drop(self) -> Result<()> {
        self.on_cluster(include_str!("../../../../core/sql/bench/drop_database.sql")).await
    }

    async fn on_cluster(&self, sql: &str) -> Result<()> {
        let mut connection = PgConnection::connect_with(&self.cluster).await.context("cannot connect to Postgres")?;
        sqlx::raw_sql(&sql.replace("{name}", &self.name)).execute(&mut connection).await?;
        Ok(connection.close().await?)
    }
}

/// Vacuum and analyze everything, as a database is some while after a great many starts.
pub(super) async fn settle(session: &mut PgConnection) -> Result<()> {
    sqlx::raw_sql(include_str!("../../../../core/sql/bench/settle.sql")).execute(session).await?;
    Ok(())
}

/// Keep everything that dies from here on, for as long as the connection lives.
pub(super) async fn pin_snapshot(connection: &mut PgConnection) -> Result<()> {
    sqlx::raw_sql(include_str!("../../../../core/sql/bench/pin_snapshot.sql")).execute(connection).await?;
    Ok(())
}

/// Return when no run is live.
pub(super) async fn all_ended(session: &mut PgConnection) -> Result<()> {
    let deadline = Instant::now() + END_WITHIN;
    loop {
        let live: i64 = sqlx::query_scalar(include_str!("../../../../core/sql/bench/live_runs.sql"))
            .fetch_one(&mut *session)
            .await?;
        if live == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("every handler has been called, but {live} runs do not end");
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// How many attempts had ended at `at`.
pub(super) async fn finished_by(session: &mut PgConnection, at: DateTime<Utc>) -> Result<u64> {
    let sql = include_str!("../../../../core/sql/bench/finished_by.sql");
    let finished: i64 = sqlx::query_scalar(sql).bind(at).fetch_one(session).await?;
    Ok(u64::try_from(finished)?)
}

/// When the first step was claimed.
pub(super) async fn first_claim(session: &mut PgConnection) -> Result<DateTime<Utc>> {
    let at: Option<_> =
        sqlx::query_scalar(include_str!("../../../../core/sql/bench/first_claim.sql")).fetch_one(session).await?;
    at.context("nothing was claimed")
}

/// When the `nth` attempt ended.
pub(super) async fn nth_finish(session: &mut PgConnection, nth: u64) -> Result<DateTime<Utc>> {
    let sql = include_str!("../../../../core/sql/bench/nth_finish.sql");
    sqlx::query_scalar(sql)
        .bind(i64::try_from(nth)?)
        .fetch_optional(session)
        .await?
        .with_context(|| format!("fewer than {nth} attempts are on record"))
}

/// How long the steps were held, from the claim to the recorded end.
pub(super) async fn held(session: &mut PgConnection) -> Result<Percentiles> {
    let values: Option<Vec<f64>> =
        sqlx::query_scalar(include_str!("../../../../core/sql/bench/held_ms.sql")).fetch_one(session).await?;
    percentiles(values)
}

/// How long it took from the end of a step to that of the next one of its run, without the first `warm_up`.
pub(super) async fn hops(session: &mut PgConnection, warm_up: u64) -> Result<Percentiles> {
    let sql = include_str!("../../../../core/sql/bench/hop_ms.sql");
    let values: Option<Vec<f64>> = sqlx::query_scalar(sql).bind(i64::try_from(warm_up)?).fetch_one(session).await?;
    percentiles(values)
}

fn percentiles(values: Option<Vec<f64>>) -> Result<Percentiles> {
    match values.as_deref() {
        Some([p50, p99]) => Ok(Percentiles { p50: *p50, p99: *p99 }),
        _ => bail!("nothing was measured"),
    }
}

/// Check that all that was started has come to its end, once: the errors, empty if there are none.
pub(super) async fn check_books(session: &mut PgConnection, scenario: Scenario) -> Result<Vec<String>> {
    let books: Books = sqlx::query_as(include_str!("../../../../core/sql/bench/books.sql")).fetch_one(session).await?;
    Ok(books.problems(scenario))
}

impl Books {
    fn problems(&self, scenario: Scenario) -> Vec<String> {
        let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let attempts = count(scenario.attempts_per_run());
        // what was not measured may still wait, whole
        let waits = if scenario.started() > scenario.runs() { self.live_runs } else { 0 };
        let expected = [
            ("runs", self.runs, count(scenario.started())),
            ("live runs", self.live_runs, waits),
            ("completed runs", self.completed_runs, self.runs - waits),
            ("completed attempts", self.completed_attempts, self.completed_runs * attempts),
            ("attempts", self.attempts, self.completed_attempts),
            ("steps completed twice", self.doubles, 0),
            ("ready steps", self.ready, waits),
            ("delayed steps", self.delayed, 0),
            ("held steps", self.held, 0),
            ("open joins", self.joins, 0),
        ];
        let wrong = expected.into_iter().filter(|(_, found, due)| found != due);
        wrong.map(|(what, found, due)| format!("{what}: {found} instead of {due}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books() -> Books {
        Books {
            runs: 3,
            completed_runs: 3,
            live_runs: 0,
            attempts: 30,
            completed_attempts: 30,
            doubles: 0,
            ready: 0,
            delayed: 0,
            held: 0,
            joins: 0,
        }
    }

    #[test]
    fn books_that_do_not_balance_say_where() {
        let chain = Scenario::Chain { runs: 3, steps: 10 };
        assert!(books().problems(chain).is_empty());
        let missing = Books { completed_attempts: 29, ..books() };
        assert_eq!(missing.problems(chain), ["completed attempts: 29 instead of 30", "attempts: 30 instead of 29"]);
        let left = Books { completed_runs: 2, live_runs: 1, ready: 1, attempts: 20, completed_attempts: 20, ..books() };
        assert_eq!(left.problems(chain).len(), 3);
    }

    #[test]
    fn a_backlog_may_be_left_but_only_whole() {
        let single = Scenario::Single { runs: 1, backlog: 3 };
        let left = Books { completed_runs: 2, live_runs: 1, ready: 1, attempts: 2, completed_attempts: 2, ..books() };
        assert!(left.problems(single).is_empty());
        let lost = Books { ready: 0, ..left };
        assert_eq!(lost.problems(single), ["ready steps: 0 instead of 1"]);
    }
}
