//! One pass of a lane's baton, and certainty about it: the batch a lane sends, the call, and what to do when the answer got lost.
//! The baton is passed by value: the next one comes back, or the lane lost it. Whatever is in a [`Batch`] happens in one transaction or not at all.
//! Which attempts end and what follows from them is decided elsewhere (`attempt`, `successor`).

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::postgres::types::PgInterval;
use sqlx::{PgExecutor, Row};
use uuid::Uuid;

use crate::database;
use crate::graph::NodeNumber;
use crate::pacing::Pacing;
use crate::payload::Payload;
use crate::queue::{Claim, Claimed, HeldStep, SHARD, SOLO, StepKind, seq_time};
use crate::session::{Access, Session};
use crate::state::{Outcome, RunState};

/// Arrivals at one join, added up over the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinArrival {
    /// The run.
    pub run_id: Uuid,
    /// The frame.
    pub frame: i32,
    /// The join, or the run's end.
    pub node: NodeNumber,
    /// In-edges that were resolved.
    pub resolved: i32,
    /// Those of them that were taken.
    pub taken: i32,
    /// All in-edges of the join.
    pub indegree: i32,
    /// 0: all in-edges and one taken; n: the n-th taken; -1: all in-edges, whatever was taken.
    pub need: i32,
    /// Where the join's step belongs.
    pub queue_id: i32,
    /// The run's priority.
    pub priority: i16,
    /// The run's version.
    pub version_id: i32,
    /// The lane may hold the step when the join fires.
    pub keep: bool,
}

/// A join whose in-edges are all resolved and whose row may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JoinKey {
    /// The run.
    pub run_id: Uuid,
    /// The frame.
    pub frame: i32,
    /// The join.
    pub node: NodeNumber,
}

/// A run that ends with this batch.
#[derive(Clone, Debug, PartialEq)]
pub struct RunEnding {
    /// The run.
    pub run_id: Uuid,
    /// Its workflow.
    pub workflow: Arc<str>,
    /// Completed, failed or canceled.
    pub state: RunState,
    /// Its output.
    pub output: Option<Payload>,
    /// Its error.
    pub error: Option<Payload>,
    /// Steps of it may be out: announce the end, so that cycles that end them are refused.
    pub announce: bool,
}

/// An attempt that ended: one row of `execution_step_attempts`.
#[derive(Clone, Debug, PartialEq)]
pub struct EndedAttempt {
    /// The run.
    pub run_id: Uuid,
    /// The frame.
    pub frame: i32,
    /// The node.
    pub node: NodeNumber,
    /// The number of the try; 0 for a skipped node.
    pub attempt: i32,
    /// How it ended.
    pub outcome: Outcome,
    /// When the step became ready.
    pub enqueued_at: Option<DateTime<Utc>>,
    /// When the lane got it.
    pub claimed_at: Option<DateTime<Utc>>,
    /// How long the handler ran, by the worker's monotonic clock.
    pub duration: Option<Duration>,
    /// What it gave, if it completed.
    pub output: Option<Payload>,
    /// What went wrong, or why it was skipped.
    pub error: Option<Payload>,
}

/// When a delayed step job is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// This long after the cycle.
    After(Duration),
    /// At this time of the database's clock.
    At(DateTime<Utc>),
}

/// Everything a lane wants to happen in one cycle.
#[derive(Debug, Default)]
pub struct Batch {
    /// Runs whose steps end here: the fence refuses the batch if one of them was closed meanwhile.
    pub ended_runs: Vec<Uuid>,
    /// Closings the lane has heeded already.
    pub known_closings: Vec<i64>,
    /// One entry per join; sorted before sending.
    pub joins: Vec<JoinArrival>,
    /// Joins fully resolved in an earlier cycle.
    pub resolved_joins: Vec<JoinKey>,
    /// Runs that end; one entry per run.
    pub endings: Vec<RunEnding>,
    /// Attempts that ended.
    pub attempts: Vec<EndedAttempt>,
    /// Step jobs due later.
    pub delayed: Vec<(Due, HeldStep)>,
    /// Step jobs for anyone.
    pub ready: Vec<HeldStep>,
    /// Steps that get a private baton with this lane id.
    pub private: Vec<(i64, HeldRow)>,
    /// Steps the lane goes on holding.
    pub held: Vec<HeldRow>,
    /// Successors the lane keeps: held from the moment of this cycle on.
    pub kept: Vec<HeldStep>,
    /// At most this many joins that fire are held by the lane.
    pub keep_joins: i32,
    /// What to claim.
    pub claim: Claim,
    /// Also report what is closed at the moment.
    pub look: bool,
}

/// What a baton says of one held step.
#[derive(Clone, Copy, Debug)]
pub struct HeldRow {
    /// The run.
    pub run_id: Uuid,
    /// The frame.
    pub frame: i32,
    /// The node.
    pub node: NodeNumber,
    /// What there is to do.
    pub kind: StepKind,
    /// The number of the try.
    pub attempt: i32,
    /// When the lane got it.
    pub claimed_at: DateTime<Utc>,
}

/// A lane's place: the lease of all it holds. Not `Clone`: it is passed on, never used twice.
#[derive(Debug, PartialEq, Eq)]
pub struct Baton {
    /// A random number, never reused.
    pub lane_id: i64,
    /// The cycle whose row stands now, or stood last.
    pub cycle: i64,
    /// A row stands. An idle lane holds none; its next claim inserts cycle + 1.
    pub stands: bool,
    /// The lane was registered with its worker by an earlier cycle.
    pub registered: bool,
}

impl Baton {
    /// The baton of a lane that holds nothing yet. `lane_id` is random and positive.
    #[must_use]
    pub fn new(lane_id: i64) -> Self {
        Self { lane_id, cycle: 0, stands: false, registered: false }
    }
}

/// What a cycle brought about.
#[derive(Debug, Default)]
pub struct Passed {
    /// `now()` of the cycle: `finished_at` of its attempts and `claimed_at` of the successors kept.
    pub at: DateTime<Utc>,
    /// Joins that fired here, then what was claimed (see `joins`).
    pub new: Vec<(Claimed, Option<i64>)>,
    /// Joins whose step went to the queue.
    pub joins_enqueued: i32,
    /// How long Postgres took to claim: under a pinned snapshot a sweep walks over dead rows.
    pub claim_took: Duration,
    /// Runs that should have ended here but had ended before.
    pub already_ended: Vec<Uuid>,
    /// Closings announced here or seen.
    pub closings: Vec<(Uuid, i64)>,
}

/// How a cycle came out.
#[derive(Debug)]
pub enum Pass {
    /// It was committed; the next baton is the lane's.
    Passed(Baton, Passed),
    /// It was committed, but its answer got lost: what the next baton lists.
    Recovered(Baton, Vec<Claimed>),
    /// Nothing happened, since runs were closed: drop the consequences of their steps, note the closings as known, and send again.
    Refused(Baton, Vec<(Uuid, i64)>),
    /// Another worker took this lane's steps back: drop the results and start a new lane.
    Fenced,
    /// Postgres refuses the content of the batch: nothing happened. Halve the batch and send again.
    Data(Baton, sqlx::Error),
    /// Stopped before Postgres gave a clear answer, or an opening whose answer got lost and that did not happen yet: start a new lane. Whatever stands of
    /// this one is reclaimed when its lease is over.
    Unclear(sqlx::Error),
}

/// How long a lane waits for one answer before it takes it for lost.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How long a lane keeps a connection before the pool sees it again.
const KEPT_FOR: Duration = Duration::from_secs(60);

impl Batch {
    /// Bring the batch into the form the function demands: one entry per key, in the order of locks.
    pub fn seal(&mut self) {
        self.joins.sort_unstable_by_key(|j| (j.run_id, j.frame, j.node));
        self.resolved_joins.sort_unstable();
        self.endings.sort_by_key(|e| e.run_id);
        self.ended_runs.sort_unstable();
        self.ended_runs.dedup();
    }
}

/// Who sends, and for how long the baton is good.
#[derive(Clone, Debug)]
pub struct Sender {
    /// Where to send.
    pub access: Access,
    /// The worker the lane belongs to.
    pub worker_id: Uuid,
    /// The lease of a baton.
    pub lease: Duration,
}

/// The connection a lane sends on. A lane that is alone with it keeps it from cycle to cycle: taking one from the pool and giving it back costs Postgres
/// a round trip, and each session has caches to warm.
#[derive(Debug, Default)]
pub struct Line {
    keep: bool,
    kept: Option<(Session<'static>, Instant)>,
}

impl Line {
    /// Keeps its connection: for no more lanes than the pool has connections.
    #[must_use]
    pub fn kept() -> Self {
        Self { keep: true, kept: None }
    }

    /// Takes a connection from the pool for each cycle.
    #[must_use]
    pub fn shared() -> Self {
        Self::default()
    }
}

/// Pass the baton with everything in `batch`, which must be sealed, and make sure of it: whatever is not a clear answer is sent again, byte for byte,
/// until there is one or `stopped` ends (an opening, which nothing would fence, is looked for instead). So it is safe whatever dies between here and
/// Postgres; a batch happens once or not at all.
pub async fn pass(
    sender: &Sender,
    line: &mut Line,
    baton: Baton,
    batch: &Batch,
    stopped: impl Future<Output = ()>,
) -> Pass {
    let mut stopped = pin!(stopped);
    let mut pacing = Pacing::reconnect();
    loop {
        let error = match once(sender, line, &baton, batch).await {
            Ok(Some(passed)) => {
                let stands = !batch.held.is_empty() || !batch.kept.is_empty() || !passed.new.is_empty();
                let next = Baton {
                    lane_id: baton.lane_id,
                    cycle: baton.cycle + 1,
                    stands,
                    registered: baton.registered || stands,
                };
                return Pass::Passed(next, passed);
            }
            // no row: refused by the fence, fenced, or a copy of this cycle was committed before
            Ok(None) => match stand(sender, &baton).await {
                Ok(Stand::Neither) => return Pass::Fenced,
                Ok(Stand::Next(held)) => return Pass::Recovered(next_of(&baton), held),
                Ok(Stand::Same) => match closings(sender, &batch.ended_runs).await {
                    Ok(closings) if closings.iter().any(|(_, id)| !batch.known_closings.contains(id)) => {
                        return Pass::Refused(baton, closings);
                    }
                    // settled in between, or the copy that held the row was rolled back
                    Ok(_) => continue,
                    Err(error) => error,
                },
                Err(error) => error,
            },
            Err(error) => match database::kind(&error) {
                database::ErrorKind::Data => return Pass::Data(baton, error),
                // an opening deletes no baton, so nothing would fence a second copy of it: look, never send it again
                database::ErrorKind::Ambiguous if !baton.stands => return opened(sender, &baton, error, stopped).await,
                _ => error,
            },
        };
        if !again(&baton, &error, &mut pacing, stopped.as_mut()).await {
            return Pass::Unclear(error);
        }
    }
}

/// What became of an opening whose answer got lost.
async fn opened(
    sender: &Sender,
    baton: &Baton,
    unclear: sqlx::Error,
    mut stopped: Pin<&mut impl Future<Output = ()>>,
) -> Pass {
    let mut pacing = Pacing::reconnect();
    loop {
        let error = match stand(sender, baton).await {
            Ok(Stand::Next(held)) => return Pass::Recovered(next_of(baton), held),
            // what a late copy claims is reclaimed when its lease is over
            Ok(Stand::Same | Stand::Neither) => return Pass::Unclear(unclear),
            Err(error) => error,
        };
        if !again(baton, &error, &mut pacing, stopped.as_mut()).await {
            return Pass::Unclear(error);
        }
    }
}

/// Pause before another try. False: stopped.
async fn again(
    baton: &Baton,
    error: &sqlx::Error,
    pacing: &mut Pacing,
    stopped: Pin<&mut impl Future<Output = ()>>,
) -> bool {
    let Baton { lane_id, cycle, .. } = baton;
    tracing::warn!(lane_id, cycle, %error, "no clear answer for a cycle, asking again");
    tokio::select! {
        () = stopped => false,
        () = tokio::time::sleep(pacing.pause()) => true,
    }
}

fn next_of(baton: &Baton) -> Baton {
    Baton { lane_id: baton.lane_id, cycle: baton.cycle + 1, stands: true, registered: true }
}

/// One try on one connection; a connection whose answer is late is closed, never used again.
async fn once(sender: &Sender, line: &mut Line, baton: &Baton, batch: &Batch) -> Result<Option<Passed>, sqlx::Error> {
    let lease =
        PgInterval { months: 0, days: 0, microseconds: i64::try_from(sender.lease.as_micros()).unwrap_or(i64::MAX) };
    let (mut session, since) = match line.kept.take() {
        Some(kept) => kept,
        None => (sender.access.session().await?, Instant::now()),
    };
    let answer = tokio::time::timeout(ANSWER_WITHIN, send(&mut session, baton, lease, sender.worker_id, batch));
    let Ok(answer) = answer.await else {
        session.abandon();
        return Err(late());
    };
    #[cfg(feature = "broken")]
    if matches!(answer, Ok(Some(_))) {
        crate::broken::enqueue(&mut session, &batch.ready).await?;
    }
    // after an error the pool looks whether it is still good, and now and then so that it does not outlive the pool's limits
    if line.keep && answer.is_ok() && since.elapsed() < KEPT_FOR {
        line.kept = Some((session, since));
    }
    answer
}

fn late() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "postgres gave no answer in time"))
}

/// Where a baton stands after an unclear answer.
enum Stand {
    /// Cycle n: nothing happened.
    Same,
    /// Cycle n + 1: it happened, and this is what the lane holds.
    Next(Vec<Claimed>),
    /// Neither: the lane was fenced, or it passed its baton and holds nothing.
    Neither,
}

async fn stand(sender: &Sender, baton: &Baton) -> Result<Stand, sqlx::Error> {
    let query = sqlx::query(include_str!("../sql/cycle/stand.sql")).bind(SHARD).bind(baton.lane_id).bind(baton.cycle);
    let rows =
        tokio::time::timeout(ANSWER_WITHIN, query.fetch_all(&sender.access)).await.unwrap_or_else(|_| Err(late()))?;
    let Some(first) = rows.first() else {
        return Ok(Stand::Neither);
    };
    if first.try_get::<i64, _>("cycle")? == baton.cycle {
        return Ok(Stand::Same);
    }
    let held = rows.iter().map(|row| read_claimed(row, None)).collect::<Result<_, _>>()?;
    Ok(Stand::Next(held))
}

async fn closings(sender: &Sender, runs: &[Uuid]) -> Result<Vec<(Uuid, i64)>, sqlx::Error> {
    let query = sqlx::query_as(include_str!("../sql/cycle/closings.sql")).bind(SHARD).bind(runs);
    tokio::time::timeout(ANSWER_WITHIN, query.fetch_all(&sender.access)).await.unwrap_or_else(|_| Err(late()))
}

/// Collects one field of many rows into the array that the function takes: null where there is none.
fn column<'a, T, R>(rows: &'a [T], field: impl Fn(&'a T) -> R) -> Option<Vec<R>> {
    (!rows.is_empty()).then(|| rows.iter().map(field).collect())
}

/// Send the batch once. `Ok(None)`: no row came back, which alone means nothing yet (see [`pass`]).
async fn send(
    db: impl PgExecutor<'_>,
    baton: &Baton,
    lease: PgInterval,
    worker: Uuid,
    batch: &Batch,
) -> Result<Option<Passed>, sqlx::Error> {
    let (b, joins, ends, ended) = (batch, &batch.joins, &batch.endings, &batch.attempts);
    let (delayed, ready, claim) = (&b.delayed, b.ready.as_slice(), &b.claim.sources);
    #[cfg(feature = "broken")]
    let ready = if crate::broken::second_transaction() { &[] } else { ready };
    let key = |step: &HeldStep| (step.run_id, step.frame, step.node, step.kind, step.attempt);
    let holds: Vec<_> =
        b.held.iter().map(|h| (h.run_id, h.frame, h.node, h.kind, h.attempt)).chain(b.kept.iter().map(key)).collect();
    let rows = sqlx::query(include_str!("../sql/cycle/pass.sql"))
        .bind(SHARD)
        .bind(baton.lane_id)
        .bind(baton.cycle)
        .bind(lease)
        .bind((!baton.registered).then_some(worker))
        .bind(!baton.stands)
        .bind(b.look)
        .bind(column(&b.ended_runs, |run| *run))
        .bind(&b.known_closings)
        .bind(column(joins, |j| j.run_id))
        .bind(column(joins, |j| j.frame))
        .bind(column(joins, |j| j.node))
        .bind(column(joins, |j| j.resolved))
        .bind(column(joins, |j| j.taken))
        .bind(column(joins, |j| j.indegree))
        .bind(column(joins, |j| j.need))
        .bind(column(joins, |j| j.queue_id))
        .bind(column(joins, |j| j.priority))
        .bind(column(joins, |j| j.version_id))
        .bind(column(joins, |j| j.keep))
        .bind(b.keep_joins)
        .bind(column(&b.resolved_joins, |j| j.run_id))
        .bind(column(&b.resolved_joins, |j| j.frame))
        .bind(column(&b.resolved_joins, |j| j.node))
        .bind(column(ends, |e| e.run_id))
        .bind(column(ends, |e| e.state.code()))
        .bind(column(ends, |e| e.output.as_ref().map(Payload::as_str)))
        .bind(column(ends, |e| e.error.as_ref().map(Payload::as_str)))
        .bind(column(ends, |e| e.announce))
        .bind(column(ended, |a| a.run_id))
        .bind(column(ended, |a| a.frame))
        .bind(column(ended, |a| a.node))
        .bind(column(ended, |a| a.attempt))
        .bind(column(ended, |a| a.outcome.code()))
        .bind(column(ended, |a| a.enqueued_at))
        .bind(column(ended, |a| a.claimed_at))
        .bind(column(ended, |a| a.duration.map(|d| d.as_secs_f32() * 1000.0)))
        .bind(column(ended, |a| a.output.as_ref().map(Payload::as_str)))
        .bind(column(ended, |a| a.error.as_ref().map(Payload::as_str)))
        .bind(column(delayed, |(due, _)| match due {
            Due::After(after) => Some(i64::try_from(after.as_micros()).unwrap_or(i64::MAX)),
            Due::At(_) => None,
        }))
        .bind(column(delayed, |(due, _)| match due {
            Due::At(at) => Some(*at),
            Due::After(_) => None,
        }))
        .bind(column(delayed, |(_, s)| s.queue_id))
        .bind(column(delayed, |(_, s)| s.queue_priority()))
        .bind(column(delayed, |(_, s)| s.run_id))
        .bind(column(delayed, |(_, s)| s.version_id))
        .bind(column(delayed, |(_, s)| s.frame))
        .bind(column(delayed, |(_, s)| s.node))
        .bind(column(delayed, |(_, s)| s.kind.code()))
        .bind(column(delayed, |(_, s)| s.attempt))
        .bind(column(delayed, |(_, s)| s.failed))
        .bind(column(delayed, |(_, s)| s.lost))
        .bind(column(ready, |s| s.queue_id))
        .bind(column(ready, HeldStep::queue_priority))
        .bind(column(ready, |s| s.run_id))
        .bind(column(ready, |s| s.version_id))
        .bind(column(ready, |s| s.frame))
        .bind(column(ready, |s| s.node))
        .bind(column(ready, |s| s.kind.code()))
        .bind(column(ready, |s| s.attempt))
        .bind(column(ready, |s| s.failed))
        .bind(column(ready, |s| s.lost))
        .bind(column(&b.private, |(lane, _)| *lane))
        .bind(column(&b.private, |(_, h)| h.run_id))
        .bind(column(&b.private, |(_, h)| h.frame))
        .bind(column(&b.private, |(_, h)| h.node))
        .bind(column(&b.private, |(_, h)| h.kind.code()))
        .bind(column(&b.private, |(_, h)| h.attempt))
        .bind(column(&b.private, |(_, h)| h.claimed_at))
        .bind(column(claim, |c| c.queue_id))
        .bind(column(claim, |c| c.priority))
        .bind(column(claim, |c| c.low))
        .bind(column(claim, |c| c.limit))
        .bind(b.claim.limit)
        .bind(column(&holds, |h| h.0))
        .bind(column(&holds, |h| h.1))
        .bind(column(&holds, |h| h.2))
        .bind(column(&holds, |h| h.3.code()))
        .bind(column(&holds, |h| h.4))
        .bind(column(&b.held, |h| h.claimed_at))
        .fetch_all(db)
        .await?;
    if rows.is_empty() {
        return Ok(None);
    }
    read_passed(&rows).map(Some)
}

fn read_passed(rows: &[PgRow]) -> Result<Passed, sqlx::Error> {
    let mut passed = Passed::default();
    for row in rows {
        match row.try_get::<&str, _>(0)? {
            "f" => {
                passed.at = row.try_get("at")?;
                passed.joins_enqueued = row.try_get("node")?;
                passed.claim_took = Duration::from_micros(u64::try_from(row.try_get::<i64, _>("seq")?).unwrap_or(0));
            }
            "c" => {
                let seq = row.try_get::<Option<i64>, _>("seq")?;
                let enqueued_at = match seq {
                    Some(seq) => seq_time(seq),
                    None => row.try_get("at")?,
                };
                passed.new.push((read_claimed(row, enqueued_at)?, seq));
            }
            "m" => passed.already_ended.push(row.try_get("run_id")?),
            "x" => passed.closings.push((row.try_get("run_id")?, row.try_get("seq")?)),
            _ => {}
        }
    }
    Ok(passed)
}

fn read_claimed(row: &PgRow, enqueued_at: Option<DateTime<Utc>>) -> Result<Claimed, sqlx::Error> {
    let code: i16 = row.try_get("kind")?;
    let kind = StepKind::from_code(code)
        .ok_or_else(|| sqlx::Error::Decode(format!("step job of kind {code}: this worker is too old for it").into()))?;
    let priority: i16 = row.try_get("priority")?;
    let state: Option<i16> = row.try_get("state")?;
    Ok(Claimed {
        step: HeldStep {
            run_id: row.try_get("run_id")?,
            // a step job of a run that is gone has no version; its lane drops it before anyone asks
            version_id: row.try_get::<Option<i32>, _>("version_id")?.unwrap_or(0),
            frame: row.try_get("frame")?,
            node: row.try_get("node")?,
            kind,
            attempt: row.try_get("attempt")?,
            failed: row.try_get("failed")?,
            lost: row.try_get("lost")?,
            queue_id: row.try_get::<Option<i32>, _>("queue_id")?.unwrap_or(0),
            priority: priority % SOLO,
            solo: priority >= SOLO,
            enqueued_at,
            claimed_at: row.try_get("at")?,
        },
        run_state: state.and_then(|code| RunState::from_code(code).ok()),
        input: row.try_get::<Option<&str>, _>("input")?.map(|text| Payload::trusted(text.into())),
        key: row.try_get("key")?,
    })
}
