//! Signals: sending one to a run, and what the steps that wait read. How waits and signals meet is in `attempt::waits`.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, Row};
use uuid::Uuid;

pub use crate::definition::wait::MAX_SIGNAL;
use crate::graph::{NodeNumber, Signal};
use crate::payload::Payload;
use crate::queue::{SHARD, StepRef};
use crate::results;
use crate::run::Error;

/// A signal that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its number: of two signals the one that was sent first has the smaller.
    pub id: i64,
    /// The queue whose workers have it looked for.
    pub queue: Option<String>,
}

/// Sends a signal to a run. It only inserts, so it belongs in any caller's transaction. Safe to repeat with a key.
pub async fn send(
    db: impl PgExecutor<'_>,
    run_id: Uuid,
    name: &str,
    payload: &Payload,
    key: Option<&str>,
) -> Result<Sent, Error> {
    let (id, queue) = sqlx::query_as(include_str!("../sql/signal/send.sql"))
        .bind(run_id)
        .bind(name)
        .bind(payload.as_str())
        .bind(key)
        .fetch_one(db)
        .await?;
    Ok(Sent { id, queue })
}

/// The waits of these runs for which a signal of a name they wait for is there. Sends nothing when asked for nothing.
pub async fn waiters(db: impl PgExecutor<'_>, runs: &[Uuid]) -> Result<Vec<StepRef>, sqlx::Error> {
    if runs.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<(Uuid, i32, NodeNumber)> =
        sqlx::query_as(include_str!("../sql/signal/waiters.sql")).bind(SHARD).bind(runs).fetch_all(db).await?;
    Ok(rows.into_iter().map(|(run_id, frame, node)| StepRef { run_id, frame, node }).collect())
}

/// For each of these waits, up to `limit` signals that are there for it after the one with this number, in the order they were sent; none for a wait
/// that was woken. Sends nothing when asked for nothing.
pub async fn candidates(
    db: impl PgExecutor<'_>,
    waits: &[(StepRef, i64)],
    limit: usize,
) -> Result<Vec<Vec<Signal>>, sqlx::Error> {
    let mut found = vec![Vec::new(); waits.len()];
    if waits.is_empty() {
        return Ok(found);
    }
    let (runs, frames, nodes) = results::columns(waits.iter().map(|(key, _)| *key));
    let rows = sqlx::query(include_str!("../sql/signal/candidates.sql"))
        .bind(SHARD)
        .bind(runs)
        .bind(frames)
        .bind(nodes)
        .bind(waits.iter().map(|(_, after)| *after).collect::<Vec<_>>())
        .bind(i32::try_from(limit).unwrap_or(i32::MAX))
        .fetch_all(db)
        .await?;
    for row in rows {
        results::put(&mut found, row.try_get("of_step")?, signal(&row, row.try_get("signal_id")?)?);
    }
    Ok(found)
}

/// Stands where the number of a signal does, for a wait that was for none: what it waited for is so.
pub const NO_SIGNAL: i64 = 0;

/// What woke a wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Woken {
    /// When it began to wait.
    pub since: DateTime<Utc>,
    /// What it waited for.
    pub names: Vec<String>,
    /// What it was.
    pub by: WokenBy,
}

/// What ended the waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WokenBy {
    /// A signal.
    Signal(Signal),
    /// What it waited for is so, and is no signal.
    Reached,
    /// Its time was over.
    Time,
}

/// What woke these waits; none for one that was not woken, or is gone. Sends nothing when asked for nothing.
pub async fn woken(db: impl PgExecutor<'_>, waits: &[StepRef]) -> Result<Vec<Option<Woken>>, sqlx::Error> {
    let mut found = vec![Vec::new(); waits.len()];
    if waits.is_empty() {
        return Ok(Vec::new());
    }
    let (runs, frames, nodes) = results::columns(waits.iter().copied());
    let rows = sqlx::query(include_str!("../sql/signal/woken.sql"))
        .bind(SHARD)
        .bind(runs)
        .bind(frames)
        .bind(nodes)
        .fetch_all(db)
        .await?;
    for row in rows {
        let by = match row.try_get::<Option<i64>, _>("signal_id")? {
            None => WokenBy::Time,
            Some(NO_SIGNAL) => WokenBy::Reached,
            Some(id) => WokenBy::Signal(signal(&row, id)?),
        };
        let woken = Woken { since: row.try_get("since")?, names: row.try_get("names")?, by };
        results::put(&mut found, row.try_get("of_step")?, woken);
    }
    Ok(found.into_iter().map(|mut woken| woken.pop()).collect())
}

fn signal(row: &PgRow, id: i64) -> Result<Signal, sqlx::Error> {
    Ok(Signal {
        id,
        name: row.try_get("name")?,
        payload: Payload::trusted(row.try_get::<&str, _>("payload")?.into()),
        sent_at: row.try_get("sent_at")?,
    })
}
