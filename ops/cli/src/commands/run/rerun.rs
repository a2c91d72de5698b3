//! `longshore run retry` and `run rerun`, of one run or of many: what would run, and then that.

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
            plan: Some(done),
        })
    };
    chosen.each(global, &[RunState::Failed], each).await
}

/// What is to be run anew, as it was asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Anew {
    /// The node that runs again; within blocks and child runs its place, such as `each[3]/charge`
    #[arg(long, value_name = "NODE")]
    from: String,
    /// Another input as JSON [default: that of the run]
    #[arg(long, value_name = "JSON")]
    input: Option<String>,
    /// Another version, or `latest` [default: that of the run]
    #[arg(long)]
    version: Option<String>,
    /// Say what would run and what is taken as it is, and do nothing
    #[arg(long)]
    plan: bool,
}

pub(super) async fn rerun(global: &Global, chosen: &Chosen, anew: &Anew) -> Result<()> {
    let enqueuer = Enqueuer::connect(&global.database_url()?).await?;
    let input: Option<Value> = anew
        .input
        .as_deref()
        .map(serde_json::from_str)
        .transpose()
        .map_err(|error| Exit::Usage.error(format!("the input is not JSON: {error}")))?;
    let version = match anew.version.as_deref() {
        None => None,
        Some("latest") => Some(Version::Latest),
        Some(number) => Some(Version::Number(
            number.parse().map_err(|_| Exit::Usage.error("a version is a number or `latest`".to_owned()))?,
        )),
    };
    let one = async |run: Uuid| {
        let mut rerun = enqueuer.rerun(run, &anew.from);
        if let Some(input) = &input {
            rerun = rerun.input(input);
        }
        if let Some(version) = version {
            rerun = rerun.version(version);
        }
        if anew.plan { rerun.plan().await } else { rerun.await }.map_err(refusal)
    };
    if let ([run], false) = (chosen.runs.as_slice(), chosen.dry_run) {
        let done = one(*run).await?;
        return global.output.print(&done, |done| match done.run_id {
            Some(run) => format!("{run}\n{}", text(done)),
            None => text(done),
        });
    }
    let each = async |run_id: Uuid| {
        let done = one(run_id).await?;
        let said = match done.run_id {
            Some(new) => format!("run {run_id} is run anew as {new}\n{}", text(&done)),
            None => format!("run {run_id} would be run anew\n{}", text(&done)),
        };
        Ok(Done { run_id, state: None, changed: done.run_id.is_some(), plan: Some(done), said })
    };
    chosen.each(global, &[], each).await
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
        | RerunError::Context(_)
        | RerunError::NothingToDo => Exit::Conflict,
        RerunError::Input(_) => Exit::Usage,
        _ => Exit::Failed,
    };
    exit.error(error.to_string())
}
