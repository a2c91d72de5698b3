//! A run's context: JSON that its nodes and handlers change while it goes on. Changes are committed with the completion of the step that makes them,
//! one step after the other, and each leaves a numbered snapshot. What a change does to the context is decided by Postgres (`change_context`), under the
//! lock of the run's row, since only there is it known what the context is at that moment.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use sqlx::{FromRow, PgExecutor};
use uuid::Uuid;

use crate::payload::Payload;
use crate::queue::SHARD;

/// The largest context in bytes of JSON.
pub const MAX_BYTES: usize = 1_048_576;

/// What a change does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Puts a value at a path. Of two steps that do so at once, the one that is committed last stays.
    Set,
    /// Adds a value to the end of the list at a path, which is made if nothing is there. All are kept, in the order of the commits.
    Append,
    /// Adds a number to the one at a path, 0 if nothing is there. All are added up.
    Increment,
    /// Patches the whole, RFC 7396. Of two that name the same member, the one that is committed last stays.
    Merge,
}

impl Op {
    /// The word in a definition.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Append => "append",
            Self::Increment => "increment",
            Self::Merge => "merge",
        }
    }

    /// The change that a word means.
    pub fn of(word: &str) -> Option<Self> {
        [Self::Set, Self::Append, Self::Increment, Self::Merge].into_iter().find(|op| op.as_str() == word)
    }
}

/// One change of a context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What it does.
    pub op: Op,
    /// Where, name by name; nothing for a patch of the whole.
    pub path: Vec<String>,
    /// With what.
    pub value: Payload,
}

/// Changes as `change_context` takes them. The texts of the values are copied as they are.
pub(crate) fn text(changes: &[Change]) -> String {
    let one = |change: &Change| {
        let (op, path) = (change.op.as_str(), Value::from(change.path.as_slice()));
        format!("{{\"op\":\"{op}\",\"path\":{path},\"value\":{}}}", change.value.as_str())
    };
    format!("[{}]", changes.iter().map(one).collect::<Vec<_>>().join(","))
}

/// The contexts of these runs; one that was never changed is missing. Sends nothing when asked for nothing.
pub async fn of_runs(db: impl PgExecutor<'_>, runs: &[Uuid]) -> Result<HashMap<Uuid, Payload>, sqlx::Error> {
    if runs.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<(Uuid, String)> =
        sqlx::query_as(include_str!("../sql/context/contexts.sql")).bind(SHARD).bind(runs).fetch_all(db).await?;
    Ok(rows.into_iter().map(|(run, context)| (run, Payload::trusted(context.into()))).collect())
}

/// The context as a change left it.
#[derive(Clone, Debug, FromRow, Serialize)]
pub struct Snapshot {
    /// Its number; 0 is what the context was before the first change.
    pub n: i32,
    /// `init`, `step` (a step changed it), `final` (the run completed) or `error` (it failed).
    pub reason: String,
    /// When it was committed.
    pub at: DateTime<Utc>,
    /// The frame of the step that wrote.
    pub frame: Option<i32>,
    /// Its node.
    pub node: Option<String>,
    /// Its attempt.
    pub attempt: Option<i32>,
    /// The context.
    pub context: sqlx::types::Json<Box<RawValue>>,
}

/// Snapshot `at` of a run's context, the newest if none is named, and so many before it, as far as there are any; newest first. Empty for a run whose context
/// was never changed, or that does not exist.
pub async fn snapshots(
    db: impl PgExecutor<'_>,
    run_id: Uuid,
    at: Option<i32>,
    before: u32,
) -> Result<Vec<Snapshot>, sqlx::Error> {
    sqlx::query_as(include_str!("../sql/context/history.sql"))
        .bind(SHARD)
        .bind(run_id)
        .bind(at)
        .bind(i64::from(before) + 1)
        .fetch_all(db)
        .await
}
