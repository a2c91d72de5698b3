//! `longshore run retry` and `run rerun`: what would run, and then that.

use anyhow::Result;
use longshore::exit::Exit;
use longshore_core::state::RunState;
use longshore_enqueuer::{Enqueuer, Plan, RerunError, Version};
use serde_json::Value;
use uuid::Uuid;

use super::chosen::{Chosen, Done};
use crate::Global;

pub(super) async fn retry(global: &Global, chosen: &Chosen, plan: bool) -> Result<()> {
    let enqueuer = Enqueuer::connect(&global.database_url()?).await?;
    let each = async |run_id: Uuid| {
        let done = if plan { enqueuer.plan_retry(run_id).await } else { enqueuer.retry(run_id).await };
        let done = done.map_err(refusal)?;
        let word = if plan { "would go on" } else { "goes on" };
        Ok(Done {
            run_id,
            state: (!plan).then_some(RunState::Running),
            changed: !plan,
            said: format!("run {run_id} {word}\n{}", text(&done)),
        })
    };
    chosen.each(global, &[RunState::Failed], each).await
}

pub(super) async fn rerun(
    global: &Global,
    run: Uuid,
    from: &str,
    input: Option<&str>,
    version: Option<&str>,
    plan: bool,
) -> Result<()> {
    let enqueuer = Enqueuer::connect(&global.database_url()?).await?;
    let mut rerun = enqueuer.rerun(run, from);
    if let Some(input) = input {
        let input: Value = serde_json::from_str(input)
            .map_err(|error| Exit::Usage.error(format!("the input is not JSON: {error}")))?;
        rerun = rerun.input(&input);
    }
    if let Some(version) = version {
        rerun = rerun.version(match version {
            "latest" => Version::Latest,
            number => Version::Number(
                number.parse().map_err(|_| Exit::Usage.error("a version is a number or `latest`".to_owned()))?,
            ),
        });
    }
    let done = if plan { rerun.plan().await } else { rerun.await }.map_err(refusal)?;
    global.output.print(&done, |done| match done.run_id {
        Some(run) => format!("{run}\n{}", text(done)),
        None => text(done),
    })
}

fn text(plan: &Plan) -> String {
    let line = |what: &str, nodes: &[String]| match nodes {
        [] => String::new(),
        nodes => format!("  {what}: {}\n", nodes.join(", ")),
    };
    let lines = [
        line("taken as it is", &plan.reused),
        line("skipped as before", &plan.skipped),
        line("goes on within", &plan.taken_up),
        line("runs", &plan.ready),
        line("of these again as a whole, in new frames", &plan.whole),
        line("may run after that", &plan.later),
    ];
    lines.concat().trim_end().to_owned()
}

fn refusal(error: RerunError) -> anyhow::Error {
    let exit = match &error {
        RerunError::NotFound { .. } | RerunError::UnknownVersion { .. } | RerunError::UnknownNode { .. } => {
            Exit::NotFound
        }
        RerunError::NotFailed { .. }
        | RerunError::Settling { .. }
        | RerunError::OfParent { .. }
        | RerunError::Place { .. }
        | RerunError::NothingToDo => Exit::Conflict,
        RerunError::Input(_) => Exit::Usage,
        _ => Exit::Failed,
    };
    exit.error(error.to_string())
}
