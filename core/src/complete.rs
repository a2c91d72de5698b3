//! Ending a step inside a transaction of the handler's own. It consumes the step's private baton and touches nothing that a lane could wait for;
//! what follows from the step is spread by whichever lane claims the job it leaves.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::graph::NodeNumber;
use crate::payload::Payload;
use crate::queue::SHARD;

/// A step on a private baton, as the transaction that ends it needs it.
#[derive(Clone, Debug)]
pub struct PrivateStep {
    /// The private lane.
    pub lane_id: i64,
    /// Its standing cycle.
    pub cycle: i64,
    /// The queue of the job that spreads the consequences.
    pub queue_id: i32,
    /// The run's priority.
    pub priority: i16,
    /// The run.
    pub run_id: Uuid,
    /// Its version.
    pub version_id: i32,
    /// The frame.
    pub frame: i32,
    /// The node.
    pub node: NodeNumber,
    /// The number of the try.
    pub attempt: i32,
    /// When the step became ready.
    pub enqueued_at: Option<DateTime<Utc>>,
    /// When its lane got it.
    pub claimed_at: Option<DateTime<Utc>>,
}

/// Record the step as completed with this output. False, and nothing done, when its lease was lost. Takes effect when the transaction commits.
pub async fn complete_in(
    transaction: impl PgExecutor<'_>,
    step: &PrivateStep,
    duration: Duration,
    output: &Payload,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(include_str!("../sql/cycle/complete_in_call.sql"))
        .bind(SHARD)
        .bind(step.lane_id)
        .bind(step.cycle)
        .bind(step.queue_id)
        .bind(step.priority)
        .bind(step.run_id)
        .bind(step.version_id)
        .bind(step.frame)
        .bind(step.node)
        .bind(step.attempt)
        .bind(step.enqueued_at)
        .bind(step.claimed_at)
        .bind(duration.as_secs_f32() * 1000.0)
        .bind(output.as_str())
        .fetch_one(transaction)
        .await
}
