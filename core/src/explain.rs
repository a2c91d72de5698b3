//! Why a run is not finished, answered from one snapshot.
//!
//! [`explain`] only reads, by index, and every age is by Postgres' clock. A live run always waits for something
//! that can be named; when nothing holds it, the answer is `stuck`, a broken promise that `doctor` finds too.

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Connection, PgConnection, Postgres, Row};
use uuid::Uuid;

use crate::graph::END;
use crate::inspect::{self, NodeState, StepView, WORKER_SILENT_SECONDS, WorkerView, word};
use crate::run::SHARD;
use crate::state::{Outcome, RunState};

mod answer;
mod text;

pub use answer::{Delay, Delayed, Explanation, Held, Join, Predecessor, Ready, Work};

/// At most this many step jobs, joins and predecessors are named; the totals say how many there are.
pub const MAX_SHOWN: i64 = 20;
/// Step jobs ahead of a ready one are counted up to here.
pub const MAX_AHEAD: i64 = 1_000;
const MAX_NAMED: usize = MAX_SHOWN as usize;
/// A step job due this close to the run's `run_at` waits for that.
const SLACK: TimeDelta = TimeDelta::seconds(1);

/// Why the run is not finished, or how it ended; `None` if there is no such run. Reads one snapshot in a
/// transaction of its own, so `conn` must be in none; changes nothing. Any error is the database's.
pub async fn explain(conn: &mut PgConnection, run_id: Uuid) -> Result<Option<Explanation>, sqlx::Error> {
    let mut tx = conn.begin_with(include_str!("../sql/inspect/snapshot.sql")).await?;
    let answer = read(&mut tx, run_id).await?;
    tx.rollback().await?;
    Ok(answer)
}

async fn read(conn: &mut PgConnection, run_id: Uuid) -> Result<Option<Explanation>, sqlx::Error> {
    let Some(run) = query(include_str!("../sql/explain/run.sql"), run_id).fetch_optional(&mut *conn).await? else {
        return Ok(None);
    };
    let state: RunState = word(&run, "state")?;
    let version_id: i32 = run.try_get("version_id")?;
    let now: DateTime<Utc> = run.try_get("now")?;
    let run_at: Option<DateTime<Utc>> = run.try_get("run_at")?;

    let ready = query(include_str!("../sql/explain/ready.sql"), run_id).bind(MAX_SHOWN).bind(MAX_AHEAD);
    let (mut ready, ready_total) = shown(&ready.fetch_all(&mut *conn).await?, ready_row)?;
    let delayed = query(include_str!("../sql/explain/delayed.sql"), run_id).bind(MAX_SHOWN);
    let (delayed, delayed_total) = shown(&delayed.fetch_all(&mut *conn).await?, |row| delayed_row(row, state, run_at))?;
    let held = query(include_str!("../sql/explain/held.sql"), run_id).bind(MAX_SHOWN).bind(WORKER_SILENT_SECONDS);
    let (held, held_total) = shown(&held.fetch_all(&mut *conn).await?, |row| held_row(row, now))?;

    let steps = inspect::steps(conn, run_id).await?;
    let stuck = !state.has_ended() && ready_total + delayed_total + held_total == 0;
    let (mut joins, mut joins_total, mut problems, mut lost) = (Vec::new(), 0, Vec::new(), Vec::new());
    if !state.has_ended() {
        joins = joins_of(conn, run_id, version_id, &steps).await?;
        joins_total = joins.len();
        joins.truncate(MAX_NAMED);
        let fleet = inspect::fleet(conn).await?;
        problems = unserved(&ready, &delayed, &held, &fleet);
        for step in &mut ready {
            step.workers = takers(&fleet, &step.queue, step.handler.as_deref());
        }
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
        pending: steps.iter().filter(|step| step.state == NodeState::Pending).count(),
        problems,
    }))
}

/// The statement with the shard and the run bound.
fn query(sql: &'static str, run_id: Uuid) -> Query<'static, Postgres, PgArguments> {
    sqlx::query(sql).bind(SHARD).bind(run_id).persistent(false)
}

/// The rows as values, and the total that each row repeats.
fn shown<T>(rows: &[PgRow], read: impl Fn(&PgRow) -> Result<T, sqlx::Error>) -> Result<(Vec<T>, i64), sqlx::Error> {
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
        workers: 0,
    })
}

fn delayed_row(row: &PgRow, run: RunState, run_at: Option<DateTime<Utc>>) -> Result<Delayed, sqlx::Error> {
    let work = Work::from_kind(row.try_get("kind")?);
    let due_at: DateTime<Utc> = row.try_get("due_at")?;
    let last: Option<i16> = row.try_get("last_outcome")?;
    let delay = match last {
        _ if work == Work::Wake => Delay::DelayNode,
        Some(outcome) if outcome == Outcome::Failed.code() => Delay::Backoff {
            after_attempt: row.try_get("last_attempt")?,
            failed_at: row.try_get("last_finished_at")?,
            error: row.try_get("last_error")?,
        },
        None if run_at.is_some_and(|run_at| (due_at - run_at).abs() < SLACK) => Delay::RunAt,
        _ if run == RunState::Paused => Delay::Paused,
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

/// The joins that have begun to count and still miss in-edges.
async fn joins_of(
    conn: &mut PgConnection,
    run_id: Uuid,
    version_id: i32,
    steps: &[StepView],
) -> Result<Vec<Join>, sqlx::Error> {
    let joins: Vec<(i32, Join)> = query(include_str!("../sql/explain/joins.sql"), run_id)
        .bind(version_id)
        .try_map(|row: PgRow| Ok((row.try_get("number")?, join_row(&row)?)))
        .fetch_all(&mut *conn)
        .await?;
    let numbers: Vec<i32> = joins.iter().map(|(number, _)| *number).collect();
    let in_edges: Vec<(i32, i32)> = sqlx::query_as(include_str!("../sql/explain/in_edges.sql"))
        .bind(version_id)
        .bind(&numbers)
        .persistent(false)
        .fetch_all(conn)
        .await?;
    Ok(waiting(joins, &in_edges, steps))
}

fn join_row(row: &PgRow) -> Result<Join, sqlx::Error> {
    Ok(Join {
        node: row.try_get("node")?,
        frame: row.try_get("frame")?,
        need: row.try_get("need")?,
        in_edges: 0,
        resolved: row.try_get("resolved")?,
        taken: row.try_get("taken")?,
        fired: false,
        waits_for: Vec::new(),
        waits_for_total: 0,
    })
}

/// Fills in what each join waits for, and leaves out those that wait for nothing.
fn waiting(joins: Vec<(i32, Join)>, in_edges: &[(i32, i32)], steps: &[StepView]) -> Vec<Join> {
    let mut sources: HashMap<i32, Vec<i32>> = HashMap::new();
    for (node, source) in in_edges {
        sources.entry(*node).or_default().push(*source);
    }
    let steps: HashMap<(i32, i32), &StepView> = steps.iter().map(|step| ((step.frame, step.number), step)).collect();
    let joins = joins.into_iter().filter_map(|(number, mut join)| {
        let tokens = sources.get(&number).map_or(&[][..], Vec::as_slice);
        join.in_edges = i32::try_from(tokens.len()).unwrap_or(i32::MAX);
        (join.resolved < join.in_edges).then_some((number, join, tokens))
    });
    let joins: Vec<_> = joins.collect();
    let counting: HashSet<i32> = joins.iter().map(|(number, ..)| *number).collect();
    let waiting = joins.into_iter().map(|(number, mut join, tokens)| {
        join.fired = steps.get(&(join.frame, number)).is_some_and(|step| step.state != NodeState::Pending);
        let mut named = HashSet::new();
        for source in tokens.iter().filter(|source| named.insert(**source)) {
            let Some(step) = steps.get(&(join.frame, *source)) else {
                continue;
            };
            // the end waits for an early join until that has counted all its own in-edges
            if step.state.has_ended() && !(number == END && counting.contains(source)) {
                continue;
            }
            join.waits_for_total += 1;
            if join.waits_for.len() < MAX_NAMED {
                join.waits_for.push(Predecessor { node: step.node.clone(), state: step.state });
            }
        }
        join
    });
    waiting.collect()
}

/// The nodes of a stuck run that should have a step by now.
async fn broken_off(conn: &mut PgConnection, version_id: i32, steps: &[StepView]) -> Result<Vec<String>, sqlx::Error> {
    let numbers = |wanted: fn(NodeState) -> bool| -> Vec<i32> {
        steps.iter().filter(|step| wanted(step.state)).map(|step| step.number).collect()
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
fn unserved(ready: &[Ready], delayed: &[Delayed], held: &[Held], fleet: &[WorkerView]) -> Vec<String> {
    let ready = ready.iter().map(|step| (step.queue.as_str(), step.handler.as_deref()));
    let delayed = delayed.iter().map(|step| (step.queue.as_str(), step.handler.as_deref()));
    let needs: BTreeSet<_> = ready.chain(delayed).collect();
    let mut problems = BTreeSet::new();
    if active(fleet).next().is_none() && (!needs.is_empty() || held.iter().any(|step| step.overdue)) {
        problems.insert("no live worker at all".to_owned());
    }
    for (queue, handler) in needs {
        let served = active(fleet).any(|worker| serves(worker, queue));
        if !served {
            problems.insert(format!("no live worker serves queue {queue}"));
        }
        let Some(name) = handler else { continue };
        if !active(fleet).any(|worker| knows(worker, handler)) {
            problems.insert(format!("no live worker knows handler {name}"));
        } else if served && takers(fleet, queue, handler) == 0 {
            problems.insert(format!("no live worker that serves queue {queue} knows handler {name}"));
        }
    }
    problems.into_iter().collect()
}

/// How many live workers can take a step job.
fn takers(fleet: &[WorkerView], queue: &str, handler: Option<&str>) -> usize {
    active(fleet).filter(|worker| serves(worker, queue) && knows(worker, handler)).count()
}

fn active(fleet: &[WorkerView]) -> impl Iterator<Item = &WorkerView> {
    fleet.iter().filter(|worker| worker.live && !worker.draining)
}

fn serves(worker: &WorkerView, queue: &str) -> bool {
    worker.queues.iter().any(|name| name == queue)
}

/// Nodes without a handler are the engine's own: every worker knows them.
fn knows(worker: &WorkerView, handler: Option<&str>) -> bool {
    handler.is_none_or(|handler| worker.handlers.iter().any(|name| name == handler))
}

#[cfg(test)]
mod tests;
