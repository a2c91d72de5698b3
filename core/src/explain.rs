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
use crate::state::{Outcome, RunState, StepState};

mod answer;
mod text;

pub use answer::{AwaitedRun, Delay, Delayed, Explanation, Held, Join, Predecessor, Ready, Waiting, Work};

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
    let (mut delayed, delayed_total) =
        shown(&delayed.fetch_all(&mut *conn).await?, |row| delayed_row(row, state, run_at))?;
    let held = query(include_str!("../sql/explain/held.sql"), run_id).bind(MAX_SHOWN).bind(WORKER_SILENT_SECONDS);
    let (mut held, held_total) = shown(&held.fetch_all(&mut *conn).await?, |row| held_row(row, now))?;

    let waiting = query(include_str!("../sql/explain/waiting.sql"), run_id).bind(MAX_SHOWN);
    let (mut waiting, waiting_total) = shown(&waiting.fetch_all(&mut *conn).await?, waiting_row)?;

    let steps = inspect::steps(conn, run_id).await?;
    let stuck = !state.has_ended() && ready_total + delayed_total + held_total + waiting_total == 0;
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
        lost = broken_off(conn, run_id, version_id, &steps).await?;
    }
    let places = ready.iter_mut().map(|step| (step.frame, &mut step.within));
    let places = places.chain(delayed.iter_mut().map(|step| (step.frame, &mut step.within)));
    let places = places.chain(held.iter_mut().map(|step| (step.frame, &mut step.within)));
    let places = places.chain(waiting.iter_mut().map(|step| (step.frame, &mut step.within)));
    let places: Vec<_> = places.chain(joins.iter_mut().map(|join| (join.frame, &mut join.within))).collect();
    let known = inspect::within(conn, run_id, places.iter().map(|(frame, _)| *frame)).await?;
    for (frame, within) in places {
        *within = known.get(&frame).cloned();
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
        paused_at: run.try_get("paused_at")?,
        paused_because: run.try_get("paused_because")?,
        cleans_up: run.try_get("cleans_up")?,
        stuck,
        lost,
        ready,
        ready_total,
        delayed,
        delayed_total,
        waiting,
        waiting_total,
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
        within: None,
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
        _ if row.try_get("parked")? => Delay::Paused,
        _ if work == Work::Wake => Delay::DelayNode,
        _ if row.try_get::<&str, _>("node")? == "(timeout)" => Delay::Timeout,
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
        within: None,
        work,
        attempt: row.try_get("attempt")?,
        queue: row.try_get("queue")?,
        handler: row.try_get("handler")?,
        due_at,
        delay,
    })
}

fn waiting_row(row: &PgRow) -> Result<Waiting, sqlx::Error> {
    Ok(Waiting {
        node: row.try_get("node")?,
        frame: row.try_get("frame")?,
        within: None,
        attempt: row.try_get("attempt")?,
        // a milestone waits under the one name that no signal has
        signals: row.try_get::<Vec<String>, _>("names")?.into_iter().filter(|name| !name.is_empty()).collect(),
        child: awaited(row)?,
        since: row.try_get("since")?,
        until: row.try_get("due_at")?,
        untaken: row.try_get("untaken")?,
    })
}

/// The run that a step waits for, if that is it.
fn awaited(row: &PgRow) -> Result<Option<AwaitedRun>, sqlx::Error> {
    let Some(run_id) = row.try_get("child_run_id")? else { return Ok(None) };
    let known: Option<&str> = row.try_get("child_state")?;
    let state = known.map(|_| word(row, "child_state")).transpose()?;
    Ok(Some(AwaitedRun { run_id, workflow: row.try_get("child_workflow")?, state }))
}

fn held_row(row: &PgRow, now: DateTime<Utc>) -> Result<Held, sqlx::Error> {
    let lease_until = row.try_get("expires_at")?;
    Ok(Held {
        node: row.try_get("node")?,
        frame: row.try_get("frame")?,
        within: None,
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

/// The joins that have begun to count and still miss in-edges, and the blocks that still miss iterations.
async fn joins_of(
    conn: &mut PgConnection,
    run_id: Uuid,
    version_id: i32,
    steps: &[StepView],
) -> Result<Vec<Join>, sqlx::Error> {
    let counted: Vec<Counted> = query(include_str!("../sql/explain/joins.sql"), run_id)
        .bind(version_id)
        .try_map(|row: PgRow| counted(&row))
        .fetch_all(&mut *conn)
        .await?;
    let numbers: Vec<i32> = counted.iter().map(|join| join.number).filter(|number| *number >= 0).collect();
    let ends = counted.iter().filter(|join| join.number == END).filter_map(|join| join.body);
    let in_edges: Vec<(i32, i32, i32)> = sqlx::query_as(include_str!("../sql/explain/in_edges.sql"))
        .bind(version_id)
        .bind(&numbers)
        .bind(ends.collect::<Vec<i32>>())
        .persistent(false)
        .fetch_all(&mut *conn)
        .await?;
    let blocks: Vec<i32> = counted.iter().filter(|join| join.counts_iterations()).map(|join| join.join.frame).collect();
    let iterations: Vec<(i32, String)> = sqlx::query_as(include_str!("../sql/explain/iterations.sql"))
        .bind(SHARD)
        .bind(run_id)
        .bind(&blocks)
        .bind(MAX_SHOWN)
        .persistent(false)
        .fetch_all(conn)
        .await?;
    Ok(waiting(counted, &in_edges, &iterations, steps))
}

/// A join and what tells which in-edges it has.
struct Counted {
    /// Its node.
    number: i32,
    /// The graph it is part of; none where it counts iterations.
    body: Option<i32>,
    /// How many iterations there are.
    iterations: Option<i32>,
    join: Join,
}

impl Counted {
    fn counts_iterations(&self) -> bool {
        self.number == END && self.body.is_none()
    }
}

fn counted(row: &PgRow) -> Result<Counted, sqlx::Error> {
    let join = Join {
        node: row.try_get("node")?,
        frame: row.try_get("frame")?,
        within: None,
        need: row.try_get("need")?,
        in_edges: 0,
        resolved: row.try_get("resolved")?,
        taken: row.try_get("taken")?,
        fired: false,
        waits_for: Vec::new(),
        waits_for_total: 0,
    };
    Ok(Counted {
        number: row.try_get("number")?,
        body: row.try_get("body")?,
        iterations: row.try_get("iterations")?,
        join,
    })
}

/// Fills in what each join waits for, and leaves out those that wait for nothing. `in_edges`: body, join, predecessor. `iterations`: those that go on,
/// with the frames of their blocks.
fn waiting(
    joins: Vec<Counted>,
    in_edges: &[(i32, i32, i32)],
    iterations: &[(i32, String)],
    steps: &[StepView],
) -> Vec<Join> {
    let mut sources: HashMap<(i32, i32), Vec<i32>> = HashMap::new();
    for (body, node, source) in in_edges {
        sources.entry((*body, *node)).or_default().push(*source);
    }
    let steps: HashMap<(i32, i32), &StepView> = steps.iter().map(|step| ((step.frame, step.number), step)).collect();
    let joins = joins.into_iter().filter_map(|mut counted| {
        let tokens = counted.body.and_then(|body| sources.get(&(body, counted.number))).map_or(&[][..], Vec::as_slice);
        let edges = counted.iterations.filter(|_| counted.body.is_none());
        let join = &mut counted.join;
        join.in_edges = edges.unwrap_or_else(|| i32::try_from(tokens.len()).unwrap_or(i32::MAX));
        (join.resolved < join.in_edges).then_some((counted, tokens))
    });
    let joins: Vec<_> = joins.collect();
    let counting: HashSet<(i32, i32)> = joins.iter().map(|(of, _)| (of.join.frame, of.number)).collect();
    let waiting = joins.into_iter().map(|(counted, tokens)| {
        let goes_on = counted.counts_iterations();
        let Counted { number, mut join, .. } = counted;
        if goes_on {
            let named = iterations.iter().filter(|(frame, _)| *frame == join.frame);
            let running = NodeState::Step(StepState::Running);
            join.waits_for = named.map(|(_, node)| Predecessor { node: node.clone(), state: running }).collect();
            join.waits_for_total = usize::try_from(join.in_edges - join.resolved).unwrap_or(0);
            return join;
        }
        join.fired = steps.get(&(join.frame, number)).is_some_and(|step| step.state != NodeState::Pending);
        let mut named = HashSet::new();
        for source in tokens.iter().filter(|source| named.insert(**source)) {
            let Some(step) = steps.get(&(join.frame, *source)) else {
                continue;
            };
            // the end waits for an early join until that has counted all its own in-edges
            if step.state.has_ended() && !(number == END && counting.contains(&(join.frame, *source))) {
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
async fn broken_off(
    conn: &mut PgConnection,
    run_id: Uuid,
    version_id: i32,
    steps: &[StepView],
) -> Result<Vec<String>, sqlx::Error> {
    let places = |wanted: fn(NodeState) -> bool| -> (Vec<i32>, Vec<i32>) {
        steps.iter().filter(|step| wanted(step.state)).map(|step| (step.frame, step.number)).unzip()
    };
    let (ended, pending) = (places(NodeState::has_ended), places(|state| state == NodeState::Pending));
    let lost: Vec<(i32, String)> = sqlx::query_as(include_str!("../sql/explain/lost.sql"))
        .bind(SHARD)
        .bind(run_id)
        .bind(version_id)
        .bind(ended.0)
        .bind(ended.1)
        .bind(pending.0)
        .bind(pending.1)
        .persistent(false)
        .fetch_all(&mut *conn)
        .await?;
    let within = inspect::within(conn, run_id, lost.iter().map(|(frame, _)| *frame)).await?;
    let place = |(frame, node): &(i32, String)| inspect::place(node, *frame, within.get(frame).map(String::as_str));
    Ok(lost.iter().map(place).collect())
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
