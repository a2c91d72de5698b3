//! `longshore run watch`: a run to its end, under a progress bar.

use std::time::Duration;

use anyhow::Result;
use longshore::exit::Exit;
use longshore_core::{
    inspect::{self, RunSummary, RunView},
    run,
    state::RunState,
};
use serde::Serialize;
use uuid::Uuid;

use super::super::{
    progress::{Progress, Tally},
    table::time,
};
use super::missing;
use crate::Global;

const LOOK_EVERY: Duration = Duration::from_millis(250);

#[derive(Serialize)]
struct Watched {
    run: RunView,
}

pub(super) async fn watch(global: &Global, run_id: Uuid) -> Result<()> {
    let mut connection = global.connect().await?;
    let mut progress = Progress::new();
    let mut tally = Tally::default();
    tally.add([run_id]);
    loop {
        let Some(state) = run::state(&mut connection, run_id).await? else {
            return Err(missing(run_id));
        };
        let counts = tally.count(&mut connection, |_| state.has_ended()).await?;
        progress.show(&format!("{state}: "), &counts);
        if state.has_ended() {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    progress.end();
    let Some(run) = inspect::show(&mut connection, run_id).await? else {
        return Err(missing(run_id));
    };
    let state = run.summary.state;
    global.output.print(&Watched { run }, |watched| text(&watched.run))?;
    match state {
        RunState::Completed => Ok(()),
        state => Err(Exit::Failed.error(format!("run {run_id} is {state}"))),
    }
}

/// A run in some lines.
pub(super) fn text(run: &RunView) -> String {
    let of = &run.summary;
    let mut text = format!("run {} of {} version {}: {}", of.run_id, of.workflow, of.version, of.state);
    text += &format!("\ncreated {}, {} s", time(of.created_at), seconds(of));
    if let Some(key) = &of.key {
        text += &format!(", key {key}");
    }
    if run.mode == "test" {
        text += ", in test mode";
    }
    text += &format!("\ninput {}", run.input);
    if let Some(output) = &run.output {
        text += &format!("\noutput {output}");
    }
    if let Some(error) = &run.error_detail {
        text += &format!("\nerror {error}");
    }
    if let Some(parent) = &run.parent_run_id {
        text += &format!("\nstarted by run {parent}");
    }
    text
}

/// How long it has run; none as long as it is not to begin.
pub(super) fn seconds(run: &RunSummary) -> String {
    format!("{:.1}", run.seconds.max(0.0))
}
