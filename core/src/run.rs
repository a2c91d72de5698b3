//! The life of a run as seen from outside: start it, look at it, cancel it.
//!
//! A start is one row in `workflow_runs` and one step job in `step_ready` (or `step_delayed`), so it belongs in any
//! transaction of the caller. What happens next is in `queue.rs`: a worker claims that step job.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use sqlx::PgExecutor;
use sqlx::postgres::PgDatabaseError;
use uuid::Uuid;

use crate::database;
use crate::error::{self, ErrorKind, StepError};
use crate::payload::{self, Payload};
use crate::session::Session;
use crate::state::RunState;

/// Every run lives on this shard today; the schema leads every key with it.
pub const SHARD: i16 = 0;

/// The longest idempotency key, in characters.
pub const MAX_KEY: usize = 512;

/// The largest input in bytes of JSON text, unless the database says otherwise (`longshore.max_payload_bytes`).
pub const MAX_PAYLOAD: usize = 1024 * 1024;

/// How many priorities there are: 0, which is first, to 3.
pub const PRIORITIES: i16 = 4;

/// One round trip carries at most so many starts and so many bytes of input.
const CHUNK_RUNS: usize = 1000;
const CHUNK_BYTES: usize = 16 * 1024 * 1024;

/// Why a run could not be started, read or canceled. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No version of that name is published.
    #[error("unknown workflow {workflow:?}: publish it first (`longshore workflow apply`)")]
    UnknownWorkflow {
        /// The name asked for.
        workflow: String,
    },
    /// The workflow has no such version.
    #[error("workflow {workflow:?} has no version {version}: leave it out to start the latest")]
    UnknownVersion {
        /// The workflow.
        workflow: String,
        /// The version asked for.
        version: i64,
    },
    /// The input, or the payload of a signal, is larger than the limit: pass a reference to the data instead.
    #[error("the payload has {bytes} bytes, the limit is {limit}: pass a reference to the data")]
    PayloadTooLarge {
        /// Bytes of JSON text.
        bytes: u64,
        /// The limit in force.
        limit: u64,
    },
    /// The input cannot be stored.
    #[error("the input cannot be stored: {0}")]
    PayloadInvalid(#[source] Arc<payload::Error>),
    /// The input does not satisfy the workflow's schema.
    #[error("the input does not satisfy the schema of workflow {workflow:?}: {problems}")]
    InputInvalid {
        /// The workflow.
        workflow: String,
        /// Each problem with its path.
        problems: String,
    },
    /// A run of the workflow has this key and another input.
    #[error("key_conflict: run {run_id} has key {key:?} and another input")]
    KeyConflict {
        /// The key.
        key: String,
        /// The run that has it.
        run_id: Uuid,
    },
    /// A priority is 0 to 3.
    #[error("priority {priority} is not between 0 and 3")]
    InvalidPriority {
        /// The one asked for.
        priority: i64,
    },
    /// A key is 1 to [`MAX_KEY`] characters and has no U+0000.
    #[error("a key has 1 to {MAX_KEY} characters and none of them is U+0000, this one has {length} characters")]
    InvalidKey {
        /// Its length in characters.
        length: u64,
    },
    /// The run has ended: it takes no signals any more.
    #[error("run {run_id} has ended: it takes no signals any more")]
    RunEnded {
        /// The run.
        run_id: Uuid,
    },
    /// The mocks of a run in test mode cannot be read.
    #[error("the mocks are wrong: {problems}")]
    MocksInvalid {
        /// What is wrong, each with its place.
        problems: String,
    },
    /// The clock of a run that is not in test mode stays as it is.
    #[error("run {run_id} is not in test mode: only the clock of a run that was started with mocks can be moved")]
    NotATest {
        /// The run.
        run_id: Uuid,
    },
    /// The name of a signal is 1 to 256 characters and has no U+0000.
    #[error(
        "the name of a signal has 1 to 256 characters and none of them is U+0000, this one has {length} characters"
    )]
    InvalidSignal {
        /// Its length in characters.
        length: u64,
    },
    /// The run's workflow has no such query.
    #[error("workflow {workflow:?} has no query {name:?}; it has: {known}")]
    UnknownQuery {
        /// The query asked for.
        name: String,
        /// Those there are.
        known: String,
        /// The workflow.
        workflow: String,
    },
    /// The query cannot be answered from what the run has given so far.
    #[error("the query cannot be answered: {why}")]
    QueryFailed {
        /// Why.
        why: String,
    },
    /// The run has no output to read: it is still live, failed or canceled.
    #[error("run {run_id} is {state}{}", .error.as_ref().map(|error| format!(": {error}")).unwrap_or_default())]
    NotCompleted {
        /// The run.
        run_id: Uuid,
        /// Where it stands.
        state: RunState,
        /// What it says about it.
        error: Option<Box<StepError>>,
    },
    /// The output is no such type.
    #[error("the output cannot be read: {0}")]
    OutputUnreadable(#[source] serde_json::Error),
    /// There is no such run: it was never started, its start is not committed yet, or it was pruned.
    #[error("there is no run {run_id}: it is not committed, or it was pruned")]
    NotFound {
        /// The id asked for.
        run_id: Uuid,
    },
    /// The run had not ended when the time to wait was over. It goes on.
    #[error("run {run_id} did not end within the time to wait; it goes on")]
    TimedOut {
        /// The run.
        run_id: Uuid,
    },
    /// The database has no schema, or an older one.
    #[error("the longshore schema is missing or too old: run `longshore migrate up`")]
    SchemaMissing,
    /// Postgres refused the statement or could not be reached; [`database::kind`] says what that means.
    #[error("{0}")]
    Database(#[source] sqlx::Error),
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Start {
    /// Name of a published workflow.
    pub workflow: String,
    /// The run's input.
    pub input: Payload,
    /// Idempotency key, unique per workflow while the run is kept.
    pub key: Option<String>,
    /// Not before this time; at once if none or past.
    pub run_at: Option<DateTime<Utc>>,
    /// 0 to 3, 0 first; 1 if none.
    pub priority: Option<i16>,
    /// The version; the latest if none.
    pub version: Option<i32>,
    /// In test mode: what answers for its nodes, see [`Mocks`](crate::mock::Mocks), which must have read it; [qualified](crate::mock::qualified).
    pub mocks: Option<Payload>,
}

impl Start {
    /// The latest version, at once, with the default priority and no key.
    pub fn new(workflow: &str, input: Payload) -> Self {
        Self {
            workflow: workflow.to_owned(),
            input,
            key: None,
            run_at: None,
            priority: None,
            version: None,
            mocks: None,
        }
    }
}

/// A run that was started, by this call or by an earlier one with the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// The run.
    pub run_id: Uuid,
    /// False if the run was there already.
    pub created: bool,
}

/// What became of a cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canceled {
    /// The run is canceled now. No step of it starts any more; one that was completing at that instant may still
    /// record its success.
    Canceled,
    /// It had ended before, in this state; nothing changed.
    AlreadyEnded(RunState),
    /// There is no such run, or it was pruned.
    NotFound,
}

/// What became of a pause or a resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switched {
    /// The run is paused now, or goes on now.
    Changed,
    /// It was so before; nothing changed.
    Already,
    /// It had ended before, in this state; nothing changed.
    AlreadyEnded(RunState),
    /// There is no such run, or it was pruned.
    NotFound,
}

fn switched(found: bool, changed: bool, state: Option<i16>) -> Result<Switched, Error> {
    let Some(state) = state.filter(|_| found) else { return Ok(Switched::NotFound) };
    Ok(match state_of(state, false)? {
        _ if changed => Switched::Changed,
        state if state.has_ended() => Switched::AlreadyEnded(state),
        _ => Switched::Already,
    })
}

/// A run as it stands.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its id.
    pub run_id: Uuid,
    /// Name of its workflow.
    pub workflow: String,
    /// The version it started with and keeps.
    pub version: i32,
    /// Where it stands.
    pub state: RunState,
    /// What it was started with.
    pub input: Payload,
    /// What it completed with.
    pub output: Option<Payload>,
    /// Why it failed or was canceled.
    pub error: Option<StepError>,
    /// Its idempotency key.
    pub key: Option<String>,
    /// The run that started it, if one did.
    pub parent: Option<Uuid>,
    /// 0 to 3.
    pub priority: i16,
    /// When it was started, by Postgres' clock: the beginning of the transaction.
    pub created_at: DateTime<Utc>,
    /// When it was to begin, if that was later.
    pub run_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

impl Run {
    /// The output of a completed run, read as `T`.
    pub fn output<T: DeserializeOwned>(&self) -> Result<T, Error> {
        match &self.output {
            Some(output) => output.parse().map_err(Error::OutputUnreadable),
            None => Err(Error::NotCompleted {
                run_id: self.run_id,
                state: self.state,
                error: self.error.clone().map(Box::new),
            }),
        }
    }
}

/// Starts all of `starts` or none, and returns one `Started` for each, in order.
///
/// In a transaction of the caller it writes there and only inserts; it waits for nothing but another transaction
/// that starts the same key. An error of Postgres (a key conflict above all) then aborts that transaction. Up to a
/// thousand starts (or 16 MiB of input) are one statement; more are a transaction, or a savepoint within the
/// caller's. Safe to repeat only for starts with a key.
pub async fn start(session: &mut Session<'_>, starts: &[Start]) -> Result<Vec<Started>, Error> {
    let chunks = chunks(starts);
    let tests = starts.iter().any(|start| start.mocks.is_some());
    if let ([only], false) = (&chunks[..], tests) {
        return start_chunk(session, only).await;
    }
    let route = session.route();
    let mut tx = session.begin().await?;
    let mut started = Vec::with_capacity(starts.len());
    for chunk in chunks {
        started.extend(start_chunk(&mut Session::within(&mut tx, route), chunk).await?);
    }
    if tests {
        let made = starts.iter().zip(&started).filter(|(_, started)| started.created);
        let (runs, mocks): (Vec<Uuid>, Vec<&str>) =
            made.filter_map(|(start, started)| Some((started.run_id, start.mocks.as_ref()?.as_str()))).unzip();
        let mock = sqlx::query(include_str!("../sql/run/mock.sql")).bind(SHARD).bind(runs).bind(mocks);
        mock.execute(&mut Session::within(&mut tx, route)).await?;
    }
    tx.commit().await?;
    Ok(started)
}

/// Moves the clock of a run in test mode, and of the runs that it started, on: `by` so much, or to the next timer. What is due then happens as soon as a
/// worker looks. Returns how many timers there are. Not safe to repeat: each call moves it.
pub async fn advance<'c>(conn: impl PgExecutor<'c>, run_id: Uuid, by: Option<Duration>) -> Result<i64, Error> {
    let by = by.map(|by| i64::try_from(by.as_micros()).unwrap_or(i64::MAX));
    let row: Option<(bool, i64)> = sqlx::query_as(include_str!("../sql/run/advance.sql"))
        .bind(SHARD)
        .bind(run_id)
        .bind(by)
        .fetch_optional(conn)
        .await?;
    match row {
        Some((true, timers)) => Ok(timers),
        Some((false, _)) => Err(Error::NotATest { run_id }),
        None => Err(Error::NotFound { run_id }),
    }
}

/// Cancels a run that has not ended. Send it in autocommit, not in a longer transaction: it locks the run's row,
/// and the lane that ends the run would wait for it. Safe to repeat.
pub async fn cancel<'c>(conn: impl PgExecutor<'c>, run_id: Uuid, reason: &str) -> Result<Canceled, Error> {
    let error = StepError::new(error::CANCELED, ErrorKind::Canceled, reason).to_payload();
    let (found, changed, state): (bool, bool, Option<i16>) = sqlx::query_as(include_str!("../sql/run/cancel.sql"))
        .bind(SHARD)
        .bind(run_id)
        .bind(error.as_str())
        .fetch_one(conn)
        .await?;
    Ok(match (found, changed, state) {
        (true, true, _) => Canceled::Canceled,
        (true, false, Some(state)) => Canceled::AlreadyEnded(state_of(state, false)?),
        _ => Canceled::NotFound,
    })
}

/// Pauses a live run: what its running steps do is recorded, and what follows is parked until it is resumed. Timers go on, and what is due meanwhile is
/// parked as well. Safe to repeat.
pub async fn pause<'c>(conn: impl PgExecutor<'c>, run_id: Uuid, reason: &str) -> Result<Switched, Error> {
    let why = Payload::of(&serde_json::json!({ "reason": reason.replace('\0', "") })).unwrap_or_default();
    let (found, changed, state) = sqlx::query_as(include_str!("../sql/run/pause.sql"))
        .bind(SHARD)
        .bind(run_id)
        .bind(why.as_str())
        .fetch_one(conn)
        .await?;
    switched(found, changed, state)
}

/// Lets a paused run go on, and the queues that got work by it. Safe to repeat.
pub async fn resume<'c>(conn: impl PgExecutor<'c>, run_id: Uuid) -> Result<(Switched, Vec<String>), Error> {
    let (found, changed, state, queues) =
        sqlx::query_as(include_str!("../sql/run/resume.sql")).bind(SHARD).bind(run_id).fetch_one(conn).await?;
    Ok((switched(found, changed, state)?, queues))
}

/// The run as it stands; none if there is no such run, or it was pruned.
pub async fn get<'c>(conn: impl PgExecutor<'c>, run_id: Uuid) -> Result<Option<Run>, Error> {
    let row: Option<RunRow> =
        sqlx::query_as(include_str!("../sql/run/get.sql")).bind(SHARD).bind(run_id).fetch_optional(conn).await?;
    row.map(RunRow::into_run).transpose()
}

/// Where a run stands, without its payloads; a live run reads as running. None as for [`get`].
pub async fn state<'c>(conn: impl PgExecutor<'c>, run_id: Uuid) -> Result<Option<RunState>, Error> {
    let code: Option<i16> =
        sqlx::query_scalar(include_str!("../sql/run/state.sql")).bind(SHARD).bind(run_id).fetch_optional(conn).await?;
    code.map(|code| state_of(code, false)).transpose()
}

/// The largest input this session may start a run with, in bytes of JSON text.
pub async fn max_payload<'c>(conn: impl PgExecutor<'c>) -> Result<u64, Error> {
    let limit: i64 = sqlx::query_scalar(include_str!("../sql/run/max_payload.sql")).fetch_one(conn).await?;
    Ok(limit.unsigned_abs())
}

#[derive(sqlx::FromRow)]
struct RunRow {
    run_id: Uuid,
    workflow: String,
    version: i32,
    state: i16,
    queued: bool,
    input: String,
    output: Option<String>,
    error: Option<String>,
    key: Option<String>,
    parent: Option<Uuid>,
    priority: i16,
    created_at: DateTime<Utc>,
    run_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
}

impl RunRow {
    fn into_run(self) -> Result<Run, Error> {
        let stored = |text: String| Payload::trusted(Arc::from(text));
        Ok(Run {
            run_id: self.run_id,
            workflow: self.workflow,
            version: self.version,
            state: state_of(self.state, self.queued)?,
            input: stored(self.input),
            output: self.output.map(stored),
            error: self.error.map(|error| StepError::from_payload(&stored(error))),
            key: self.key,
            parent: self.parent,
            priority: self.priority,
            created_at: self.created_at,
            run_at: self.run_at,
            finished_at: self.finished_at,
        })
    }
}

async fn start_chunk(db: impl PgExecutor<'_>, starts: &[Start]) -> Result<Vec<Started>, Error> {
    let rows: Vec<(Uuid, bool)> = sqlx::query_as(include_str!("../sql/run/start.sql"))
        .bind(starts.iter().map(|start| start.workflow.as_str()).collect::<Vec<_>>())
        .bind(starts.iter().map(|start| start.input.as_str()).collect::<Vec<_>>())
        .bind(starts.iter().map(|start| start.key.as_deref()).collect::<Vec<_>>())
        .bind(starts.iter().map(|start| start.run_at).collect::<Vec<_>>())
        .bind(starts.iter().map(|start| start.priority).collect::<Vec<_>>())
        .bind(starts.iter().map(|start| start.version).collect::<Vec<_>>())
        .fetch_all(db)
        .await?;
    Ok(rows.into_iter().map(|(run_id, created)| Started { run_id, created }).collect())
}

fn chunks(starts: &[Start]) -> Vec<&[Start]> {
    let mut chunks = Vec::new();
    let (mut first, mut bytes) = (0, 0);
    for (at, start) in starts.iter().enumerate() {
        bytes += start.input.len();
        if at > first && (at - first == CHUNK_RUNS || bytes > CHUNK_BYTES) {
            chunks.push(&starts[first..at]);
            (first, bytes) = (at, start.input.len());
        }
    }
    chunks.push(&starts[first..]);
    chunks
}

fn state_of(code: i16, queued: bool) -> Result<RunState, Error> {
    if queued {
        return Ok(RunState::Queued);
    }
    RunState::from_code(code).map_err(|error| Error::Database(sqlx::Error::Decode(Box::new(error))))
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let Some(code) = database::code(&error) else {
            return Self::Database(error);
        };
        let detail = detail(&error);
        let text = |name: &str| detail[name].as_str().unwrap_or_default().to_owned();
        let count = |name: &str| detail[name].as_u64().unwrap_or_default();
        let number = |name: &str| detail[name].as_i64().unwrap_or_default();
        match code {
            "LS001" => Self::UnknownWorkflow { workflow: text("workflow") },
            "LS002" => Self::UnknownVersion { workflow: text("workflow"), version: number("version") },
            "LS003" => Self::PayloadTooLarge { bytes: count("bytes"), limit: count("limit") },
            "LS004" => Self::InvalidPriority { priority: number("priority") },
            "LS005" => Self::KeyConflict { key: text("key"), run_id: text("run_id").parse().unwrap_or_default() },
            "LS006" => Self::InvalidKey { length: count("length") },
            "LS010" => Self::NotFound { run_id: text("run_id").parse().unwrap_or_default() },
            "LS011" => Self::RunEnded { run_id: text("run_id").parse().unwrap_or_default() },
            "LS012" => Self::InvalidSignal { length: count("length") },
            "3F000" | "42883" | "42P01" => Self::SchemaMissing,
            _ => Self::Database(error),
        }
    }
}

/// The facts that the functions of core/sql/run put into an error, as JSON.
fn detail(error: &sqlx::Error) -> serde_json::Value {
    let sqlx::Error::Database(database) = error else {
        return serde_json::Value::Null;
    };
    database
        .try_downcast_ref::<PgDatabaseError>()
        .and_then(PgDatabaseError::detail)
        .and_then(|detail| serde_json::from_str(detail).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn starts(count: usize, bytes: usize) -> Vec<Start> {
        let input = Payload::of(&"x".repeat(bytes.saturating_sub(2))).unwrap();
        vec![Start::new("w", input); count]
    }

    #[test]
    fn a_thousand_starts_are_one_statement() {
        let sizes = |starts: &[Start]| chunks(starts).iter().map(|chunk| chunk.len()).collect::<Vec<_>>();
        assert_eq!(sizes(&starts(1000, 10)), [1000]);
        assert_eq!(sizes(&starts(1001, 10)), [1000, 1]);
        assert_eq!(sizes(&starts(2500, 10)), [1000, 1000, 500]);
        assert_eq!(sizes(&[]), [0]);
    }

    #[test]
    fn a_statement_has_at_most_16_mib_of_input_or_one_start() {
        let sizes = |starts: &[Start]| chunks(starts).iter().map(|chunk| chunk.len()).collect::<Vec<_>>();
        assert_eq!(sizes(&starts(40, 1024 * 1024)), [16, 16, 8]);
        assert_eq!(sizes(&starts(2, 20 * 1024 * 1024)), [1, 1]);
    }

    #[test]
    fn only_a_completed_run_has_an_output() {
        let now = DateTime::from_timestamp(0, 0).unwrap();
        let mut run = Run {
            run_id: Uuid::nil(),
            workflow: "w".to_owned(),
            version: 1,
            state: RunState::Completed,
            input: Payload::null(),
            output: Some(Payload::of(&[1, 2]).unwrap()),
            error: None,
            parent: None,
            key: None,
            priority: 1,
            created_at: now,
            run_at: None,
            finished_at: Some(now),
        };
        assert_eq!(run.output::<Vec<i32>>().unwrap(), [1, 2]);
        assert!(matches!(run.output::<String>(), Err(Error::OutputUnreadable(_))));
        run.output = None;
        run.state = RunState::Failed;
        run.error = Some(StepError::permanent("card_declined", "no funds"));
        let error = run.output::<String>().unwrap_err().to_string();
        assert!(error.ends_with("is failed: card_declined: no funds"), "{error}");
    }
}
