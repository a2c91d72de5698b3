//! The call of the cycle: a batch as the arrays that the function takes, its answer as what it brought about.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::postgres::PgRow;
use sqlx::postgres::types::PgInterval;
use sqlx::{PgExecutor, Row};
use uuid::Uuid;

use super::{
    Batch, Baton, Closing, ContextWrite, Due, FrameEnding, JoinArrival, NewChild, NewChunk, NewFrame, NewWait, Passed,
    Wake,
};
use crate::frame::Chunk;
use crate::graph::Bounds;
use crate::payload::Payload;
use crate::queue::{Claimed, HeldStep, SHARD, SOLO, StepKind, StepRef, seq_time};
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

/// What concerns frames, waits, contexts, pauses and child runs; null where nothing does.
fn frames(batch: &Batch) -> Option<serde_json::Value> {
    let Batch {
        frames,
        frame_endings,
        chunks,
        opened,
        forgotten_passes,
        waiting,
        wakes,
        waited,
        contexts,
        pauses,
        parked,
        children,
        asks,
        ..
    } = batch;
    let no_frames = frames.is_empty() && frame_endings.is_empty() && chunks.is_empty() && opened.is_empty();
    if no_frames
        && forgotten_passes.is_empty()
        && waiting.is_empty()
        && wakes.is_empty()
        && waited.is_empty()
        && contexts.is_empty()
        && pauses.is_empty()
        && parked.is_empty()
        && children.is_empty()
        && asks.is_empty()
    {
        return None;
    }
    let new = |new: &NewFrame| {
        let facts = &new.facts;
        let input = if facts.iteration >= 0 { Some(&facts.input) } else { new.kept_input.as_ref() };
        let mut row = json!({
            "run": new.run_id, "frame": facts.frame, "parent": facts.parent, "node": facts.block, "attempt": facts.attempt,
            "iteration": facts.iteration, "body": new.body, "path": new.path, "before": (!facts.before.is_empty()).then_some(&facts.before), "failed": facts.failed, "whole": facts.whole, "bounds": facts.bounds,
            "input": input.map(Payload::as_str),
        });
        if let Some(shield) = new.shield {
            row["shield"] = shield.into();
        }
        if new.cleans_up {
            row["cleanup"] = 1.into();
        }
        row
    };
    let end = |end: &FrameEnding| {
        let (state, output, error) = match &end.result {
            Ok(output) => (RunState::Completed, Some(output.as_str()), None),
            Err(error) => (RunState::Failed, None, Some(error.as_str())),
        };
        json!({
            "run": end.run_id, "frame": end.frame, "state": state.code(), "output": output, "error": error, "announce": end.announce,
            "then_frame": end.then.map(|then| then.frame), "then_node": end.then.map(|then| then.node),
            "then_attempt": end.then.map(|then| then.attempt), "queue": end.then.map(|then| then.queue_id),
            "priority": end.then.map(|then| then.priority), "version": end.then.map(|then| then.version_id),
            "keep": end.then.is_some_and(|then| then.keep),
        })
    };
    let chunk = |new: &NewChunk| {
        let Chunk { chunk, count, items } = &new.chunk;
        let items = items.as_ref().map(Payload::as_str);
        json!({"run": new.run_id, "frame": new.frame, "chunk": chunk, "first": new.first, "count": count, "items": items})
    };
    let opens = |(run, frame, chunk, first): &(Uuid, i32, i32, i32)| json!({"run": run, "frame": frame, "chunk": chunk, "first": first});
    let forget = |(run, frame, deep): &(Uuid, i32, bool)| json!({"run": run, "frame": frame, "deep": deep});
    let wait = |wait: &NewWait| {
        json!({
            "run": wait.key.run_id, "frame": wait.key.frame, "node": wait.key.node, "attempt": wait.attempt, "version": wait.version_id,
            "queue": wait.queue_id, "priority": wait.priority, "failed": wait.failed, "names": wait.names, "picky": wait.picky,
            "after_us": wait.timeout.map(|after| i64::try_from(after.as_micros()).unwrap_or(i64::MAX)), "timer": wait.timer_queue_id,
            "child": wait.child,
        })
    };
    let wake = |wake: &Wake| {
        json!({
            "run": wake.key.run_id, "frame": wake.key.frame, "node": wake.key.node, "signal": wake.signal, "refused": wake.refused,
            "keep": wake.keep,
        })
    };
    let ended = |key: &StepRef| json!({"run": key.run_id, "frame": key.frame, "node": key.node});
    let context = |write: &ContextWrite| match &write.by {
        Some((frame, node, attempt, changes)) => json!({
            "run": write.run_id, "version": write.version_id, "frame": frame, "node": node, "attempt": attempt, "changes": changes,
        }),
        None => json!({"run": write.run_id}),
    };
    let pause = |(run, why): &(Uuid, Payload)| json!({"run": run, "why": why.as_str()});
    let park = |step: &HeldStep| {
        json!({
            "run": step.run_id, "version": step.version_id, "frame": step.frame, "node": step.node, "kind": step.kind.code(), "attempt": step.attempt,
            "failed": step.failed, "lost": step.lost, "queue": step.queue_id, "priority": step.queue_priority(),
        })
    };
    let child = |new: &NewChild| {
        json!({
            "run": new.run_id, "workflow": new.workflow_id, "version": new.version_id, "depth": new.depth, "policy": new.close_policy.code(),
            "awaited": new.awaited, "input": new.input.as_str(), "priority": new.priority, "parent": new.parent.run_id, "frame": new.parent.frame,
            "node": new.parent.node, "attempt": new.parent_attempt,
        })
    };
    let ask = |(child, parent): &(Uuid, Uuid)| json!({"run": child, "parent": parent});
    let mut all = json!({
        "wait": waiting.iter().map(wait).collect::<Vec<_>>(),
        "wake": wakes.iter().map(wake).collect::<Vec<_>>(),
        "waited": waited.iter().map(ended).collect::<Vec<_>>(),
        "new": frames.iter().map(new).collect::<Vec<_>>(),
        "end": frame_endings.iter().map(end).collect::<Vec<_>>(),
        "chunks": chunks.iter().map(chunk).collect::<Vec<_>>(),
        "opened": opened.iter().map(opens).collect::<Vec<_>>(),
        "forget": forgotten_passes.iter().map(forget).collect::<Vec<_>>(),
    });
    // what is rare and not there is not looked for
    if let Some(all) = all.as_object_mut() {
        let mut rare = |name: &str, rows: Vec<serde_json::Value>| {
            if !rows.is_empty() {
                all.insert(name.to_owned(), rows.into());
            }
        };
        rare("context", contexts.iter().map(context).collect());
        rare("pause", pauses.iter().map(pause).collect());
        rare("park", parked.iter().map(park).collect());
        rare("children", children.iter().map(child).collect());
        rare("asks", asks.iter().map(ask).collect());
    }
    Some(all)
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
        .bind(frames(batch))
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
