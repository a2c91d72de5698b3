//! What any worker does for the whole fleet: promote timers, take back the steps of dead lanes, settle closed runs. No worker is special, and
//! nothing is wrong if two do it at once or none does for a while: it is only late then.

use std::time::Duration;

use sqlx::PgExecutor;
use uuid::Uuid;

use crate::queue::SHARD;
use crate::session::Session;

/// What a tick found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tick {
    /// The worker's row stands; else it must register again.
    pub known: bool,
    /// Workers with a heartbeat in the last 30 s.
    pub live: u32,
    /// Timers that became ready now.
    pub promoted: u32,
    /// When the next one is due; `None`: there is none.
    pub next_due: Option<Duration>,
    /// The queues they went to.
    pub promoted_queues: Vec<i32>,
    /// Queues of this worker with step jobs to claim.
    pub ready: Vec<i32>,
    /// Queues of this worker with step jobs that must be alone in their lane.
    pub solo: Vec<i32>,
    /// A lease is over: call [`reap`].
    pub expired: bool,
    /// When the next lease ends, unless its lane renews it before.
    pub next_expiry: Option<Duration>,
    /// Closed runs await settling: see [`Settling`].
    pub closings: bool,
    /// How long Postgres took for it: under a pinned snapshot it walks over dead rows.
    pub took: Duration,
}

type TickRow =
    (bool, i32, i32, Option<i64>, Option<Vec<i32>>, Option<Vec<i32>>, Option<Vec<i32>>, Option<i64>, bool, i64);

/// Heartbeat, timers, and a look at what else there is to do: one statement. `marks` has four low-water marks for each queue, one for each priority;
/// 0 looks from the start. Safe to call again.
pub async fn tick(
    db: impl PgExecutor<'_>,
    worker_id: Uuid,
    queues: &[i32],
    marks: &[i64],
    promote: i32,
) -> Result<Tick, sqlx::Error> {
    let (known, live, promoted, next_due_us, promoted_queues, ready, solo, next_expiry_us, closings, took_us): TickRow =
        sqlx::query_as(include_str!("../sql/upkeep/tick.sql"))
            .bind(SHARD)
            .bind(worker_id)
            .bind(queues)
            .bind(marks)
            .bind(promote)
            .fetch_one(db)
            .await?;
    Ok(Tick {
        known,
        live: u32::try_from(live).unwrap_or(0),
        promoted: u32::try_from(promoted).unwrap_or(0),
        next_due: next_due_us.and_then(|us| u64::try_from(us).ok()).map(Duration::from_micros),
        promoted_queues: promoted_queues.unwrap_or_default(),
        ready: ready.unwrap_or_default(),
        solo: solo.unwrap_or_default(),
        expired: next_expiry_us.is_some_and(|us| us < 0),
        next_expiry: next_expiry_us.and_then(|us| u64::try_from(us).ok()).map(Duration::from_micros),
        closings,
        took: Duration::from_micros(u64::try_from(took_us).unwrap_or(0)),
    })
}

/// Make the partitions of attempts for three months ahead. Returns how many were made; safe to call again, from many workers at once.
pub async fn make_partitions(db: impl PgExecutor<'_>) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar(include_str!("../sql/migrate/make_partitions.sql")).fetch_one(db).await
}

/// A lane whose lease was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reaped {
    /// The lane.
    pub lane_id: i64,
    /// The worker it belonged to, if known.
    pub worker_id: Option<Uuid>,
    /// How many steps were taken back.
    pub steps: i32,
}

/// Take back the steps of one lane whose lease is over; `None` when there is none. `scan` reads the whole table of lanes instead of those that
/// are registered with a worker: a backstop. Safe to call again, also after an unclear answer.
pub async fn reap(db: impl PgExecutor<'_>, scan: bool) -> Result<Option<Reaped>, sqlx::Error> {
    let row: Option<(i64, Option<Uuid>, i32)> =
        sqlx::query_as(include_str!("../sql/upkeep/reap_one.sql")).bind(SHARD).bind(scan).fetch_optional(db).await?;
    Ok(row.map(|(lane_id, worker_id, steps)| Reaped { lane_id, worker_id, steps }))
}

/// Settling closed runs takes two looks: what is closed and where every lane stands, and later, once each of those lanes has moved on, the
/// removal of what the runs left. Between them this value is kept.
#[derive(Clone, Debug, Default)]
pub struct Settling(Option<Seen>);

#[derive(Clone, Debug, sqlx::FromRow)]
struct Seen {
    run_ids: Vec<Uuid>,
    close_ids: Vec<i64>,
    lane_ids: Vec<i64>,
    cycles: Vec<i64>,
}

impl Settling {
    /// Take the next step. Returns how many closings were removed. Safe to call again.
    pub async fn step(&mut self, session: &mut Session<'_>) -> Result<u32, sqlx::Error> {
        if self.0.is_none() {
            let begin = sqlx::query_as(include_str!("../sql/upkeep/settle_begin_call.sql")).bind(SHARD);
            self.0 = begin.fetch_optional(&mut *session).await?;
        }
        let Some(seen) = &self.0 else {
            return Ok(0);
        };
        let settled: Option<i32> = sqlx::query_scalar(include_str!("../sql/upkeep/settle_call.sql"))
            .bind(SHARD)
            .bind(&seen.run_ids)
            .bind(&seen.close_ids)
            .bind(&seen.lane_ids)
            .bind(&seen.cycles)
            .fetch_one(session)
            .await?;
        if settled.is_some() {
            self.0 = None;
        }
        Ok(settled.and_then(|settled| u32::try_from(settled).ok()).unwrap_or(0))
    }
}
