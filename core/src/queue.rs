//! Claiming: what a lane asks the queue for, and what it holds then.
//! A [`HeldStep`] is permission to end one attempt; it is neither `Clone` nor `Copy`, so nobody ends an attempt twice or without holding it.
//! The low-water mark keeps a claim from walking over rows that are gone; sweeps (the lane's business) find what it passed by.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::graph::NodeNumber;
use crate::payload::Payload;
use crate::state::RunState;

/// The one shard of a plain Postgres. The first column of every run-scoped key.
pub const SHARD: i16 = 0;

/// A lane's baton lists at most this many steps (a row of fixed-size arrays must fit a page).
pub const MAX_HELD: usize = 200;

/// The smallest and largest priority of a run; the smaller is claimed first.
pub const PRIORITIES: std::ops::RangeInclusive<i16> = 0..=3;

/// Priority of a run when its start names none.
pub const DEFAULT_PRIORITY: i16 = 1;

/// Added to the priority of a step job that must be alone in its lane, since it was lost before.
pub const SOLO: i16 = 16;

/// After this many losses suffered alone a step is given up as a poison step.
pub const MAX_LOST_ALONE: i16 = 5;

/// What a step job is there to do. Stored as a smallint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepKind {
    /// Run the node.
    Run,
    /// The node is skipped: record it and tell its successors.
    Skip,
    /// A join that fired early has all its in-edges resolved now: tell the run's end.
    Rest,
    /// A `delay` node's time has come.
    Due,
    /// The attempt is recorded already (`complete_in`): spread its consequences.
    Advance,
}

impl StepKind {
    /// The stored code.
    #[must_use]
    pub fn code(self) -> i16 {
        match self {
            Self::Run => 0,
            Self::Skip => 1,
            Self::Rest => 2,
            Self::Due => 3,
            Self::Advance => 4,
        }
    }

    /// The kind of a stored code; `None` for a code of a newer version.
    #[must_use]
    pub fn from_code(code: i16) -> Option<Self> {
        Some(match code {
            0 => Self::Run,
            1 => Self::Skip,
            2 => Self::Rest,
            3 => Self::Due,
            4 => Self::Advance,
            _ => return None,
        })
    }

    /// Whether ending it is a try of the node, with a row in `execution_step_attempts` numbered from 1.
    #[must_use]
    pub fn is_try(self) -> bool {
        matches!(self, Self::Run | Self::Due)
    }
}

/// A step job that a lane holds: the right, and the duty, to end this attempt.
#[derive(Debug, PartialEq, Eq)]
pub struct HeldStep {
    /// The run.
    pub run_id: Uuid,
    /// The version of the workflow that the run started with.
    pub version_id: i32,
    /// The instance of a block's body; 0 is the run's own graph.
    pub frame: i32,
    /// The node, or an engine node.
    pub node: NodeNumber,
    /// What there is to do.
    pub kind: StepKind,
    /// The number of this try, from 1; 0 where the job is no try.
    pub attempt: i32,
    /// Earlier attempts that failed.
    pub failed: i16,
    /// Earlier attempts lost while the step was alone in its lane.
    pub lost: i16,
    /// The queue it belongs to.
    pub queue_id: i32,
    /// The run's priority.
    pub priority: i16,
    /// It was lost before and must be alone in its lane.
    pub solo: bool,
    /// When it became ready, if known.
    pub enqueued_at: Option<DateTime<Utc>>,
    /// When this lane got it. `None` only between the decision to keep a successor and the commit of that cycle.
    pub claimed_at: Option<DateTime<Utc>>,
}

impl HeldStep {
    /// What `step_ready.priority` says for this step.
    #[must_use]
    pub fn queue_priority(&self) -> i16 {
        self.priority + if self.solo { SOLO } else { 0 }
    }

    /// Names the step job among all that a lane holds.
    #[must_use]
    pub fn key(&self) -> StepKey {
        StepKey { run_id: self.run_id, frame: self.frame, node: self.node, kind: self.kind, attempt: self.attempt }
    }
}

/// One step of one run: a node in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepRef {
    /// The run.
    pub run_id: Uuid,
    /// The frame.
    pub frame: i32,
    /// The node, or an engine node.
    pub node: NodeNumber,
}

/// The identity of a step job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StepKey {
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
}

/// A step that came into the lane with a cycle, and what came with it.
#[derive(Debug)]
pub struct Claimed {
    /// The step.
    pub step: HeldStep,
    /// The run's state as read after the claim: a run read as live is closed, if at all, after the step was claimed. `None`: no such run.
    pub run_state: Option<RunState>,
    /// The run's input when it is small.
    pub input: Option<Payload>,
    /// The run's idempotency key.
    pub key: Option<String>,
    /// The run that started it, if one did.
    pub parent: Option<Uuid>,
    /// The run is in test mode: its mocks as JSON.
    pub mocks: Option<Payload>,
}

/// One place to claim from, in the order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The queue.
    pub queue_id: i32,
    /// The stored priority (with [`SOLO`] added for step jobs that must be alone).
    pub priority: i16,
    /// Rows at or below this sequence number are passed over.
    pub low: i64,
    /// At most this many from here.
    pub limit: i32,
}

/// What a cycle claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Where from, first preference first.
    pub sources: Vec<Source>,
    /// At most this many in all; 0 claims nothing.
    pub limit: i32,
}

/// How far behind the database's clock a low-water mark stays: a row whose insert takes longer than this to commit is found by a sweep.
const TRAIL: TimeDelta = TimeDelta::milliseconds(100);

/// Where a claim starts to look, per queue and priority. The marks only rise; a sweep looks from 0 and leaves them.
#[derive(Debug, Default)]
pub struct LowWater(HashMap<(i32, i16), i64>);

impl LowWater {
    /// The mark of a queue and priority; 0 where nothing was claimed yet.
    #[must_use]
    pub fn get(&self, queue_id: i32, priority: i16) -> i64 {
        self.0.get(&(queue_id, priority)).copied().unwrap_or(0)
    }

    /// Note that `seq` was claimed from here in a cycle that began at `database_now`.
    pub fn claimed(&mut self, queue_id: i32, priority: i16, seq: i64, database_now: DateTime<Utc>) {
        let trailing = seq.min(seq_at(database_now - TRAIL));
        let mark = self.0.entry((queue_id, priority)).or_insert(0);
        *mark = (*mark).max(trailing);
    }
}

/// 2024-01-01T00:00:00Z in microseconds since 1970: where the clock in `step_ready.seq` starts.
const SEQ_EPOCH_US: i64 = 1_704_067_200_000_000;

/// The smallest `step_ready.seq` of an instant.
#[must_use]
pub fn seq_at(at: DateTime<Utc>) -> i64 {
    (at.timestamp_micros() - SEQ_EPOCH_US) << 13
}

/// When a row of `step_ready` was enqueued.
#[must_use]
pub fn seq_time(seq: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_micros((seq >> 13) + SEQ_EPOCH_US)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_sequence_number_tells_when_its_row_was_enqueued() {
        let at = DateTime::from_timestamp_micros(1_795_000_000_123_456).unwrap();
        assert_eq!(seq_time(seq_at(at)), Some(at));
        assert_eq!(seq_time(seq_at(at) | 0x1fff), Some(at));
    }

    #[test]
    fn a_mark_trails_the_clock_and_never_falls() {
        let now = DateTime::from_timestamp_micros(1_795_000_000_000_000).unwrap();
        let mut low = LowWater::default();
        low.claimed(1, 1, seq_at(now), now);
        assert_eq!(low.get(1, 1), seq_at(now - TRAIL));
        low.claimed(1, 1, seq_at(now) - 1_000_000_000_000, now);
        assert_eq!(low.get(1, 1), seq_at(now - TRAIL));
        assert_eq!(low.get(1, 2), 0);
    }

    #[test]
    fn kinds_have_stable_codes() {
        for code in 0..5 {
            assert_eq!(StepKind::from_code(code).unwrap().code(), code);
        }
        assert_eq!(StepKind::from_code(5), None);
    }
}
