//! What a round of programs came to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Bench;

/// What it came to.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Runs that agree.
    pub cases: u64,
    /// Definitions that were drawn and are refused when published.
    pub refused: u64,
    /// Workers killed.
    pub kills: u64,
    /// Runs that a killed worker held steps of.
    pub hit: u64,
    /// Completed, failed and canceled runs.
    pub ended: [u64; 3],
    /// Attempts on record, and of these the lost ones.
    pub attempts: [i64; 2],
    /// Frames.
    pub frames: i64,
    /// Signals sent, and taken.
    pub signals: [i64; 2],
    /// How long it took.
    pub took: Duration,
}

impl Bench {
    pub(super) async fn figures(&self, began: Instant) -> Result<Figures> {
        let sql = "select (select count(*) from longshore.execution_step_attempts where node >= 0),
            (select count(*) from longshore.execution_step_attempts where outcome = 3), (select count(*) from longshore.frames),
            (select count(*) from longshore.signals), (select count(*) from longshore.signals where taken_at is not null)";
        let (attempts, lost, frames, sent, taken): (i64, i64, i64, i64, i64) =
            sqlx::query_as(sql).fetch_one(self.pool()).await?;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Ok(Figures {
            cases: count(&self.done),
            refused: count(&self.refused),
            kills: count(&self.kills),
            hit: self.hit.lock().await.len() as u64,
            ended: [count(&self.ended[0]), count(&self.ended[1]), count(&self.ended[2])],
            attempts: [attempts, lost],
            frames,
            signals: [sent, taken],
            took: began.elapsed(),
        })
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            cases,
            refused,
            kills,
            hit,
            ended: [completed, failed, canceled],
            attempts: [attempts, lost],
            frames,
            signals: [sent, taken],
            took,
        } = self;
        write!(
            f,
            "{cases} cases agree ({completed} completed, {failed} failed, {canceled} canceled) in {:.0} s: {attempts} attempts, {frames} frames, {taken} of {sent} signals taken; \
             {kills} kills hit {hit} of them, {lost} attempts lost; {refused} programs refused",
            took.as_secs_f64()
        )
    }
}
