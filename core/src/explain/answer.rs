//! What an [`Explanation`] says, as data. The field names are the keys of `-o json`.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

#[cfg(doc)]
use super::{MAX_AHEAD, MAX_SHOWN};
use crate::inspect::NodeState;
use crate::state::RunState;

/// What a step job is there to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// Run the node.
    Run,
    /// The node is skipped: record it and tell its successors.
    Skip,
    /// A join that fired early has all its in-edges now: tell the end of the run.
    Whole,
    /// A delay is over: complete the node.
    Wake,
    /// The attempt is recorded: tell its successors.
    Advance,
    /// A kind that this program does not know.
    Unknown,
}

impl Work {
    pub(super) const fn from_kind(kind: i16) -> Self {
        match kind {
            0 => Self::Run,
            1 => Self::Skip,
            2 => Self::Whole,
            3 => Self::Wake,
            4 => Self::Advance,
            _ => Self::Unknown,
        }
    }
}

/// A step job that may be claimed now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ready {
    /// The node's id.
    pub node: String,
    /// Its frame.
    pub frame: i32,
    /// The iterations of blocks around it, such as `each[3] > retry[2]`; none in the run's own graph.
    pub within: Option<String>,
    /// What is to be done.
    pub work: Work,
    /// The number of the coming attempt.
    pub attempt: i32,
    /// The queue it is on.
    pub queue: String,
    /// 0 to 3, 0 first.
    pub priority: i16,
    /// It must be alone in its lane, because it was lost before.
    pub alone: bool,
    /// The handler it needs.
    pub handler: Option<String>,
    /// When it was enqueued.
    pub since: DateTime<Utc>,
    /// How many step jobs of the queue go first, counted up to [`MAX_AHEAD`].
    pub ahead: i64,
    /// How many live workers serve the queue and know the handler.
    pub workers: usize,
}

/// Why a step job is due only later.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Delay {
    /// The run was asked to start then.
    RunAt,
    /// A `delay` node.
    DelayNode,
    /// Backoff after a failed attempt.
    Backoff {
        /// The attempt that failed.
        after_attempt: i32,
        /// When it failed.
        failed_at: DateTime<Utc>,
        /// What it said.
        error: Option<Value>,
    },
    /// The time of a block: it fails if it has not ended by then.
    Timeout,
    /// A worker that does not know the handler put it back.
    PutBack,
    /// The run is paused: it is due when that is resumed.
    Paused,
}

/// A step job that is due later.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Delayed {
    /// The node's id.
    pub node: String,
    /// Its frame.
    pub frame: i32,
    /// The iterations of blocks around it, such as `each[3] > retry[2]`; none in the run's own graph.
    pub within: Option<String>,
    /// What is to be done then.
    pub work: Work,
    /// The number of the coming attempt.
    pub attempt: i32,
    /// The queue it goes to.
    pub queue: String,
    /// The handler it needs.
    pub handler: Option<String>,
    /// When it is due.
    pub due_at: DateTime<Utc>,
    /// Why then.
    #[serde(flatten)]
    pub delay: Delay,
}

/// A step that waits for a signal, for the end of a run, or for the run's context.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Waiting {
    /// The node's id.
    pub node: String,
    /// Its frame.
    pub frame: i32,
    /// The iterations of blocks around it, such as `each[3] > retry[2]`; none in the run's own graph.
    pub within: Option<String>,
    /// The number of its attempt.
    pub attempt: i32,
    /// The names of the signals: one of them. None where it waits for a run, or for the run's context.
    pub signals: Vec<String>,
    /// The run it waits for, if that is it.
    pub child: Option<AwaitedRun>,
    /// When it began to wait.
    pub since: DateTime<Utc>,
    /// When its time is over, if that is bounded.
    pub until: Option<DateTime<Utc>>,
    /// How many signals of these names are there that were not for it, counted to a thousand for each.
    pub untaken: i64,
}

/// The run that a step waits for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AwaitedRun {
    /// The run.
    pub run_id: Uuid,
    /// Its workflow; none if it is gone.
    pub workflow: Option<String>,
    /// Where it stands; none if it is gone.
    pub state: Option<RunState>,
}

/// A step job that a lane holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Held {
    /// The node's id.
    pub node: String,
    /// Its frame.
    pub frame: i32,
    /// The iterations of blocks around it, such as `each[3] > retry[2]`; none in the run's own graph.
    pub within: Option<String>,
    /// What is being done.
    pub work: Work,
    /// The number of this attempt.
    pub attempt: i32,
    /// When the lane took it.
    pub claimed_at: Option<DateTime<Utc>>,
    /// The lane.
    pub lane_id: i64,
    /// When the lane's lease expires unless it is renewed.
    pub lease_until: DateTime<Utc>,
    /// The lease has expired: any live worker will reclaim the step.
    pub overdue: bool,
    /// The lane's worker, if it is registered.
    pub worker: Option<String>,
    /// Its host.
    pub host: Option<String>,
    /// Its process.
    pub pid: Option<i32>,
    /// Its last sign of life.
    pub heartbeat_at: Option<DateTime<Utc>>,
    /// That is recent.
    pub worker_live: bool,
}

/// A predecessor and where it stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Predecessor {
    /// The node's id, or an iteration such as `each[3]`.
    pub node: String,
    /// Where it stands.
    pub state: NodeState,
}

/// A join that has begun to count and still misses in-edges.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Join {
    /// The node's id; `(end)` is the end of the run or of the body it is within. `(iterations)` are those of the block it is within, and
    /// `(failed iterations)` those of them that failed.
    pub node: String,
    /// Its frame.
    pub frame: i32,
    /// The iterations of blocks around it, such as `each[3] > retry[2]`; none in the run's own graph.
    pub within: Option<String>,
    /// How many taken in-edges let it fire; 0 means that all must be resolved.
    pub need: i32,
    /// In-edges in all, or iterations.
    pub in_edges: i32,
    /// In-edges resolved.
    pub resolved: i32,
    /// In-edges taken.
    pub taken: i32,
    /// It fired early and counts on, so that the run ends only after all of it.
    pub fired: bool,
    /// The predecessors that are not resolved, or the iterations that go on, at most [`MAX_SHOWN`].
    pub waits_for: Vec<Predecessor>,
    /// How many those are in all, iterations yet to begin with them.
    pub waits_for_total: usize,
}

/// The answer. The fields are the keys of `-o json`; `Display` gives readable lines.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The run.
    pub run_id: Uuid,
    /// Its workflow.
    pub workflow: String,
    /// The version it keeps.
    pub version: i32,
    /// Where it stands.
    pub state: RunState,
    /// Postgres' clock when this was read.
    pub now: DateTime<Utc>,
    /// When the run was started.
    pub created_at: DateTime<Utc>,
    /// When it was to begin, if later.
    pub run_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// Its error, once failed or canceled; the error names its node.
    pub error: Option<Value>,
    /// Since when it is paused.
    pub paused_at: Option<DateTime<Utc>>,
    /// Why: the `reason` of an operator, or the error of the step that had no attempt left.
    pub paused_because: Option<Value>,
    /// It has ended, and the `finally` of what it was in goes on.
    pub cleans_up: bool,
    /// Live, and nothing holds it: a broken promise.
    pub stuck: bool,
    /// Where a stuck run broke off: nodes that should have a step by now.
    pub lost: Vec<String>,
    /// Step jobs that may be claimed now.
    pub ready: Vec<Ready>,
    /// How many those are in all.
    pub ready_total: i64,
    /// Step jobs that are due later.
    pub delayed: Vec<Delayed>,
    /// How many those are in all.
    pub delayed_total: i64,
    /// Steps that wait for signals or runs.
    pub waiting: Vec<Waiting>,
    /// How many those are in all.
    pub waiting_total: i64,
    /// Step jobs that lanes hold.
    pub held: Vec<Held>,
    /// How many those are in all.
    pub held_total: i64,
    /// Joins that wait for predecessors.
    pub joins: Vec<Join>,
    /// How many those are in all.
    pub joins_total: usize,
    /// Nodes not decided yet; of an ended run, never reached.
    pub pending: usize,
    /// What keeps the step jobs above from going on: no live worker serves the queue, or knows the handler.
    pub problems: Vec<String>,
}
