//! What a lane wants to happen in one cycle.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::definition::ClosePolicy;
use crate::frame::Chunk;
use crate::graph::{BodyNumber, Bounds, FrameFacts, NodeNumber};
use crate::payload::Payload;
use crate::queue::{Claim, HeldStep, StepKind, StepRef};
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
    /// Where its in-edges are the iterations of a block: how they go on.
    pub bounds: Option<Bounds>,
}

/// A frame that begins.
#[derive(Clone, Debug, PartialEq)]
pub struct NewFrame {
    /// The run.
    pub run_id: Uuid,
    /// What is known of it.
    pub facts: FrameFacts,
    /// The body it is an instance of, if it is one.
    pub body: Option<BodyNumber>,
    /// The frames around it, the outermost first.
    pub path: Vec<i32>,
    /// What the block was given, where an instance that is no body must keep it.
    pub kept_input: Option<Payload>,
    /// The innermost `finally` at or around it.
    pub shield: Option<i32>,
    /// It stands for a `try` that has a `finally`.
    pub cleans_up: bool,
}

/// Iterations of a block that begin together.
#[derive(Clone, Debug, PartialEq)]
pub struct NewChunk {
    /// The run.
    pub run_id: Uuid,
    /// The block's frame.
    pub frame: i32,
    /// Which, how many, and what they are given.
    pub chunk: Chunk,
    /// The first of their frames, if they begin now; the others follow it.
    pub first: Option<i32>,
}

/// A frame that ends.
#[derive(Clone, Debug, PartialEq)]
pub struct FrameEnding {
    /// The run.
    pub run_id: Uuid,
    /// The frame.
    pub frame: i32,
    /// Its output, or its error.
    pub result: Result<Payload, Payload>,
    /// Steps of it may be out: announce the end, so that cycles that end them are refused.
    pub announce: bool,
    /// The step job that says what follows, if this is what ended the frame.
    pub then: Option<Following>,
}

/// A step job of kind `Advance` that follows the end of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Following {
    /// Its frame.
    pub frame: i32,
    /// Its node.
    pub node: NodeNumber,
    /// Its number.
    pub attempt: i32,
    /// Its queue.
    pub queue_id: i32,
    /// The run's priority.
    pub priority: i16,
    /// The run's version.
    pub version_id: i32,
    /// The lane may hold it.
    pub keep: bool,
}

/// What happens to the context of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextWrite {
    /// The run.
    pub run_id: Uuid,
    /// Its version.
    pub version_id: i32,
    /// Frame, node and attempt that change it, and how, as `change_context` takes it; none: the run ends, and its context is kept once more.
    pub by: Option<(i32, NodeNumber, i32, String)>,
}

/// A step that begins to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewWait {
    /// Which.
    pub key: StepRef,
    /// The number of its try.
    pub attempt: i32,
    /// The run's version.
    pub version_id: i32,
    /// The queue of its node.
    pub queue_id: i32,
    /// The run's priority.
    pub priority: i16,
    /// Earlier attempts that failed.
    pub failed: i16,
    /// The signals it waits for.
    pub names: Vec<String>,
    /// It asks more of them than the name.
    pub picky: bool,
    /// How long it waits.
    pub timeout: Option<Duration>,
    /// The queue of the step job that ends it then.
    pub timer_queue_id: i32,
    /// The run it waits for instead of signals.
    pub child: Option<Uuid>,
}

/// A run that a step starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewChild {
    /// The run.
    pub run_id: Uuid,
    /// Its workflow.
    pub workflow_id: i32,
    /// Its version; the newest if none.
    pub version_id: Option<i32>,
    /// What it is given.
    pub input: Payload,
    /// Its parent's priority.
    pub priority: i16,
    /// How many runs are around it.
    pub depth: i16,
    /// What becomes of it when the step or its run ends before.
    pub close_policy: ClosePolicy,
    /// The step waits for its end.
    pub awaited: bool,
    /// The step.
    pub parent: StepRef,
    /// Which attempt of it.
    pub parent_attempt: i32,
}

/// A wait that ends, or a signal that it refuses: happens if nobody woke it and nobody took the signal before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wake {
    /// Which.
    pub key: StepRef,
    /// The signal; none: its time is over.
    pub signal: Option<i64>,
    /// Why the signal is refused: then the step waits on.
    pub refused: Option<String>,
    /// The lane may hold the woken step.
    pub keep: bool,
}

/// A run that ends with this batch.
#[derive(Clone, Debug, PartialEq)]
pub struct RunEnding {
    /// The run.
    pub run_id: Uuid,
    /// Its workflow.
    pub workflow: Arc<str>,
    /// It is in test mode: no metric counts it.
    pub is_test: bool,
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
    pub resolved_joins: Vec<StepRef>,
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
    /// At most this many joins that fire, waits that are woken, and steps that follow the end of a frame, are held by the lane.
    pub keep_joins: i32,
    /// Frames that begin.
    pub frames: Vec<NewFrame>,
    /// Frames that end; one entry per frame.
    pub frame_endings: Vec<FrameEnding>,
    /// Iterations that begin together, now or later.
    pub chunks: Vec<NewChunk>,
    /// Such that begin now: run, the block's frame, chunk, the first of their frames.
    pub opened: Vec<(Uuid, i32, i32, i32)>,
    /// Passes that need not be kept: run, frame, and whether there may be frames below it.
    pub forgotten_passes: Vec<(Uuid, i32, bool)>,
    /// Steps that begin to wait.
    pub waiting: Vec<NewWait>,
    /// Waits that end.
    pub wakes: Vec<Wake>,
    /// Waits whose attempt ends here.
    pub waited: Vec<StepRef>,
    /// Runs that are paused here, and why; each is among `endings`, too.
    pub pauses: Vec<(Uuid, Payload)>,
    /// Step jobs of paused runs.
    pub parked: Vec<HeldStep>,
    /// Changes of contexts.
    pub contexts: Vec<ContextWrite>,
    /// Runs that steps start.
    pub children: Vec<NewChild>,
    /// Child runs that are asked to end, each with its parent.
    pub asks: Vec<(Uuid, Uuid)>,
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

impl Batch {
    /// Bring the batch into the form the function demands: one entry per key, in the order of locks.
    pub fn seal(&mut self) {
        self.joins.sort_unstable_by_key(|j| (j.run_id, j.frame, j.node));
        self.resolved_joins.sort_unstable();
        self.endings.sort_by_key(|e| e.run_id);
        self.frame_endings.sort_by_key(|e| (e.run_id, e.frame));
        self.waiting.sort_by_key(|wait| wait.key);
        self.contexts.sort_by_key(|write| write.run_id);
        self.pauses.sort_by_key(|(run_id, _)| *run_id);
        self.parked.sort_by_key(|step| step.run_id);
        self.waited.sort_unstable();
        self.waited.dedup();
        self.ended_runs.sort_unstable();
        self.ended_runs.dedup();
    }
}
