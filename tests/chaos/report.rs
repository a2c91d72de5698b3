//! What a window came to, as lines, as JSON and as a row of the failure table.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::check::{Figures, Violations};

/// What a window came to.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) faults: Vec<String>,
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
    pub(crate) workers: u32,
    /// What each fault hit.
    pub(crate) hits: BTreeMap<String, u32>,
    #[serde(flatten)]
    pub(crate) figures: Figures,
    pub(crate) steps_per_s: f64,
    /// Seconds from the end of the faults until every run had ended.
    pub(crate) settled_after: f64,
    /// Seconds from each start of Postgres until the fleet claimed again.
    pub(crate) restarts: Vec<f64>,
    /// Calls of enqueuers that were refused or not answered.
    pub(crate) refused: u64,
    /// Runs that the operator paused.
    pub(crate) pauses: u64,
    /// Kinds of damage that the rules of child runs, reruns, contexts and pauses were shown, and found or did not.
    pub(crate) damages: u32,
    pub(crate) violations: Violations,
}

impl Outcome {
    fn title(&self) -> String {
        match self.faults.as_slice() {
            [] => "none".to_owned(),
            [one] => one.clone(),
            many => format!("{} together", many.len()),
        }
    }

    fn slowest_restart(&self) -> Option<f64> {
        self.restarts.iter().copied().reduce(f64::max)
    }
}

fn seconds(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}

/// Lines for a terminal.
pub(crate) fn text(outcome: &Outcome) -> String {
    let Outcome { seed, figures, .. } = outcome;
    let mut text = String::new();
    let mut line = |line: String| _ = writeln!(text, "{line}");
    line(format!(
        "{}: seed {seed}, {} s, {} workers, {} runs, {} steps ({:.0}/s)",
        outcome.title(),
        outcome.seconds,
        outcome.workers,
        figures.runs,
        figures.steps,
        outcome.steps_per_s
    ));
    let hits: Vec<String> = outcome.hits.iter().map(|(fault, hits)| format!("{fault} {hits}")).collect();
    line(format!("  hits: {}", if hits.is_empty() { "none".to_owned() } else { hits.join(", ") }));
    line(format!(
        "  lost {}, released {}, late results dropped {}, refused calls {}, settled after {:.1} s",
        figures.lost, figures.released, figures.zombies, outcome.refused, outcome.settled_after
    ));
    line(format!(
        "  {} child runs, {} pauses, {} retries of runs, {} reruns, {} snapshots; {} kinds of damage done by hand",
        figures.children, outcome.pauses, figures.retries, figures.reruns, figures.snapshots, outcome.damages
    ));
    if figures.recovery_p99.is_some() {
        line(format!(
            "  a killed worker's steps ran again after {} s (p50), {} s (p99)",
            seconds(figures.recovery_p50),
            seconds(figures.recovery_p99)
        ));
    }
    if let Some(slowest) = outcome.slowest_restart() {
        line(format!(
            "  after {} starts of postgres the fleet claimed again, at the latest after {slowest:.1} s",
            outcome.restarts.len()
        ));
    }
    for violation in &outcome.violations {
        line(format!("  BROKEN {violation}"));
    }
    line(format!("  {} violations", outcome.violations.len()));
    text
}

/// The failure table, as Markdown; windows that differ in nothing but their seed share a row.
pub(crate) fn table(outcomes: &[Outcome]) -> String {
    let mut rows: Vec<(String, Vec<&Outcome>)> = Vec::new();
    for outcome in outcomes {
        let title = outcome.title();
        match rows.iter_mut().find(|(known, _)| *known == title) {
            Some((_, row)) => row.push(outcome),
            None => rows.push((title, vec![outcome])),
        }
    }
    let mut table = "| fault | seeds | hits | runs | steps | lost | late results dropped | recovery p50, s | p99, s | slowest restart, s | violations |\n\
                     | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for (title, row) in rows {
        let sum = |field: fn(&Outcome) -> i64| row.iter().map(|outcome| field(outcome)).sum::<i64>();
        let most =
            |field: fn(&Outcome) -> Option<f64>| row.iter().filter_map(|outcome| field(outcome)).reduce(f64::max);
        let seeds: Vec<String> = row.iter().map(|outcome| outcome.seed.to_string()).collect();
        let cells = [
            title,
            seeds.join(", "),
            sum(|o| o.hits.values().map(|hits| i64::from(*hits)).sum()).to_string(),
            sum(|o| o.figures.runs).to_string(),
            sum(|o| o.figures.steps).to_string(),
            sum(|o| o.figures.lost).to_string(),
            sum(|o| o.figures.zombies).to_string(),
            seconds(most(|o| o.figures.recovery_p50)),
            seconds(most(|o| o.figures.recovery_p99)),
            seconds(most(Outcome::slowest_restart)),
            sum(|o| i64::try_from(o.violations.len()).unwrap_or(i64::MAX)).to_string(),
        ];
        let _ = writeln!(table, "| {} |", cells.join(" | "));
    }
    table
}
