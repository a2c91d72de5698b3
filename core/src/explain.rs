//! Why a run is not finished, answered from one snapshot.
//!
//! [`explain`] only reads, by index, and every age is by Postgres' clock. A live run always waits for something
//! that can be named; when nothing holds it, the answer is `stuck`, a broken promise that `doctor` finds too.

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Connection, PgConnection, Postgres, Row};
use uuid::Uuid;

use crate::inspect::{self, NodeState, StepView, WORKER_SILENT_SECONDS, WorkerView, word};
use crate::run::SHARD;
use crate::state::{Outcome, RunState};

mod text;

/// At most this many step jobs, joins and predecessors are named; the totals say how many there are.
pub const MAX_SHOWN: i64 = 20;
/// Step jobs ahead of a ready one are counted up to here.
pub const MAX_AHEAD: i64 = 1_000;
const MAX_NAMED: usize = MAX_SHOWN as usize;
/// The node number of the end of a run.
const END: i32 = -2;

/// What a step job is there to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// Run the node.
    Run,
    /// The node is skipped: record it and tell its successors.
    Skip,
    /// A join that fired early has all its in-edges now: tell the end of the run.
    Whole,
    /// A delay is over: complete the node.
    Wake,
    /// The attempt is recorded: tell its successors.
    Advance,
    /// A kind that this program does not know.
    Unknown,
}

impl Work {
    const fn from_kind(kind: i16) -> Self {
        match kind {
            0 => Self::Run,
            1 => Self::Skip,
            2 => Self::Whole,
            3 => Self::Wake,
            4 => Self::Advance,
            _ => Self::Unknown,
        }
    }
}

/// A step job that may be claimed now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ready {
    /// The node's id.
    pub node: String,
    /// Its frame.
    pub frame: i32,
    /// What is to be done.
    pub work: Work,
    /// The number of the coming attempt.
    pub attempt: i32,
    /// The queue it is on.
    pub queue: String,
    /// 0 to 3, 0 first.
    pub priority: i16,
    /// It must be alone in its lane, because it was lost before.
    pub alone: bool,
    /// The handler it needs.
    pub handler: Option<String>,
    /// When it was enqueued.
    pub since: DateTime<Utc>,
    /// How many step jobs of the queue go first, counted up to [`MAX_AHEAD`].
    pub ahead: i64,
}

/// Why a step job is due only later.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Delay {
    /// The run was asked to start then.
    RunAt,
    /// A `delay` node.
    DelayNode,
    /// Backoff after a failed attempt.
    Backoff {
        /// The attempt that failed.
        after_attempt: i32,
        /// When it failed.
        failed_at: DateTime<Utc>,
        /// What it said.
        error: Option<Value>,
    },
    /// A worker that does not know the handler put it back.
    PutBack,
}

/// A step job that is due later.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Delayed {
    /// The node's id.
    pub node: String,
    /// Its frame.
    pub frame: i32,
    /// What is to be done then.
    pub work: Work,
    /// The number of the coming attempt.
    pub attempt: i32,
    /// The queue it goes to.
    pub queue: String,
    /// The handler it needs.
    pub handler: Option<String>,
    /// When it is due.
    pub due_at: DateTime<Utc>,
    /// Why then.
    #[serde(flatten)]
    pub delay: Delay,
}

/// A step job that a lane holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Held {
    /// The node's id.
    pub node: String,
    /// Its frame.
    pub frame: i32,
    /// What is being done.
    pub work: Work,
    /// The number of this attempt.
    pub attempt: i32,
    /// When the lane took it.
    pub claimed_at: Option<DateTime<Utc>>,
    /// The lane.
    pub lane_id: i64,
    /// When the lane's lease expires unless it is renewed.
    pub lease_until: DateTime<Utc>,
    /// The lease has expired: any live worker will reclaim the step.
    pub overdue: bool,
    /// The lane's worker, if it is registered.
    pub worker: Option<String>,
    /// Its host.
    pub host: Option<String>,
    /// Its process.
    pub pid: Option<i32>,
    /// Its last sign of life.
    pub heartbeat_at: Option<DateTime<Utc>>,
    /// That is recent.
    pub worker_live: bool,
}

/// A predecessor and where it stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Predecessor {
    /// The node's id.
    pub node: String,
    /// Where it stands.
    pub state: NodeState,
}

/// A join that has begun to count and still misses in-edges.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Join {
    /// The node's id; `(end)` is the end of the run.
    pub node: String,
    /// Its frame.
    pub frame: i32,
    /// How many taken in-edges let it fire; 0 means that all must be resolved.
    pub need: i32,
    /// In-edges in all.
    pub in_edges: i32,
    /// In-edges resolved.
    pub resolved: i32,
    /// In-edges taken.
    pub taken: i32,
    /// It fired early and counts on, so that the run ends only after all of it.
    pub fired: bool,
    /// The predecessors that are not resolved, at most [`MAX_SHOWN`].
    pub waits_for: Vec<Predecessor>,
    /// How many those are in all.
    pub waits_for_total: usize,
}

/// The answer. The fields are the keys of `-o json`; `Display` gives readable lines.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The run.
    pub run_id: Uuid,
    /// Its workflow.
    pub workflow: String,
    /// The version it keeps.
    pub version: i32,
    /// Where it stands.
    pub state: RunState,
    /// Postgres' clock when this was read.
    pub now: DateTime<Utc>,
    /// When the run was started.
    pub created_at: DateTime<Utc>,
    /// When it was to begin, if later.
    pub run_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// Its error, once failed or canceled; the error names its node.
    pub error: Option<Value>,
    /// Live, and nothing holds it: a broken promise.
    pub stuck: bool,
    /// Where a stuck run broke off: nodes that should have a step by now.
    pub lost: Vec<String>,
    /// Step jobs that may be claimed now.
    pub ready: Vec<Ready>,
    /// How many those are in all.
    pub ready_total: i64,
    /// Step jobs that are due later.
    pub delayed: Vec<Delayed>,
    /// How many those are in all.
    pub delayed_total: i64,
    /// Step jobs that lanes hold.
    pub held: Vec<Held>,
    /// How many those are in all.
    pub held_total: i64,
    /// Joins that wait for predecessors.
    pub joins: Vec<Join>,
    /// How many those are in all.
    pub joins_total: usize,
    /// Nodes not decided yet; of an ended run, never reached.
    pub pending: usize,
    /// What keeps the step jobs above from going on: no live worker serves the queue, or knows the handler.
    pub problems: Vec<String>,
}

/// Why the run is not finished, or how it ended; `None` if there is no such run. Reads one snapshot in a
/// transaction of its own, so `conn` must be in none; changes nothing. Any error is the database's.
pub async fn explain(
    conn: &mut PgConnection,
    run_id: Uuid,
) -> Result<Option<Explanation>, sqlx::Error> {
    let mut tx = conn
        .begin_with(include_str!("../sql/inspect/snapshot.sql"))
        .await?;
    let answer = read(&mut tx, run_id).await?;
    tx.rollback().await?;
    Ok(answer)
}

async fn read(conn: &mut PgConnection, run_id: Uuid) -> Result<Option<Explanation>, sqlx::Error> {
    let Some(run) = query(include_str!("../sql/explain/run.sql"), run_id)
        .fetch_optional(&mut *conn)
        .await?
    else {
        return Ok(None);
    };
    let state: RunState = word(&run, "state")?;
    let version_id: i32 = run.try_get("version_id")?;
    let now: DateTime<Utc> = run.try_get("now")?;
    let run_at: Option<DateTime<Utc>> = run.try_get("run_at")?;

    let ready = query(include_str!("../sql/explain/ready.sql"), run_id)
        .bind(MAX_SHOWN)
        .bind(MAX_AHEAD);
    let (ready, ready_total) = shown(&ready.fetch_all(&mut *conn).await?, ready_row)?;
    let delayed = query(include_str!("../sql/explain/delayed.sql"), run_id).bind(MAX_SHOWN);
    let (delayed, delayed_total) = shown(&delayed.fetch_all(&mut *conn).await?, |row| {
        delayed_row(row, run_at)
    })?;
    let held = query(include_str!("../sql/explain/held.sql"), run_id)
        .bind(MAX_SHOWN)
        .bind(WORKER_SILENT_SECONDS);
    let (held, held_total) = shown(&held.fetch_all(&mut *conn).await?, |row| held_row(row, now))?;

    let steps = inspect::steps(conn, run_id).await?;
    let stuck = !state.has_ended() && ready_total + delayed_total + held_total == 0;
    let (mut joins, mut joins_total, mut problems, mut lost) =
        (Vec::new(), 0, Vec::new(), Vec::new());
    if !state.has_ended() {
        joins = joins_of(conn, run_id, version_id, &steps).await?;
        joins_total = joins.len();
        joins.truncate(MAX_NAMED);
        problems = unserved(&ready, &delayed, &held, &inspect::fleet(conn).await?);
    }
    if stuck {
        lost = broken_off(conn, version_id, &steps).await?;
    }
    Ok(Some(Explanation {
        run_id,
        workflow: run.try_get("workflow")?,
        version: run.try_get("version")?,
        state,
        now,
        created_at: run.try_get("created_at")?,
        run_at,
        finished_at: run.try_get("finished_at")?,
        error: run.try_get("error")?,
        stuck,
        lost,
        ready,
        ready_total,
        delayed,
        delayed_total,
        held,
        held_total,
        joins,
        joins_total,
        pending: steps
            .iter()
            .filter(|step| step.state == NodeState::Pending)
            .count(),
        problems,
    }))
}

/// The statement with the shard and the run bound.
fn query(sql: &'static str, run_id: Uuid) -> Query<'static, Postgres, PgArguments> {
    sqlx::query(sql).bind(SHARD).bind(run_id).persistent(false)
}

/// The rows as values, and the total that each row repeats.
fn shown<T>(
    rows: &[PgRow],
    read: impl Fn(&PgRow) -> Result<T, sqlx::Error>,
) -> Result<(Vec<T>, i64), sqlx::Error> {
    let total = rows.first().map_or(Ok(0), |row| row.try_get("total"))?;
    Ok((rows.iter().map(read).collect::<Result<_, _>>()?, total))
}

fn ready_row(row: &PgRow) -> Result<Ready, sqlx::Error> {
    Ok(Ready {
        node: row.try_get("node")?,
        frame: row.try_get("frame")?,
        work: Work::from_kind(row.try_get("kind")?),
        attempt: row.try_get("attempt")?,
        queue: row.try_get("queue")?,
        priority: row.try_get("priority")?,
        alone: row.try_get("alone")?,
        handler: row.try_get("handler")?,
        since: row.try_get("since")?,
        ahead: row.try_get("ahead")?,
    })
}

fn delayed_row(row: &PgRow, run_at: Option<DateTime<Utc>>) -> Result<Delayed, sqlx::Error> {
    let work = Work::from_kind(row.try_get("kind")?);
    let due_at = row.try_get("due_at")?;
    let last: Option<i16> = row.try_get("last_outcome")?;
    let delay = match last {
        _ if work == Work::Wake => Delay::DelayNode,
        Some(outcome) if outcome == Outcome::Failed.code() => Delay::Backoff {
            after_attempt: row.try_get("last_attempt")?,
            failed_at: row.try_get("last_finished_at")?,
            error: row.try_get("last_error")?,
        },
        None if run_at == Some(due_at) => Delay::RunAt,
        _ => Delay::PutBack,
    };
    Ok(Delayed {
        node: row.try_get("node")?,
        frame: row.try_get("frame")?,
        work,
        attempt: row.try_get("attempt")?,
        queue: row.try_get("queue")?,
        handler: row.try_get("handler")?,
        due_at,
        delay,
    })
}

fn held_row(row: &PgRow, now: DateTime<Utc>) -> Result<Held, sqlx::Error> {
    let lease_until = row.try_get("expires_at")?;
    Ok(Held {
        node: row.try_get("node")?,
        frame: row.try_get("frame")?,
        work: Work::from_kind(row.try_get("kind")?),
        attempt: row.try_get("attempt")?,
        claimed_at: row.try_get("claimed_at")?,
        lane_id: row.try_get("lane_id")?,
        lease_until,
        overdue: lease_until < now,
        worker: row.try_get("worker")?,
        host: row.try_get("host")?,
        pid: row.try_get("pid")?,
        heartbeat_at: row.try_get("heartbeat_at")?,
        worker_live: row.try_get("worker_live")?,
    })
}

async fn joins_of(
    conn: &mut PgConnection,
    run_id: Uuid,
    version_id: i32,
    steps: &[StepView],
) -> Result<Vec<Join>, sqlx::Error> {
    let rows = query(include_str!("../sql/explain/joins.sql"), run_id)
        .bind(version_id)
        .fetch_all(conn)
        .await?;
    let counting: HashSet<i32> = rows
        .iter()
        .map(|row| row.try_get("number"))
        .collect::<Result<_, _>>()?;
    let by_number: HashMap<(i32, i32), &StepView> = steps
        .iter()
        .map(|step| ((step.frame, step.number), step))
        .collect();
    rows.iter()
        .map(|row| {
            let (number, frame): (i32, i32) = (row.try_get("number")?, row.try_get("frame")?);
            // the end waits for an early join until that has counted all its own in-edges
            let unresolved = |step: &&StepView| {
                !step.state.has_ended() || (number == END && counting.contains(&step.number))
            };
            let mut waits_for: Vec<Predecessor> = row
                .try_get::<Vec<i32>, _>("sources")?
                .iter()
                .filter_map(|source| by_number.get(&(frame, *source)).copied())
                .filter(unresolved)
                .map(|step| Predecessor {
                    node: step.node.clone(),
                    state: step.state,
                })
                .collect();
            let waits_for_total = waits_for.len();
            waits_for.truncate(MAX_NAMED);
            Ok(Join {
                node: row.try_get("node")?,
                frame,
                need: row.try_get("need")?,
                in_edges: row.try_get("in_edges")?,
                resolved: row.try_get("resolved")?,
                taken: row.try_get("taken")?,
                fired: by_number
                    .get(&(frame, number))
                    .is_some_and(|step| step.state != NodeState::Pending),
                waits_for,
                waits_for_total,
            })
        })
        .collect()
}

/// The nodes of a stuck run that should have a step by now.
async fn broken_off(
    conn: &mut PgConnection,
    version_id: i32,
    steps: &[StepView],
) -> Result<Vec<String>, sqlx::Error> {
    let numbers = |wanted: fn(NodeState) -> bool| -> Vec<i32> {
        steps
            .iter()
            .filter(|step| wanted(step.state))
            .map(|step| step.number)
            .collect()
    };
    sqlx::query_scalar(include_str!("../sql/explain/lost.sql"))
        .bind(version_id)
        .bind(numbers(NodeState::has_ended))
        .bind(numbers(|state| state == NodeState::Pending))
        .persistent(false)
        .fetch_all(conn)
        .await
}

/// What no live worker does although a step job needs it, each said once.
fn unserved(
    ready: &[Ready],
    delayed: &[Delayed],
    held: &[Held],
    fleet: &[WorkerView],
) -> Vec<String> {
    let live: Vec<&WorkerView> = fleet
        .iter()
        .filter(|worker| worker.live && !worker.draining)
        .collect();
    let needs: BTreeSet<(&str, Option<&str>)> = ready
        .iter()
        .map(|step| (step.queue.as_str(), step.handler.as_deref()))
        .chain(
            delayed
                .iter()
                .map(|step| (step.queue.as_str(), step.handler.as_deref())),
        )
        .collect();
    let mut problems = BTreeSet::new();
    if live.is_empty() && (!needs.is_empty() || held.iter().any(|step| step.overdue)) {
        problems.insert("no live worker at all".to_owned());
    }
    for (queue, handler) in needs {
        let serves = |worker: &&&WorkerView| worker.queues.iter().any(|name| name == queue);
        let knows = |worker: &&&WorkerView| {
            worker
                .handlers
                .iter()
                .any(|name| Some(name.as_str()) == handler)
        };
        if !live.iter().any(|worker| serves(&worker)) {
            problems.insert(format!("no live worker serves queue {queue}"));
        }
        if let Some(handler) = handler {
            if !live.iter().any(|worker| knows(&worker)) {
                problems.insert(format!("no live worker knows handler {handler}"));
            } else if live.iter().any(|worker| serves(&worker))
                && !live.iter().filter(serves).any(|worker| knows(&worker))
            {
                problems.insert(format!(
                    "no live worker that serves queue {queue} knows handler {handler}"
                ));
            }
        }
    }
    problems.into_iter().collect()
}
