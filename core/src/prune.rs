//! Deletes what nobody needs any more: ended runs, their attempts, and whole months of attempts.
//!
//! A live run is never touched, however old. Runs go in transactions of a thousand at most; a month of attempts is
//! dropped when no run that remains began in it, without making any lane wait.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, PgPool};
use uuid::Uuid;

use crate::database;
use crate::run::SHARD;

/// Runs looked at in one transaction.
const BATCH: i32 = 1000;

/// Nothing is older than Longshore; Postgres cannot subtract much more.
const OLDEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Lock timeouts and deadlocks: the month is left for the next time.
const BUSY: [&str; 2] = ["55P03", "40P01"];

/// Why pruning stopped. What was deleted before stays deleted; prune again to go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Postgres refused a statement or could not be reached.
    #[error("pruning stopped: {0}")]
    Database(#[from] sqlx::Error),
}

/// What was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Ended runs.
    pub runs: u64,
    /// Their attempts.
    pub attempts: u64,
    /// Months of attempts dropped whole. They held nothing but what pruned runs left.
    pub partitions: u64,
}

/// Deletes every run that ended more than `older_than` ago, by Postgres' clock, with its attempts, then drops the
/// months that are empty of runs. The keys of deleted runs are free again. Safe to repeat and to interrupt.
///
/// A month that is in use at this moment is left for the next time. Behind a pooler, give it a pool that connects
/// directly.
pub async fn prune(pool: &PgPool, older_than: Duration) -> Result<Pruned, Error> {
    let age = Duration::from_micros(u64::try_from(older_than.min(OLDEST).as_micros()).unwrap_or(u64::MAX));
    let before: DateTime<Utc> =
        sqlx::query_scalar(include_str!("../sql/prune/cutoff.sql")).bind(age).fetch_one(pool).await?;
    let mut pruned = prune_runs(pool, before).await?;
    pruned.partitions = drop_partitions(pool, before).await?;
    Ok(pruned)
}

async fn prune_runs(pool: &PgPool, before: DateTime<Utc>) -> Result<Pruned, Error> {
    let mut pruned = Pruned::default();
    let mut after = Uuid::nil();
    loop {
        let (last, looked_at, runs, attempts): (Uuid, i32, i32, i64) =
            sqlx::query_as(include_str!("../sql/prune/prune.sql"))
                .bind(SHARD)
                .bind(after)
                .bind(before)
                .bind(BATCH)
                .fetch_one(pool)
                .await?;
        pruned.runs += u64::from(runs.unsigned_abs());
        pruned.attempts += attempts.unsigned_abs();
        if looked_at < BATCH {
            return Ok(pruned);
        }
        after = last;
    }
}

async fn drop_partitions(pool: &PgPool, before: DateTime<Utc>) -> Result<u64, Error> {
    let old: Vec<(String, Option<String>, String)> = sqlx::query_as(include_str!("../sql/prune/old_partitions.sql"))
        .bind(SHARD)
        .bind(before)
        .fetch_all(pool)
        .await?;
    if old.is_empty() {
        return Ok(0);
    }
    let mut own = pool.connect_options().connect().await?;
    own.execute(include_str!("../sql/prune/lock_timeout.sql")).await?;
    let mut dropped = 0;
    for (name, detach, remove) in &old {
        match drop_partition(&mut own, detach.as_deref(), remove).await {
            Ok(()) => dropped += 1,
            Err(error) if database::code(&error).is_some_and(|code| BUSY.contains(&code)) => {
                tracing::warn!(partition = name, "in use at this moment, left for the next prune");
            }
            Err(error) => return Err(error.into()),
        }
    }
    own.close().await?;
    Ok(dropped)
}

/// Detached first, without a transaction: that waits for readers of the month while lanes go on.
async fn drop_partition(own: &mut PgConnection, detach: Option<&str>, remove: &str) -> Result<(), sqlx::Error> {
    if let Some(detach) = detach {
        own.execute(detach).await?;
    }
    own.execute(remove).await.map(drop)
}
