//! The call of the cycle: a batch as the arrays that the function takes, its answer as what it brought about.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::postgres::types::PgInterval;
use sqlx::types::Json;
use sqlx::{PgExecutor, Row};
use uuid::Uuid;

use super::frames::Frames;
use super::{Batch, Baton, Closing, Due, JoinArrival, Passed};
use crate::graph::Bounds;
use crate::payload::Payload;
use crate::queue::{Claimed, HeldStep, SHARD, SOLO, StepKind, seq_time};
use crate::state::RunState;

/// Collects one field of many rows into the array that the function takes: null where there is none.
fn column<'a, T, R>(rows: &'a [T], field: impl Fn(&'a T) -> R) -> Option<Vec<R>> {
    (!rows.is_empty()).then(|| rows.iter().map(field).collect())
}

/// How the iterations of blocks go on whose ends are counted here; null where there is none.
fn windows(joins: &[JoinArrival], field: impl Fn(&Bounds) -> i32) -> Option<Vec<i32>> {
    let any = joins.iter().any(|join| join.bounds.is_some());
    any.then(|| joins.iter().map(|join| join.bounds.as_ref().map_or(0, &field)).collect())
}

/// Send the batch once. `Ok(None)`: no row came back, which alone means nothing yet (see [`pass`](super::pass)).
pub(super) async fn send(
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
    let rows = sqlx::query(include_str!("../../sql/cycle/pass.sql"))
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
        .bind(windows(joins, |bounds| bounds.chunk))
        .bind(windows(joins, |bounds| bounds.ahead))
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
        .bind(Frames::of(batch).map(Json))
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
            "x" => passed.closings.push(Closing {
                run_id: row.try_get("run_id")?,
                close_id: row.try_get("seq")?,
                frame: row.try_get::<Option<i32>, _>("frame")?.unwrap_or(0),
            }),
            "p" => passed.paused.push(row.try_get("run_id")?),
            _ => {}
        }
    }
    Ok(passed)
}

pub(super) fn read_claimed(row: &PgRow, enqueued_at: Option<DateTime<Utc>>) -> Result<Claimed, sqlx::Error> {
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
        parent: row.try_get("parent")?,
        mocks: row.try_get::<Option<&str>, _>("mocks")?.map(|text| Payload::trusted(text.into())),
    })
}
