//! How far runs are: a live bar with counts by state on a terminal, now and then a plain line without one. Both go to stderr, so that stdout
//! holds the result alone.

use std::{
    collections::HashMap,
    io::IsTerminal,
    time::{Duration, Instant},
};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use longshore_core::inspect::{self, Counts};
use sqlx::PgConnection;
use uuid::Uuid;

/// Without a terminal, a line at most so often.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// How often the time beside the bar goes on.
const TICK: Duration = Duration::from_millis(250);

/// Counts the nodes of runs by state. What ended is read once and then remembered.
#[derive(Default)]
pub(crate) struct Tally {
    live: Vec<Uuid>,
    ended: Counts,
}

/// Shows how far they are.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    said: Option<(Instant, String)>,
}

impl Tally {
    /// These runs are counted, too.
    pub(crate) fn add(&mut self, runs: impl IntoIterator<Item = Uuid>) {
        self.live.extend(runs);
    }

    /// The counts over all runs now, those that `ended` says have ended being counted for the last time.
    pub(crate) async fn count(
        &mut self,
        connection: &mut PgConnection,
        ended: impl Fn(&Uuid) -> bool,
    ) -> Result<Counts> {
        let counts: HashMap<Uuid, Counts> = inspect::counts_many(connection, &self.live).await?;
        let live = counts.values().fold(self.ended, add);
        let over = counts.iter().filter(|(run, _)| ended(run)).map(|(_, counts)| counts);
        self.ended = over.fold(self.ended, add);
        self.live.retain(|run| !ended(run));
        Ok(live)
    }
}

fn add(sum: Counts, counts: &Counts) -> Counts {
    Counts {
        nodes: sum.nodes + counts.nodes,
        pending: sum.pending + counts.pending,
        ready: sum.ready + counts.ready,
        delayed: sum.delayed + counts.delayed,
        waiting: sum.waiting + counts.waiting,
        running: sum.running + counts.running,
        completed: sum.completed + counts.completed,
        failed: sum.failed + counts.failed,
        skipped: sum.skipped + counts.skipped,
        canceled: sum.canceled + counts.canceled,
    }
}

impl Progress {
    /// Nothing is shown yet.
    pub(crate) fn new() -> Self {
        Self { bar: None, said: None }
    }

    /// Show the counts, and `before` them.
    pub(crate) fn show(&mut self, before: &str, counts: &Counts) {
        let text = format!("{before}{}", words(counts));
        if std::io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(bar);
            bar.set_length(counts.nodes.unsigned_abs());
            bar.set_position(counts.ended().unsigned_abs());
            bar.set_message(text);
        } else if self.said.as_ref().is_none_or(|(at, said)| at.elapsed() >= LINE_EVERY && *said != text) {
            self.say(&format!("{}/{} steps: {text}", counts.ended(), counts.nodes));
            self.said = Some((Instant::now(), text));
        }
    }

    /// Say something that stays.
    #[allow(clippy::print_stderr)] // where a command says how far it is
    pub(crate) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    /// Take the bar away.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} [{bar:30}] {percent:>3} % {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(TICK);
    bar
}

fn words(counts: &Counts) -> String {
    let states = [
        (counts.ready, "ready"),
        (counts.running, "running"),
        (counts.delayed, "delayed"),
        (counts.waiting, "waiting"),
        (counts.completed, "completed"),
        (counts.failed, "failed"),
        (counts.skipped, "skipped"),
        (counts.canceled, "canceled"),
    ];
    let some = states.iter().filter(|(count, _)| *count > 0);
    some.map(|(count, state)| format!("{count} {state}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_states_that_occur_are_named() {
        let counts = Counts { nodes: 9, ready: 2, completed: 7, ..Counts::default() };
        assert_eq!(words(&counts), "2 ready, 7 completed");
        assert_eq!(add(counts, &counts).nodes, 18);
    }
}
