//! Reading what steps gave and what runs were given, for lanes that do not have it in memory: one statement per batch.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgExecutor;
use uuid::Uuid;

use crate::graph::{NodeNumber, NodeResult};
use crate::payload::Payload;
use crate::queue::SHARD;
use crate::state::Outcome;

/// One step of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StepRef {
    /// The run.
    pub run_id: Uuid,
    /// The frame.
    pub frame: i32,
    /// The node.
    pub node: NodeNumber,
}

type Columns = (Vec<Uuid>, Vec<i32>, Vec<i32>);

fn columns(steps: &[StepRef]) -> Columns {
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
    let (runs, frames, nodes) = columns(steps);
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

/// How long ago the first attempt of these steps was claimed, by Postgres' clock. Sends nothing when asked for nothing.
pub async fn since_first_attempt(
    db: impl PgExecutor<'_>,
    steps: &[StepRef],
) -> Result<HashMap<StepRef, Duration>, sqlx::Error> {
    if steps.is_empty() {
        return Ok(HashMap::new());
    }
    let (runs, frames, nodes) = columns(steps);
    let rows: Vec<(Uuid, i32, i32, Option<i64>)> =
        sqlx::query_as(include_str!("../sql/results/since_first_attempt.sql"))
            .bind(SHARD)
            .bind(runs)
            .bind(frames)
            .bind(nodes)
            .fetch_all(db)
            .await?;
    let since = |(run_id, frame, node, us): (Uuid, i32, i32, Option<i64>)| {
        let since = Duration::from_micros(u64::try_from(us?).ok()?);
        Some((StepRef { run_id, frame, node }, since))
    };
    Ok(rows.into_iter().filter_map(since).collect())
}
