//! What came of a demo, counted from the recorded attempts of its runs.

use std::collections::{BTreeMap, HashSet};

use anyhow::Result;
use chrono::{DateTime, Utc};
use longshore_core::{
    doctor::Report,
    inspect::{self, RunSummary},
    state::{Outcome, RunState},
};
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::super::table::table;

/// The demo's result; its fields are the keys of `-o json`.
#[derive(Debug, Serialize)]
pub(super) struct Books {
    workflows: Vec<Line>,
    runs_completed: usize,
    runs_failed: usize,
    runs_stuck: usize,
    promises_broken: usize,
    pub(super) workers_killed: usize,
    /// Runs that gave something else than they must.
    pub(super) other_outputs: usize,
    /// How many workers, as far as they are still known, recorded attempts.
    workers_with_attempts: usize,
    #[serde(skip)]
    stuck: Vec<Uuid>,
}

/// One workflow's runs.
#[derive(Debug, Serialize)]
struct Line {
    workflow: String,
    runs: usize,
    /// Steps that were decided: run or skipped.
    steps: usize,
    /// Recorded attempts; a skip is none.
    attempts: usize,
    /// Those lost to a crash.
    lost: usize,
    /// From the first start to the last end.
    seconds: f64,
}

#[derive(Default)]
struct Sum {
    runs: usize,
    steps: usize,
    attempts: usize,
    lost: usize,
    from: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
}

impl Books {
    pub(super) async fn of(connection: &mut PgConnection, runs: &[RunSummary]) -> Result<Self> {
        let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
        let mut workers = HashSet::new();
        for run in runs {
            let attempts = inspect::attempts(connection, run.run_id).await?;
            let sum = sums.entry(&run.workflow).or_default();
            let own = || attempts.iter().filter(|attempt| attempt.number >= 0); // not the engine's start and end
            let tried = || own().filter(|attempt| attempt.attempt > 0);
            sum.runs += 1;
            sum.steps += own().map(|attempt| (attempt.frame, attempt.number)).collect::<HashSet<_>>().len();
            sum.attempts += tried().count();
            sum.lost += tried().filter(|attempt| attempt.outcome == Outcome::Lost).count();
            sum.from = sum.from.into_iter().chain([run.created_at]).min();
            sum.until = sum.until.into_iter().chain(run.finished_at).max();
            let ended = tried().filter(|attempt| attempt.outcome != Outcome::Lost);
            workers.extend(ended.filter_map(|attempt| attempt.worker.clone()));
        }
        let count = |state| runs.iter().filter(|run| run.state == state).count();
        let stuck: Vec<Uuid> = runs.iter().filter(|run| !run.state.has_ended()).map(|run| run.run_id).collect();
        Ok(Self {
            workflows: sums.into_iter().map(|(workflow, sum)| sum.line(workflow)).collect(),
            runs_completed: count(RunState::Completed),
            runs_failed: count(RunState::Failed) + count(RunState::Canceled),
            runs_stuck: stuck.len(),
            promises_broken: 0,
            workers_killed: 0,
            other_outputs: 0,
            workers_with_attempts: workers.len(),
            stuck,
        })
    }

    pub(super) fn examined(&mut self, report: Report) {
        self.promises_broken = report.broken().count();
    }

    pub(super) fn lost(&self) -> usize {
        self.workflows.iter().map(|line| line.lost).sum()
    }

    pub(super) fn stuck(&self) -> usize {
        self.runs_stuck
    }

    pub(super) fn stuck_runs(&self) -> impl Iterator<Item = Uuid> {
        self.stuck.iter().copied()
    }

    /// What is not as the demo should show it; nothing when all is well.
    pub(super) fn wrong(&self) -> Vec<String> {
        let checks = [
            (self.runs_completed == 0, "no run completed".to_owned()),
            (self.runs_failed > 0, format!("{} runs failed", self.runs_failed)),
            (self.runs_stuck > 0, format!("{} runs are stuck", self.runs_stuck)),
            (self.promises_broken > 0, format!("{} promises are broken", self.promises_broken)),
            (self.other_outputs > 0, format!("{} runs gave another output than they must", self.other_outputs)),
            (self.lost() == 0, "no attempt was lost".to_owned()),
            (self.workers_with_attempts < 2, "fewer than two workers recorded attempts".to_owned()),
        ];
        checks.into_iter().filter(|(wrong, _)| *wrong).map(|(_, text)| text).collect()
    }

    pub(super) fn text(&self) -> String {
        let row = |line: &Line| {
            [
                line.workflow.clone(),
                line.runs.to_string(),
                line.steps.to_string(),
                line.attempts.to_string(),
                line.lost.to_string(),
                format!("{:.1}", line.seconds),
            ]
        };
        let headings = ["workflow", "runs", "steps", "attempts", "lost", "seconds"];
        let table = table(headings, &[1, 2, 3, 4, 5], self.workflows.iter().map(row).collect());
        format!(
            "{table}\ndemo: {} runs completed, {} stuck, {} promises broken",
            self.runs_completed, self.runs_stuck, self.promises_broken
        )
    }
}

impl Sum {
    fn line(self, workflow: &str) -> Line {
        let seconds = self.from.zip(self.until).map_or(0.0, |(from, until)| (until - from).as_seconds_f64());
        let seconds = (seconds * 1000.0).round() / 1000.0;
        Line {
            workflow: workflow.to_owned(),
            runs: self.runs,
            steps: self.steps,
            attempts: self.attempts,
            lost: self.lost,
            seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books(lost: usize, stuck: usize, workers: usize) -> Books {
        let sum = Sum { runs: 3, steps: 30, attempts: 31, lost, ..Sum::default() };
        Books {
            workflows: vec![sum.line("order")],
            runs_completed: 3 - stuck,
            runs_failed: 0,
            runs_stuck: stuck,
            promises_broken: 0,
            workers_killed: 1,
            other_outputs: 0,
            workers_with_attempts: workers,
            stuck: Vec::new(),
        }
    }

    #[test]
    fn the_last_line_says_it_all() {
        let text = books(1, 0, 4).text();
        assert_eq!(text.lines().last(), Some("demo: 3 runs completed, 0 stuck, 0 promises broken"));
    }

    #[test]
    fn a_demo_in_which_nothing_was_lost_or_one_worker_did_it_all_shows_nothing() {
        assert!(books(1, 0, 2).wrong().is_empty());
        assert_eq!(books(0, 0, 2).wrong(), ["no attempt was lost"]);
        assert_eq!(books(1, 1, 1).wrong(), ["1 runs are stuck", "fewer than two workers recorded attempts"]);
    }
}
