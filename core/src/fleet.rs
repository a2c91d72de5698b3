//! The fleet: the row by which a worker is known, and the queues there are. A worker without a row works all the same; the row is how others
//! count it, how the reaper finds its lanes and how `explain` knows what it serves.

use std::collections::BTreeMap;

use sqlx::PgExecutor;
use uuid::Uuid;

use crate::queue::SHARD;

/// What a worker says of itself.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Its id, new for each process.
    pub worker_id: Uuid,
    /// What an operator calls it.
    pub name: String,
    /// The host it runs on.
    pub host: String,
    /// Its process id there.
    pub pid: i32,
    /// The queues it serves.
    pub queues: Vec<String>,
    /// The handlers it knows.
    pub handlers: Vec<String>,
    /// How many handlers it runs at once.
    pub slots: i32,
}

/// Write the worker's row, or renew its heartbeat. Safe to call again.
pub async fn register(db: impl PgExecutor<'_>, worker: &Registration) -> Result<(), sqlx::Error> {
    sqlx::query(include_str!("../sql/fleet/register.sql"))
        .bind(worker.worker_id)
        .bind(&worker.name)
        .bind(&worker.host)
        .bind(worker.pid)
        .bind(env!("CARGO_PKG_VERSION"))
        .bind(&worker.queues)
        .bind(&worker.handlers)
        .bind(worker.slots)
        .execute(db)
        .await?;
    Ok(())
}

/// Say that the worker claims nothing more.
pub async fn drain(db: impl PgExecutor<'_>, worker_id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query(include_str!("../sql/fleet/drain.sql")).bind(worker_id).execute(db).await?;
    Ok(())
}

/// Remove the worker's row and its empty lanes. Safe to call again.
pub async fn deregister(db: impl PgExecutor<'_>, worker_id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query(include_str!("../sql/fleet/deregister.sql")).bind(worker_id).bind(SHARD).execute(db).await?;
    Ok(())
}

/// Remove workers without a heartbeat for five minutes. Any worker may call it at any time.
pub async fn forget_dead(db: impl PgExecutor<'_>) -> Result<(), sqlx::Error> {
    sqlx::query(include_str!("../sql/fleet/forget_dead.sql")).bind(SHARD).execute(db).await?;
    Ok(())
}

/// Forget a lane that holds nothing and will not claim again. Safe to call again.
pub async fn forget_lane(db: impl PgExecutor<'_>, lane_id: i64) -> Result<(), sqlx::Error> {
    sqlx::query(include_str!("../sql/fleet/forget_lane.sql")).bind(SHARD).bind(lane_id).execute(db).await?;
    Ok(())
}

/// All queues: id and name.
pub async fn queues(db: impl PgExecutor<'_>) -> Result<BTreeMap<i32, String>, sqlx::Error> {
    let rows: Vec<(i32, String)> = sqlx::query_as(include_str!("../sql/fleet/queues.sql")).fetch_all(db).await?;
    Ok(rows.into_iter().collect())
}

/// Make sure that these queues exist; a worker may start before the first workflow names its queue.
pub async fn ensure_queues(db: impl PgExecutor<'_>, names: &[String]) -> Result<(), sqlx::Error> {
    sqlx::query(include_str!("../sql/fleet/ensure_queues.sql")).bind(names).execute(db).await?;
    Ok(())
}
