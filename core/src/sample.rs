//! What the metrics say of the database: samples with bounded cost, taken by one worker at a time (they take turns).

use std::time::Duration;

use sqlx::PgExecutor;

use crate::queue::SHARD;

/// A queue at the moment.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueSample {
    /// The queue.
    pub name: String,
    /// Since its oldest ready step job was enqueued.
    pub oldest_ready: Duration,
    /// Ready step jobs, counted to 10,000 at most.
    pub ready: u64,
    /// Delayed step jobs among the 10,000 that are due first.
    pub delayed: u64,
}

/// The queues, at most 200 of them.
pub async fn queues(db: impl PgExecutor<'_>) -> Result<Vec<QueueSample>, sqlx::Error> {
    let rows: Vec<(String, f64, i64, i64)> =
        sqlx::query_as(include_str!("../sql/sample/queues.sql")).bind(SHARD).fetch_all(db).await?;
    let sample = |(name, oldest, ready, delayed): (String, f64, i64, i64)| QueueSample {
        name,
        oldest_ready: Duration::try_from_secs_f64(oldest).unwrap_or_default(),
        ready: u64::try_from(ready).unwrap_or(0),
        delayed: u64::try_from(delayed).unwrap_or(0),
    };
    Ok(rows.into_iter().map(sample).collect())
}

/// The state of the server as it concerns the hot tables.
#[derive(Clone, Debug, PartialEq)]
pub struct DatabaseSample {
    /// The age of the oldest snapshot: vacuum cannot remove rows that died since.
    pub oldest_snapshot: Duration,
    /// Dead rows per hot table, as Postgres estimates them.
    pub dead_rows: Vec<(String, u64)>,
}

/// The server.
pub async fn database(db: impl PgExecutor<'_>) -> Result<DatabaseSample, sqlx::Error> {
    let (oldest, tables, dead): (f64, Option<Vec<String>>, Option<Vec<i64>>) =
        sqlx::query_as(include_str!("../sql/sample/database.sql")).fetch_one(db).await?;
    let dead = dead.unwrap_or_default().into_iter().map(|dead| u64::try_from(dead).unwrap_or(0));
    Ok(DatabaseSample {
        oldest_snapshot: Duration::try_from_secs_f64(oldest).unwrap_or_default(),
        dead_rows: tables.unwrap_or_default().into_iter().zip(dead).collect(),
    })
}
