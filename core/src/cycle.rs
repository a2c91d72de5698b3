//! One pass of a lane's baton, and certainty about it: the batch a lane sends, the call, and what to do when the answer got lost.
//! The baton is passed by value: the next one comes back, or the lane lost it. Whatever is in a [`Batch`] happens in one transaction or not at all.
//! Which attempts end and what follows from them is decided elsewhere (`attempt`, `successor`).

mod batch;
mod frames;
mod send;

use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::postgres::types::PgInterval;
use uuid::Uuid;

pub use self::batch::{
    Batch, ContextWrite, Due, EndedAttempt, Following, FrameEnding, HeldRow, JoinArrival, NewChild, NewChunk, NewFrame,
    NewWait, RunEnding, Wake,
};
use self::send::{read_claimed, send};
use crate::database;
use crate::pacing::Pacing;
use crate::queue::{Claimed, SHARD};
use crate::session::{Access, Session};

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
    pub closings: Vec<Closing>,
    /// Paused runs of successors that the lane keeps.
    pub paused: Vec<Uuid>,
}

/// A run, or a frame of one, that ended while steps of it may be out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Closing {
    /// The run.
    pub run_id: Uuid,
    /// The closing's own number.
    pub close_id: i64,
    /// The frame; 0 is the whole run.
    pub frame: i32,
}

impl Closing {
    /// Whether a step with these frames around it is concerned.
    #[must_use]
    pub fn concerns(&self, frames: &[crate::graph::FrameFacts]) -> bool {
        crate::graph::concerning(frames).any(|frame| frame == self.frame)
    }
}

/// How a cycle came out.
#[derive(Debug)]
pub enum Pass {
    /// It was committed; the next baton is the lane's.
    Passed(Baton, Passed),
    /// It was committed, but its answer got lost: what the next baton lists.
    Recovered(Baton, Vec<Claimed>),
    /// Nothing happened, since runs were closed: drop the consequences of their steps, note the closings as known, and send again.
    Refused(Baton, Vec<Closing>),
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
                    Ok(closings)
                        if closings.iter().any(|closing| !batch.known_closings.contains(&closing.close_id)) =>
                    {
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

async fn closings(sender: &Sender, runs: &[Uuid]) -> Result<Vec<Closing>, sqlx::Error> {
    let query = sqlx::query_as(include_str!("../sql/cycle/closings.sql")).bind(SHARD).bind(runs);
    tokio::time::timeout(ANSWER_WITHIN, query.fetch_all(&sender.access)).await.unwrap_or_else(|_| Err(late()))
}
