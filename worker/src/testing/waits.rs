//! What runs wait for that nothing will move.

use longshore_core::explain::{self, AwaitedRun, Waiting};
use longshore_core::inspect::place;
use longshore_core::session::Access;
use longshore_core::state::RunState;
use longshore_core::testing;

/// What the live runs wait for, in a line.
pub(crate) async fn stuck(access: &Access) -> Result<String, sqlx::Error> {
    let mut waits = Vec::new();
    for run_id in testing::live_runs(access).await? {
        let Some(run) = explain::explain(&mut *access.pool().acquire().await?, run_id).await? else { continue };
        if run.state == RunState::Paused {
            waits.push(format!("{} is paused and waits to be resumed", run.workflow));
        }
        waits.extend(run.waiting.iter().map(wait));
    }
    if waits.is_empty() {
        waits.push("nothing that can be named".to_owned());
    }
    Ok(format!("stuck: {}", waits.join("; ")))
}

fn wait(wait: &Waiting) -> String {
    let what = match &wait.child {
        Some(AwaitedRun { workflow: Some(workflow), .. }) => format!("a run of {workflow}"),
        Some(AwaitedRun { run_id, .. }) => format!("run {run_id}"),
        None if wait.signals.is_empty() => "the run's context to be as it asks".to_owned(),
        None => format!("the signal {}", wait.signals.join(" or ")),
    };
    let refused = match wait.untaken {
        0 => String::new(),
        untaken => format!(" ({untaken} of that name not for it)"),
    };
    format!("{} waits for {what}{refused}", place(&wait.node, wait.frame, wait.within.as_deref()))
}
