//! Reading what steps gave and what runs were given, for lanes that do not have it in memory: one statement per batch.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, Row};
use uuid::Uuid;

use crate::error::StepError;
use crate::frame::Child;
use crate::graph::{FrameFacts, NodeResult};
use crate::payload::Payload;
use crate::queue::SHARD;
pub use crate::queue::StepRef;
use crate::retry::Failures;
use crate::state::{Outcome, RunState};

type Columns = (Vec<Uuid>, Vec<i32>, Vec<i32>);

/// The columns of keys, as statements take them.
pub(crate) fn columns(steps: impl IntoIterator<Item = StepRef>) -> Columns {
    let mut columns = Columns::default();
    for step in steps {
        columns.0.push(step.run_id);
        columns.1.push(step.frame);
        columns.2.push(step.node);
    }
    columns
}

/// The results of these steps; a step that was skipped or has not ended is missing. Sends nothing when asked for nothing.
pub async fn of_steps(db: impl PgExecutor<'_>, steps: &[StepRef]) -> Result<Vec<(StepRef, NodeResult)>, sqlx::Error> {
    if steps.is_empty() {
        return Ok(Vec::new());
    }
    let (runs, frames, nodes) = columns(steps.iter().copied());
    let rows: Vec<(Uuid, i32, i32, i16, String)> = sqlx::query_as(include_str!("../sql/results/of_steps.sql"))
        .bind(SHARD)
        .bind(runs)
        .bind(frames)
        .bind(nodes)
        .fetch_all(db)
        .await?;
    let result = |(run_id, frame, node, outcome, value): (Uuid, i32, i32, i16, String)| {
        let value = Payload::trusted(Arc::from(value));
        let result =
            if outcome == Outcome::Completed.code() { NodeResult::Completed(value) } else { NodeResult::Failed(value) };
        (StepRef { run_id, frame, node }, result)
    };
    Ok(rows.into_iter().map(result).collect())
}

/// The inputs of these runs; a run that is gone is missing. Sends nothing when asked for nothing.
pub async fn run_inputs(db: impl PgExecutor<'_>, runs: &[Uuid]) -> Result<HashMap<Uuid, Payload>, sqlx::Error> {
    if runs.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<(Uuid, Option<String>)> =
        sqlx::query_as(include_str!("../sql/results/run_inputs.sql")).bind(SHARD).bind(runs).fetch_all(db).await?;
    Ok(rows.into_iter().filter_map(|(run, input)| Some((run, Payload::trusted(Arc::from(input?))))).collect())
}

/// How long ago the first attempt of these steps was claimed that their policies count, by Postgres' clock; with each step how many have failed since these
/// began. Sends nothing when asked for nothing.
pub async fn since_first_attempt(
    db: impl PgExecutor<'_>,
    steps: &[(StepRef, i32)],
) -> Result<HashMap<StepRef, Duration>, sqlx::Error> {
    if steps.is_empty() {
        return Ok(HashMap::new());
    }
    let (runs, frames, nodes) = columns(steps.iter().map(|(step, _)| *step));
    let most: Vec<i32> = steps.iter().map(|(_, most)| *most).collect();
    let rows: Vec<(Uuid, i32, i32, Option<i64>)> =
        sqlx::query_as(include_str!("../sql/results/since_first_attempt.sql"))
            .bind(SHARD)
            .bind(runs)
            .bind(frames)
            .bind(nodes)
            .bind(most)
            .fetch_all(db)
            .await?;
    let since = |(run_id, frame, node, us): (Uuid, i32, i32, Option<i64>)| {
        let since = Duration::from_micros(u64::try_from(us?).ok()?);
        Some((StepRef { run_id, frame, node }, since))
    };
    Ok(rows.into_iter().filter_map(since).collect())
}

/// What the last failures of these steps were, so many of each as is said. Sends nothing when asked for nothing.
pub async fn failures(
    db: impl PgExecutor<'_>,
    steps: &[(StepRef, i32)],
) -> Result<HashMap<StepRef, Vec<Failures>>, sqlx::Error> {
    if steps.is_empty() {
        return Ok(HashMap::new());
    }
    let (runs, frames, nodes) = columns(steps.iter().map(|(step, _)| *step));
    let most: Vec<i32> = steps.iter().map(|(_, most)| *most).collect();
    let rows: Vec<(Uuid, i32, i32, String, String, i64)> = sqlx::query_as(include_str!("../sql/results/failures.sql"))
        .bind(SHARD)
        .bind(runs)
        .bind(frames)
        .bind(nodes)
        .bind(most)
        .fetch_all(db)
        .await?;
    let mut found: HashMap<StepRef, Vec<Failures>> = HashMap::new();
    for (run_id, frame, node, name, kind, count) in rows {
        let failures = Failures { name, kind, count: u32::try_from(count).unwrap_or(u32::MAX) };
        found.entry(StepRef { run_id, frame, node }).or_default().push(failures);
    }
    Ok(found)
}

/// Frames of one run.
pub type FrameRef = (Uuid, i32);

/// These frames with those around them, the outermost first; one that is gone is missing. Sends nothing when asked for nothing.
pub async fn frames(
    db: impl PgExecutor<'_>,
    frames: &[FrameRef],
) -> Result<HashMap<FrameRef, Arc<[FrameFacts]>>, sqlx::Error> {
    if frames.is_empty() {
        return Ok(HashMap::new());
    }
    let (runs, numbers): (Vec<Uuid>, Vec<i32>) = frames.iter().copied().unzip();
    let rows = sqlx::query(include_str!("../sql/results/frames.sql")).bind(SHARD).bind(runs).bind(numbers);
    let mut known: HashMap<FrameRef, FrameFacts> = HashMap::new();
    let mut asked: Vec<(FrameRef, Vec<i32>)> = Vec::with_capacity(frames.len());
    for row in rows.fetch_all(db).await? {
        let frame = (row.try_get("run_id")?, row.try_get("frame")?);
        asked.extend(row.try_get::<Option<Vec<i32>>, _>("path")?.map(|path| (frame, path)));
        known.insert(frame, facts(&row)?);
    }
    let chain = |((run, frame), path): (FrameRef, Vec<i32>)| {
        let around = path.iter().chain([&frame]).filter_map(|number| known.get(&(run, *number)));
        let alive = around.scan(true, |live, facts| {
            *live = (facts.finally || *live) && facts.live;
            Some(FrameFacts { live: *live, ..facts.clone() })
        });
        ((run, frame), alive.collect())
    };
    Ok(asked.into_iter().map(chain).collect())
}

/// A frame as it stands in the tables; `live` says nothing of those around it.
fn facts(row: &PgRow) -> Result<FrameFacts, sqlx::Error> {
    let bounds: Option<&str> = row.try_get("bounds")?;
    let input: Option<&str> = row.try_get("input")?;
    Ok(FrameFacts {
        frame: row.try_get("frame")?,
        parent: row.try_get("parent")?,
        block: row.try_get("node")?,
        attempt: row.try_get("attempt")?,
        iteration: row.try_get("iteration")?,
        whole: row.try_get("whole")?,
        failed: row.try_get("failed")?,
        bounds: bounds.map(serde_json::from_str).transpose().map_err(|error| sqlx::Error::Decode(error.into()))?,
        input: input.map_or_else(Payload::null, |text| Payload::trusted(text.into())),
        before: row.try_get::<Option<Vec<i32>>, _>("before")?.unwrap_or_default(),
        live: row.try_get("live")?,
        finally: row.try_get("finally")?,
        created_at: row.try_get("created_at")?,
    })
}

/// An instance of a block, or of a body, as it stands in the tables.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// What became of it.
    pub child: Child,
    /// Which attempt of the block.
    pub attempt: i32,
    /// Attempts of the block that failed before.
    pub failed: i16,
    /// When it began.
    pub created_at: DateTime<Utc>,
}

/// These frames, each followed by those that led to it where that is asked for. Sends nothing when asked for nothing.
pub async fn instances(
    db: impl PgExecutor<'_>,
    wanted: &[(FrameRef, bool)],
) -> Result<Vec<Vec<Instance>>, sqlx::Error> {
    let mut found = vec![Vec::new(); wanted.len()];
    if wanted.is_empty() {
        return Ok(found);
    }
    let rows = sqlx::query(include_str!("../sql/results/instances.sql"))
        .bind(SHARD)
        .bind(wanted.iter().map(|((run, _), _)| *run).collect::<Vec<_>>())
        .bind(wanted.iter().map(|((_, frame), _)| *frame).collect::<Vec<_>>())
        .bind(wanted.iter().map(|(_, before)| *before).collect::<Vec<_>>());
    for row in rows.fetch_all(db).await? {
        let input: Option<&str> = row.try_get("input")?;
        let instance = Instance {
            child: Child {
                input: input.map(|text| Payload::trusted(text.into())),
                before: row.try_get::<Option<Vec<i32>>, _>("before")?.unwrap_or_default(),
                ..child(&row)?
            },
            attempt: row.try_get("attempt")?,
            failed: row.try_get("failed")?,
            created_at: row.try_get("created_at")?,
        };
        put(&mut found, row.try_get("of_instance")?, instance);
    }
    Ok(found)
}

/// The iterations of blocks that run their bodies at once, in order, as far as they have begun. Sends nothing when asked for nothing.
pub async fn iterations(db: impl PgExecutor<'_>, wholes: &[FrameRef]) -> Result<Vec<Vec<Child>>, sqlx::Error> {
    let mut found = vec![Vec::new(); wholes.len()];
    if wholes.is_empty() {
        return Ok(found);
    }
    let (runs, frames): (Vec<Uuid>, Vec<i32>) = wholes.iter().copied().unzip();
    let rows = sqlx::query(include_str!("../sql/results/iterations.sql")).bind(SHARD).bind(runs).bind(frames);
    for row in rows.fetch_all(db).await? {
        put(&mut found, row.try_get("of_block")?, child(&row)?);
    }
    // a run that went on after it had ended may have begun them in another order
    for iterations in &mut found {
        iterations.sort_by_key(|child| child.iteration);
    }
    Ok(found)
}

/// Adds what belongs to the n-th of what was asked for, counted from 1.
pub(crate) fn put<T>(found: &mut [Vec<T>], nth: i64, one: T) {
    if let Some(list) = usize::try_from(nth - 1).ok().and_then(|place| found.get_mut(place)) {
        list.push(one);
    }
}

fn child(row: &PgRow) -> Result<Child, sqlx::Error> {
    let payload = |name: &str| {
        let text: Option<&str> = row.try_get(name)?;
        Ok::<_, sqlx::Error>(text.map(|text| Payload::trusted(text.into())))
    };
    let (output, error) = (payload("output")?, payload("error")?);
    Ok(Child {
        frame: row.try_get("frame")?,
        iteration: row.try_get("iteration")?,
        result: match RunState::from_code(row.try_get("state")?).ok() {
            Some(RunState::Completed) => Some(Ok(output.unwrap_or_else(Payload::null))),
            Some(RunState::Failed) => error.as_ref().map(|error| Err(StepError::from_payload(error))),
            _ => None,
        },
        input: None,
        before: Vec::new(),
        finished_at: row.try_get("finished_at")?,
    })
}

/// The items of these chunks of blocks' frames, of a `foreach`. Sends nothing when asked for nothing.
pub async fn chunks(
    db: impl PgExecutor<'_>,
    chunks: &[(Uuid, i32, i32)],
) -> Result<HashMap<(Uuid, i32, i32), Payload>, sqlx::Error> {
    if chunks.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<(Uuid, i32, i32, Option<String>)> = sqlx::query_as(include_str!("../sql/results/chunks.sql"))
        .bind(SHARD)
        .bind(chunks.iter().map(|chunk| chunk.0).collect::<Vec<_>>())
        .bind(chunks.iter().map(|chunk| chunk.1).collect::<Vec<_>>())
        .bind(chunks.iter().map(|chunk| chunk.2).collect::<Vec<_>>())
        .fetch_all(db)
        .await?;
    let found = rows
        .into_iter()
        .filter_map(|(run, frame, chunk, items)| Some(((run, frame, chunk), Payload::trusted(items?.into()))));
    Ok(found.collect())
}

/// As many numbers for new frames as one call of [`draw_frames`] gives.
pub const FRAMES_DRAWN: i32 = 1024;

/// The first of [`FRAMES_DRAWN`] numbers for new frames, which are the caller's.
pub async fn draw_frames(db: impl PgExecutor<'_>) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar(include_str!("../sql/results/draw_frames.sql")).fetch_one(db).await
}
