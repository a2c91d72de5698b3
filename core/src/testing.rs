//! What tests of workflows ask of a database of their own: how their runs stand, and that the time until the next timer passes at once. Every live run there
//! counts as one of the test's.

use sqlx::{FromRow, PgExecutor};
use uuid::Uuid;

use crate::queue::SHARD;
use crate::state::RunState;

/// How a run that is tested stands, with all it started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The run's state.
    pub state: RunState,
    /// Nothing is ready, held or due: without a signal, and before the next timer, nothing happens.
    pub quiet: bool,
    /// Something is due later.
    pub timers: bool,
    /// Where it is quiet, the nodes of the run that have completed or failed, in any frame.
    pub ended: Vec<String>,
}

#[derive(FromRow)]
struct LookRow {
    state: i16,
    quiet: bool,
    timers: bool,
    ended: Vec<String>,
}

/// How the run stands; none if there is no such run. One snapshot.
pub async fn look(db: impl PgExecutor<'_>, run_id: Uuid) -> Result<Option<Look>, sqlx::Error> {
    let row: Option<LookRow> =
        sqlx::query_as(include_str!("../sql/testing/look.sql")).bind(SHARD).bind(run_id).fetch_optional(db).await?;
    let Some(row) = row else { return Ok(None) };
    let state = RunState::from_code(row.state).map_err(|error| sqlx::Error::Decode(error.into()))?;
    Ok(Some(Look { state, quiet: row.quiet, timers: row.timers, ended: row.ended }))
}

/// Moves the clock on to the next timer: that is due now, and all others so much sooner. Nothing happens where there is none, or the runs are not
/// quiet.
pub async fn advance(db: impl PgExecutor<'_>) -> Result<(), sqlx::Error> {
    sqlx::query(include_str!("../sql/testing/advance.sql")).bind(SHARD).execute(db).await.map(drop)
}

/// Every run that has not ended.
pub async fn live_runs(db: impl PgExecutor<'_>) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar(include_str!("../sql/testing/live_runs.sql")).bind(SHARD).fetch_all(db).await
}
