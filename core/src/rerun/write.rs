//! What a [`Course`] is in the tables. All of it belongs to the caller's transaction.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::course::{Call, Course};
use super::past::Past;
use super::{Error, RunRow};
use crate::graph::{NodeNumber, TIME_UP};
use crate::payload::Payload;
use crate::queue::SHARD;
use crate::session::Session;
use crate::workflow::LoadedVersion;

/// The frames and records that a new run takes over from another, and its context. `old`: the number in the other's version of a node of this one.
pub(super) async fn take_over(
    session: &mut Session<'_>,
    (new, of): (Uuid, Uuid),
    course: &Course,
    past: &Past,
    old: impl Fn(NodeNumber) -> Option<NodeNumber>,
) -> Result<(), Error> {
    let kept = past.with_all_within(&course.kept.iter().copied().collect());
    let turned: Vec<i32> = course.turns.iter().map(|turn| turn.frame).collect();
    let frames: BTreeSet<i32> = kept.iter().chain(&turned).copied().collect();
    let frames: Vec<i32> = frames.into_iter().collect();
    let own = course
        .ended
        .iter()
        .filter_map(|(frame, node)| Some((*frame, if *node < 0 { *node } else { old(*node)? }, *node)));
    let (mut places, mut from, mut to) = (Vec::new(), Vec::new(), Vec::new());
    for (frame, old, node) in own {
        places.push(frame);
        from.push(old);
        to.push(node);
    }
    let mut copied = vec![
        sqlx::query(include_str!("../../sql/rerun/copy_records.sql"))
            .bind(SHARD)
            .bind(new)
            .bind(of)
            .bind(places)
            .bind(from)
            .bind(to),
    ];
    if !frames.is_empty() {
        let all = sqlx::query(include_str!("../../sql/rerun/copy_frames.sql")).bind(SHARD).bind(new).bind(of);
        copied.push(all.bind(frames).bind(turned));
        let records = sqlx::query(include_str!("../../sql/rerun/copy_frame_records.sql"));
        copied.push(records.bind(SHARD).bind(new).bind(of).bind(kept));
    }
    for statement in copied {
        statement.execute(&mut *session).await?;
    }
    Ok(())
}

/// The step jobs, counts, skips and frames of where a run goes on.
pub(super) async fn go_on(
    session: &mut Session<'_>,
    run_id: Uuid,
    run: &RunRow,
    version: &LoadedVersion,
    course: &Course,
) -> Result<(), Error> {
    let Course { jobs, joins, skips, turns, recount, chunks, timeouts, .. } = course;
    let mut statements = Vec::new();
    if !turns.is_empty() {
        let turned = sqlx::query(include_str!("../../sql/rerun/turn_frames.sql"))
            .bind(SHARD)
            .bind(run_id)
            .bind(turns.iter().map(|turn| turn.frame).collect::<Vec<_>>())
            .bind(turns.iter().map(|turn| turn.attempt).collect::<Vec<_>>())
            .bind(turns.iter().map(|turn| turn.completed).collect::<Vec<_>>())
            .bind(turns.iter().map(|turn| turn.output.as_ref().map(text)).collect::<Vec<_>>());
        statements.push(turned);
    }
    if !recount.is_empty() {
        let again = sqlx::query(include_str!("../../sql/rerun/recount.sql")).bind(SHARD).bind(run_id);
        statements.push(again.bind(recount));
        let made = sqlx::query(include_str!("../../sql/rerun/insert_chunks.sql"))
            .bind(SHARD)
            .bind(run_id)
            .bind(chunks.iter().map(|chunk| chunk.frame).collect::<Vec<_>>())
            .bind(chunks.iter().map(|chunk| chunk.chunk).collect::<Vec<_>>())
            .bind(chunks.iter().map(|chunk| chunk.first).collect::<Vec<_>>())
            .bind(chunks.iter().map(|chunk| chunk.count).collect::<Vec<_>>())
            .bind(chunks.iter().map(|chunk| chunk.items.as_ref().map(text)).collect::<Vec<_>>());
        statements.push(made);
    }
    let counted = sqlx::query(include_str!("../../sql/rerun/insert_joins.sql"))
        .bind(SHARD)
        .bind(run_id)
        .bind(joins.iter().map(|(frame, _)| *frame).collect::<Vec<_>>())
        .bind(joins.iter().map(|(_, join)| join.node).collect::<Vec<_>>())
        .bind(joins.iter().map(|(_, join)| join.resolved).collect::<Vec<_>>())
        .bind(joins.iter().map(|(_, join)| join.taken).collect::<Vec<_>>());
    let skipped = sqlx::query(include_str!("../../sql/rerun/insert_skips.sql"))
        .bind(SHARD)
        .bind(run_id)
        .bind(skips.iter().map(|(frame, _)| *frame).collect::<Vec<_>>())
        .bind(skips.iter().map(|(_, skip)| skip.node).collect::<Vec<_>>())
        .bind(skips.iter().map(|(_, skip)| skip.reason.as_str()).collect::<Vec<_>>());
    let ready = sqlx::query(include_str!("../../sql/rerun/insert_ready.sql"))
        .bind(SHARD)
        .bind(run_id)
        .bind(version.version_id)
        .bind(run.priority)
        .bind(jobs.iter().map(|job| job.frame).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| job.node).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| job.kind.code()).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| job.attempt).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| version.queue_id(job.node)).collect::<Vec<_>>());
    statements.extend([counted, skipped, ready]);
    if !timeouts.is_empty() {
        let micros = |(_, timeout): &(i32, std::time::Duration)| i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX);
        let timed = sqlx::query(include_str!("../../sql/rerun/insert_timeouts.sql"))
            .bind(SHARD)
            .bind(run_id)
            .bind(version.version_id)
            .bind(run.priority)
            .bind(version.first_queue_id)
            .bind(timeouts.iter().map(|(frame, _)| *frame).collect::<Vec<_>>())
            .bind(timeouts.iter().map(micros).collect::<Vec<_>>());
        statements.push(timed);
    }
    for statement in statements {
        statement.execute(&mut *session).await?;
    }
    Ok(())
}

/// A step waits again for the run that it had started, which is live again.
pub(super) async fn wait_again(
    session: &mut Session<'_>,
    run_id: Uuid,
    run: &RunRow,
    version: &LoadedVersion,
    call: &Call,
) -> Result<(), Error> {
    let subflow = version.graph.node(call.node).and_then(|node| node.subflow());
    let timeout = subflow.and_then(|subflow| subflow.timeout);
    sqlx::query(include_str!("../../sql/rerun/wait_again.sql"))
        .bind(SHARD)
        .bind(run_id)
        .bind(version.version_id)
        .bind(run.priority)
        .bind(call.frame)
        .bind(call.node)
        .bind(call.attempt)
        .bind(version.queue_id(call.node))
        .bind(call.run_id)
        .bind(timeout.map(|timeout| i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX)))
        .bind(version.queue_id(TIME_UP))
        .execute(&mut *session)
        .await?;
    Ok(())
}

/// The queues that got work, each once.
pub(super) fn queues(version: &LoadedVersion, course: &Course) -> Vec<String> {
    let own = |node: NodeNumber| version.graph.node(node).map_or(&*version.first_queue, |node| &*node.queue);
    let queues: BTreeSet<&str> = course.jobs.iter().map(|job| own(job.node)).collect();
    queues.into_iter().map(str::to_owned).collect()
}

fn text(payload: &Payload) -> &str {
    payload.as_str()
}
