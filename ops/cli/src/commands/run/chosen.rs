//! Which runs a command is for: those that are named, or all that a filter finds, shown first with `--dry-run`.

use std::collections::HashSet;

use anyhow::Result;
use chrono::{DateTime, Utc};
use longshore::exit::Exit;
use longshore_core::inspect::{self, Filter};
use longshore_core::state::RunState;
use longshore_enqueuer::Plan;
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Global;

/// Named runs, or a filter.
#[derive(Debug, clap::Args)]
pub(crate) struct Chosen {
    /// The runs' ids
    #[arg(required_unless_present = "workflow")]
    pub(super) runs: Vec<Uuid>,
    /// All runs of this workflow that the other options leave
    #[arg(long, conflicts_with = "runs")]
    workflow: Option<String>,
    /// Only runs in this state [default: those the command is for; `cancel` and `rerun` ask for it]
    #[arg(long, requires = "workflow")]
    state: Option<RunState>,
    /// Only runs started before this time
    #[arg(long, requires = "workflow", value_name = "TIME")]
    started_before: Option<DateTime<Utc>>,
    /// Only runs started at this time or later
    #[arg(long, requires = "workflow", value_name = "TIME")]
    started_after: Option<DateTime<Utc>>,
    /// Say which runs it would be, and do nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// What became of one of them.
#[derive(Serialize)]
pub(super) struct Done {
    pub(super) run_id: Uuid,
    /// Where it stands now; absent in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) state: Option<RunState>,
    pub(super) changed: bool,
    /// What runs again, and in which run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) plan: Option<Plan>,
    #[serde(skip)]
    pub(super) said: String,
}

#[derive(Serialize)]
struct All {
    dry_run: bool,
    changed: usize,
    runs: Vec<Done>,
}

impl Chosen {
    /// Do `each` to each of them and print what became of them. One that cannot be done is said and does not keep the others from it; the first such error is
    /// the command's.
    pub(super) async fn each<F>(&self, global: &Global, usual: &[RunState], mut each: F) -> Result<()>
    where
        F: AsyncFnMut(Uuid) -> Result<Done>,
    {
        let mut done = Vec::new();
        let mut failed = None;
        for run_id in self.find(global, usual).await? {
            if self.dry_run {
                done.push(Done { run_id, state: None, changed: false, plan: None, said: run_id.to_string() });
                continue;
            }
            match each(run_id).await {
                Ok(one) => done.push(one),
                Err(error) if failed.is_none() => failed = Some(error),
                Err(error) => eprintln!("{error:#}"),
            }
        }
        let changed = done.iter().filter(|one| one.changed).count();
        if let ([one], [_], false) = (done.as_slice(), self.runs.as_slice(), self.dry_run) {
            return global.output.print(one, |one| one.said.clone());
        }
        if failed.is_none() || !done.is_empty() {
            global.output.print(&All { dry_run: self.dry_run, changed, runs: done }, |all| {
                let lines: Vec<_> = all.runs.iter().map(|one| one.said.as_str()).collect();
                match (all.dry_run, self.workflow.is_some()) {
                    (true, _) => format!("{}\n{} runs; nothing was changed", lines.join("\n"), lines.len()),
                    (false, true) => format!("{}\n{changed} of {} runs changed", lines.join("\n"), lines.len()),
                    (false, false) => lines.join("\n"),
                }
            })?;
        }
        failed.map_or(Ok(()), Err)
    }

    async fn find(&self, global: &Global, usual: &[RunState]) -> Result<Vec<Uuid>> {
        let Some(workflow) = &self.workflow else { return Ok(self.runs.clone()) };
        let states = self.state.as_ref().map_or(usual, std::slice::from_ref);
        if states.is_empty() {
            return Err(Exit::Usage.error("say which of them with --state".to_owned()));
        }
        let mut connection = global.connect().await?;
        let mut found = Vec::new();
        for state in states {
            found.extend(self.in_state(&mut connection, workflow, *state).await?);
        }
        // one that began meanwhile was in both
        let mut seen = HashSet::new();
        found.retain(|run| seen.insert(*run));
        Ok(found)
    }

    async fn in_state(&self, connection: &mut PgConnection, workflow: &str, state: RunState) -> Result<Vec<Uuid>> {
        let (mut found, mut before) = (Vec::new(), None);
        loop {
            let filter =
                Filter { workflow: Some(workflow.to_owned()), state: Some(state), limit: inspect::MAX_LISTED, before };
            let page = inspect::list(&mut *connection, &filter).await?;
            before = page.last().map(|run| run.run_id);
            let full = page.len() == inspect::MAX_LISTED as usize;
            let (after, until) = (self.started_after, self.started_before);
            let in_time = page.iter().filter(|run| {
                after.is_none_or(|after| run.created_at >= after) && until.is_none_or(|until| run.created_at < until)
            });
            found.extend(in_time.map(|run| run.run_id));
            if !full || after.is_some_and(|after| page.last().is_some_and(|run| run.created_at < after)) {
                return Ok(found);
            }
        }
    }
}
