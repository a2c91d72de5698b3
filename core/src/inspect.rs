//! What an operator sees of runs, steps, attempts and workers.
//!
//! Only reads, by index, and every age by Postgres' clock. The field names of the views are the keys of
//! `-o json`. Statements are unnamed, so a connection behind a pooler serves inside a transaction. Any error
//! is the database's.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row};
use uuid::Uuid;

use crate::run::SHARD;
use crate::state::{Outcome, RunState, StepState};

/// A worker whose last heartbeat is older than this is not counted on.
pub const WORKER_SILENT_SECONDS: i32 = 30;
/// The most runs one [`list`] returns.
pub const MAX_LISTED: u32 = 10_000;
/// The most child runs that [`show`] tells of.
pub const MAX_CHILDREN: i64 = 1_000;

/// Which runs to list.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Only runs of this workflow.
    pub workflow: Option<String>,
    /// Only runs in this state.
    pub state: Option<RunState>,
    /// At most this many, up to [`MAX_LISTED`].
    pub limit: u32,
    /// Only runs started before this one: the last id of a page asks for the next.
    pub before: Option<Uuid>,
}

impl Default for Filter {
    fn default() -> Self {
        Self { workflow: None, state: None, limit: 50, before: None }
    }
}

/// One line of `run list`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunSummary {
    /// The run.
    pub run_id: Uuid,
    /// The workflow's name.
    pub workflow: String,
    /// The version it started with and keeps.
    pub version: i32,
    /// Where it stands; queued until a step was claimed.
    pub state: RunState,
    /// 0 to 3, 0 first.
    pub priority: i16,
    /// Its idempotency key.
    pub key: Option<String>,
    /// When it was started.
    pub created_at: DateTime<Utc>,
    /// When it was to begin, if later than that.
    pub run_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// From when it could begin to its end, or to now; negative until `run_at`.
    pub seconds: f64,
    /// The name of its error.
    pub error: Option<String>,
}

/// A run with its payloads: `run show`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunView {
    /// What the list shows of it.
    #[serde(flatten)]
    pub summary: RunSummary,
    /// What it was started with.
    pub input: Value,
    /// What it gave, once completed.
    pub output: Option<Value>,
    /// Why it failed or was canceled, in full.
    pub error_detail: Option<Value>,
    /// The run that started it, if one did.
    pub parent_run_id: Option<Uuid>,
    /// `live`, or `test`: mocks answer for its nodes.
    pub mode: String,
    /// The runs that steps of it started, in the order they began, at most [`MAX_CHILDREN`].
    pub children: Vec<ChildView>,
}

/// A run that a step started.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChildView {
    /// The run.
    pub run_id: Uuid,
    /// Its workflow.
    pub workflow: String,
    /// Its version.
    pub version: i32,
    /// Where it stands.
    pub state: RunState,
    /// The node that started it.
    pub node: String,
    /// The frame of that.
    pub frame: i32,
    /// The attempt that did.
    pub attempt: i32,
    /// The step waits, or waited, for its end.
    pub awaited: bool,
}

/// Where a node of a run stands: `pending` in JSON and text until it has a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// Nothing is decided about it yet.
    Pending,
    /// It has a step, in this state.
    Step(StepState),
}

impl NodeState {
    /// The word for JSON and text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Step(state) => state.as_str(),
        }
    }

    /// True when the node is completed, failed, skipped or canceled.
    pub const fn has_ended(self) -> bool {
        use StepState as S;
        matches!(self, Self::Step(S::Completed | S::Failed | S::Skipped | S::Canceled))
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for NodeState {
    type Err = <StepState as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "pending" => Ok(Self::Pending),
            word => word.parse().map(Self::Step),
        }
    }
}

impl Serialize for NodeState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Where one node of a run stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepView {
    /// The node's id in the definition.
    pub node: String,
    /// Its number within the version.
    pub number: i32,
    /// The frame it runs in; 0 is the run's own graph.
    pub frame: i32,
    /// The iterations of blocks around it, such as `each[3] > retry[2]`; none in the run's own graph.
    pub within: Option<String>,
    /// Its type: `task`, `set`, `delay` and so on.
    #[serde(rename = "type")]
    pub node_type: String,
    /// The handler of a task.
    pub handler: Option<String>,
    /// The queue its step jobs go to.
    pub queue: String,
    /// Where it stands.
    pub state: NodeState,
    /// The number of the try it is at, or ended with; 0 when it never ran.
    pub attempts: i32,
    /// Ready, waiting or running: since when. Ended: when. Delayed: when the last attempt ended, or the run began.
    pub since: Option<DateTime<Utc>>,
    /// Delayed: when it is due. Waiting: when its time is over. Running: when its lease expires.
    pub until: Option<DateTime<Utc>>,
    /// Who holds it or ended it, while that worker is known.
    pub worker: Option<String>,
    /// How long the last attempt ran, by the worker's clock.
    pub duration_ms: Option<f32>,
    /// The last attempt's error, or why it was skipped.
    pub error: Option<Value>,
}

/// One recorded attempt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AttemptView {
    /// The node's id; `(start)`, `(end)` and the like are the engine's own.
    pub node: String,
    /// Its number within the version.
    pub number: i32,
    /// The frame it ran in.
    pub frame: i32,
    /// The iterations of blocks around it, such as `each[3] > retry[2]`; none in the run's own graph.
    pub within: Option<String>,
    /// From 1; 0 is the record of a skipped node.
    pub attempt: i32,
    /// How it ended.
    pub outcome: Outcome,
    /// When its step job was enqueued, if it went through a queue.
    pub enqueued_at: Option<DateTime<Utc>>,
    /// When a lane took it.
    pub claimed_at: Option<DateTime<Utc>>,
    /// When its end was accepted.
    pub finished_at: DateTime<Utc>,
    /// How long the handler ran, by the worker's clock.
    pub duration_ms: Option<f32>,
    /// The lane that ended it; 0 when no lane held it.
    pub lane_id: i64,
    /// That lane's worker, while it is known.
    pub worker: Option<String>,
    /// What it gave.
    pub output: Option<Value>,
    /// Why it failed, was lost or skipped.
    pub error: Option<Value>,
}

/// How many nodes of a run stand where; they add up to `nodes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Nodes of the run's own graph, and of the bodies of blocks in each live instance; of an instance that ended, those that came to something.
    pub nodes: i64,
    /// Not decided yet; of an ended run, never reached.
    pub pending: i64,
    /// May be claimed now.
    pub ready: i64,
    /// Due later.
    pub delayed: i64,
    /// Waiting for a signal.
    pub waiting: i64,
    /// Held by a lane.
    pub running: i64,
    /// Completed.
    pub completed: i64,
    /// Gave up.
    pub failed: i64,
    /// Not taken.
    pub skipped: i64,
    /// The run ended first.
    pub canceled: i64,
}

impl Counts {
    /// Nodes that are completed, failed, skipped or canceled: how far a progress bar is.
    pub const fn ended(&self) -> i64 {
        self.completed + self.failed + self.skipped + self.canceled
    }
}

/// One registered worker process.
#[derive(Clone, Debug, PartialEq, Serialize, FromRow)]
pub struct WorkerView {
    /// The worker.
    pub worker_id: Uuid,
    /// Its name.
    pub name: String,
    /// The host it runs on.
    pub host: String,
    /// Its process id there.
    pub pid: i32,
    /// The version of its program.
    pub version: String,
    /// When it registered.
    pub started_at: DateTime<Utc>,
    /// Its last sign of life.
    pub heartbeat_at: DateTime<Utc>,
    /// How long ago that was.
    pub heartbeat_age_seconds: f64,
    /// True when that is under [`WORKER_SILENT_SECONDS`].
    pub live: bool,
    /// It claims nothing more and will stop.
    pub draining: bool,
    /// The queues it serves.
    pub queues: Vec<String>,
    /// The handlers it knows.
    pub handlers: Vec<String>,
    /// How many steps it runs at once.
    pub slots: i32,
    /// Lanes of it that hold steps.
    pub lanes: i64,
    /// Steps they hold.
    pub held: i64,
    /// The first of their leases to expire.
    pub lease_until: Option<DateTime<Utc>>,
}

/// Runs that pass the filter, the newest first.
pub async fn list(conn: &mut PgConnection, filter: &Filter) -> Result<Vec<RunSummary>, sqlx::Error> {
    sqlx::query(include_str!("../sql/inspect/list.sql"))
        .bind(SHARD)
        .bind(filter.workflow.as_deref())
        .bind(filter.state.map(RunState::as_str))
        .bind(i64::from(filter.limit.min(MAX_LISTED)))
        .bind(filter.before)
        .persistent(false)
        .try_map(|row| summary(&row))
        .fetch_all(conn)
        .await
}

/// One run with its payloads; `None` if there is no such run.
pub async fn show(conn: &mut PgConnection, run_id: Uuid) -> Result<Option<RunView>, sqlx::Error> {
    let shown = sqlx::query(include_str!("../sql/inspect/show.sql"))
        .bind(SHARD)
        .bind(run_id)
        .persistent(false)
        .try_map(|row: PgRow| {
            Ok(RunView {
                summary: summary(&row)?,
                input: row.try_get("input")?,
                output: row.try_get("output")?,
                error_detail: row.try_get("error_detail")?,
                parent_run_id: row.try_get("parent_run_id")?,
                mode: row.try_get("mode")?,
                children: Vec::new(),
            })
        })
        .fetch_optional(&mut *conn)
        .await?;
    let Some(shown) = shown else { return Ok(None) };
    Ok(Some(RunView { children: children(conn, run_id).await?, ..shown }))
}

/// The runs that steps of this run started, in the order they began.
async fn children(conn: &mut PgConnection, run_id: Uuid) -> Result<Vec<ChildView>, sqlx::Error> {
    sqlx::query(include_str!("../sql/inspect/children.sql"))
        .bind(SHARD)
        .bind(run_id)
        .bind(MAX_CHILDREN)
        .persistent(false)
        .try_map(|row: PgRow| {
            Ok(ChildView {
                run_id: row.try_get("run_id")?,
                workflow: row.try_get("workflow")?,
                version: row.try_get("version")?,
                state: word(&row, "state")?,
                node: row.try_get("node")?,
                frame: row.try_get("frame")?,
                attempt: row.try_get("attempt")?,
                awaited: row.try_get("awaited")?,
            })
        })
        .fetch_all(conn)
        .await
}

/// Where each node of the run stands, in the order of the definition; empty if there is no such run.
pub async fn steps(conn: &mut PgConnection, run_id: Uuid) -> Result<Vec<StepView>, sqlx::Error> {
    let mut steps = sqlx::query(include_str!("../sql/inspect/steps.sql"))
        .bind(SHARD)
        .bind(run_id)
        .persistent(false)
        .try_map(|row: PgRow| {
            Ok(StepView {
                node: row.try_get("node")?,
                number: row.try_get("number")?,
                frame: row.try_get("frame")?,
                within: None,
                node_type: row.try_get("type")?,
                handler: row.try_get("handler")?,
                queue: row.try_get("queue")?,
                state: word(&row, "state")?,
                attempts: row.try_get("attempts")?,
                since: row.try_get("since")?,
                until: row.try_get("until")?,
                worker: row.try_get("worker")?,
                duration_ms: row.try_get("duration_ms")?,
                error: row.try_get("error")?,
            })
        })
        .fetch_all(&mut *conn)
        .await?;
    let places = within(conn, run_id, steps.iter().map(|of| of.frame)).await?;
    for of in &mut steps {
        of.within = places.get(&of.frame).cloned();
    }
    Ok(steps)
}

/// Every recorded attempt of the run, in the order they ended; empty if there is none.
pub async fn attempts(conn: &mut PgConnection, run_id: Uuid) -> Result<Vec<AttemptView>, sqlx::Error> {
    let mut attempts = sqlx::query(include_str!("../sql/inspect/attempts.sql"))
        .bind(SHARD)
        .bind(run_id)
        .persistent(false)
        .try_map(|row: PgRow| {
            Ok(AttemptView {
                node: row.try_get("node")?,
                number: row.try_get("number")?,
                frame: row.try_get("frame")?,
                within: None,
                attempt: row.try_get("attempt")?,
                outcome: Outcome::from_code(row.try_get("outcome")?).map_err(|e| undecodable("outcome", e))?,
                enqueued_at: row.try_get("enqueued_at")?,
                claimed_at: row.try_get("claimed_at")?,
                finished_at: row.try_get("finished_at")?,
                duration_ms: row.try_get("duration_ms")?,
                lane_id: row.try_get("lane_id")?,
                worker: row.try_get("worker")?,
                output: row.try_get("output")?,
                error: row.try_get("error")?,
            })
        })
        .fetch_all(&mut *conn)
        .await?;
    let places = within(conn, run_id, attempts.iter().map(|of| of.frame)).await?;
    for of in &mut attempts {
        of.within = places.get(&of.frame).cloned();
    }
    Ok(attempts)
}

/// Where these frames of the run are: the iterations of blocks around each and its own, the outermost first, such as `each[3] > retry[2]`. The run's own
/// graph, and frames that are not kept, are left out.
pub(crate) async fn within(
    conn: &mut PgConnection,
    run_id: Uuid,
    frames: impl Iterator<Item = i32>,
) -> Result<HashMap<i32, String>, sqlx::Error> {
    let mut frames: Vec<i32> = frames.filter(|frame| *frame > 0).collect();
    if frames.is_empty() {
        return Ok(HashMap::new());
    }
    frames.sort_unstable();
    frames.dedup();
    let rows: Vec<(i32, String)> = sqlx::query_as(include_str!("../sql/inspect/within.sql"))
        .bind(SHARD)
        .bind(run_id)
        .bind(&frames)
        .persistent(false)
        .fetch_all(conn)
        .await?;
    Ok(rows.into_iter().collect())
}

/// A node with the iterations around it, or with its frame where those are not known.
pub fn place(node: &str, frame: i32, within: Option<&str>) -> String {
    match within {
        Some(within) => format!("{within} > {node}"),
        None if frame == 0 => node.to_owned(),
        None => format!("{node} of frame {frame}"),
    }
}

/// How many nodes of the run stand where; `None` if there is no such run.
pub async fn counts(conn: &mut PgConnection, run_id: Uuid) -> Result<Option<Counts>, sqlx::Error> {
    Ok(counts_many(conn, &[run_id]).await?.remove(&run_id))
}

/// The same for many runs in one statement; runs that do not exist are left out. Costs an index read per step of
/// each run, so a progress bar may ask several times a second.
pub async fn counts_many(conn: &mut PgConnection, run_ids: &[Uuid]) -> Result<HashMap<Uuid, Counts>, sqlx::Error> {
    let rows = sqlx::query(include_str!("../sql/inspect/counts.sql"))
        .bind(SHARD)
        .bind(run_ids)
        .persistent(false)
        .try_map(|row: PgRow| {
            let nodes: i64 = row.try_get("nodes")?;
            let known: i64 = row.try_get("known")?;
            let counts = Counts {
                nodes,
                pending: nodes.saturating_sub(known),
                ready: row.try_get("ready")?,
                delayed: row.try_get("delayed")?,
                waiting: row.try_get("waiting")?,
                running: row.try_get("running")?,
                completed: row.try_get("completed")?,
                failed: row.try_get("failed")?,
                skipped: row.try_get("skipped")?,
                canceled: row.try_get("canceled")?,
            };
            Ok((row.try_get("run_id")?, counts))
        })
        .fetch_all(conn)
        .await?;
    Ok(rows.into_iter().collect())
}

/// Every registered worker, live ones first.
pub async fn fleet(conn: &mut PgConnection) -> Result<Vec<WorkerView>, sqlx::Error> {
    sqlx::query_as(include_str!("../sql/inspect/fleet.sql"))
        .bind(SHARD)
        .bind(WORKER_SILENT_SECONDS)
        .persistent(false)
        .fetch_all(conn)
        .await
}

/// The runs that wait for the answer of a person, each with the signal that answers.
pub async fn approvals(conn: &mut PgConnection) -> Result<Vec<(Uuid, String)>, sqlx::Error> {
    sqlx::query_as(include_str!("../sql/inspect/approvals.sql")).bind(SHARD).persistent(false).fetch_all(conn).await
}

fn summary(row: &PgRow) -> Result<RunSummary, sqlx::Error> {
    Ok(RunSummary {
        run_id: row.try_get("run_id")?,
        workflow: row.try_get("workflow")?,
        version: row.try_get("version")?,
        state: word(row, "state")?,
        priority: row.try_get("priority")?,
        key: row.try_get("key")?,
        created_at: row.try_get("created_at")?,
        run_at: row.try_get("run_at")?,
        finished_at: row.try_get("finished_at")?,
        seconds: row.try_get("seconds")?,
        error: row.try_get("error")?,
    })
}

/// The state or outcome that a column names.
pub(crate) fn word<T>(row: &PgRow, column: &str) -> Result<T, sqlx::Error>
where
    T: FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    row.try_get::<&str, _>(column)?.parse().map_err(|e| undecodable(column, e))
}

fn undecodable(column: &str, source: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_owned(), source: Box::new(source) }
}
