//! `longshore run`: start runs, look at them, send them signals, cancel them, and ask why one is not finished.

mod chosen;
mod context;
mod rerun;
mod watch;

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use clap::Subcommand;
use longshore::exit::Exit;
use longshore_core::{
    explain,
    inspect::{self, AttemptView, ChildView, Filter, RunSummary, RunView, StepView},
    state::RunState,
};
use longshore_enqueuer::{Canceled, Enqueuer, Error, Switched};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::table::{table, time};
use crate::Global;
use chosen::{Chosen, Done};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a run and print its id
    Start(Start),
    /// Runs, the newest first
    List(List),
    /// A run with its steps
    Show {
        /// The run's id
        run: Uuid,
        /// Every recorded attempt, too
        #[arg(long)]
        attempts: bool,
    },
    /// Watch a run to its end; exits with 0 if it completes
    Watch {
        /// The run's id
        run: Uuid,
    },
    /// Pause runs: what is running ends, and nothing starts until they are resumed
    Pause {
        #[command(flatten)]
        chosen: Chosen,
        /// Why, for people
        #[arg(long, default_value = "paused by an operator")]
        reason: String,
    },
    /// Let paused runs go on
    Resume {
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Go on with runs that failed or were canceled, from there
    Retry {
        #[command(flatten)]
        chosen: Chosen,
        /// Say what would run and what is taken as it is, and do nothing
        #[arg(long)]
        plan: bool,
    },
    /// New runs that take over what others gave, but for a node and all that comes after it
    Rerun {
        #[command(flatten)]
        chosen: Chosen,
        #[command(flatten)]
        anew: rerun::Anew,
    },
    /// Cancel runs: nothing of them starts any more
    Cancel {
        #[command(flatten)]
        chosen: Chosen,
        /// Why, for people
        #[arg(long, default_value = "canceled by an operator")]
        reason: String,
    },
    /// Send a signal to a run; one that nobody waits for yet is kept
    Signal {
        /// The run's id
        run: Uuid,
        /// The signal's name
        name: String,
        /// What comes with it, as JSON [default: null]
        payload: Option<String>,
        /// Send at most one signal under this key, whatever is repeated
        #[arg(long)]
        key: Option<String>,
    },
    /// Ask a run one of the queries that its definition names
    Query {
        /// The run's id
        run: Uuid,
        /// The query's name
        name: String,
    },
    /// A run's context, and what changed it
    Context {
        /// The run's id
        run: Uuid,
        /// As it was after this change; 0 is before the first [default: as it is]
        #[arg(long, value_name = "N")]
        at: Option<i32>,
        /// What that change did, line by line
        #[arg(long)]
        diff: bool,
    },
    /// Move the clock of a run in test mode, and of the runs it started, on
    Advance {
        /// The run's id
        run: Uuid,
        /// By how much, such as 1h30m [default: to the next timer]
        #[arg(long, value_name = "DURATION", value_parser = longshore_core::duration::parse)]
        by: Option<Duration>,
    },
    /// Why a run is not finished
    Explain {
        /// The run's id
        run: Uuid,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Start {
    /// The workflow's name
    workflow: String,
    /// The input as JSON [default: {}]
    #[arg(long, value_name = "JSON", conflicts_with = "input_file")]
    input: Option<String>,
    /// A file with the input, or - for stdin
    #[arg(long, value_name = "FILE")]
    input_file: Option<PathBuf>,
    /// Start at most one run under this key, whatever is repeated
    #[arg(long)]
    key: Option<String>,
    /// Not before this time, such as 2030-01-31T09:00:00Z
    #[arg(long, value_name = "TIME")]
    run_at: Option<DateTime<Utc>>,
    /// 0 to 3, 0 first [default: 1]
    #[arg(long, value_parser = clap::value_parser!(i16).range(0..=3))]
    priority: Option<i16>,
    /// The version [default: the latest]
    #[arg(long)]
    version: Option<i32>,
    /// Start it in test mode: a file with the mocks that answer for its nodes, so that no handler runs
    #[arg(long, value_name = "FILE")]
    mocks: Option<PathBuf>,
    /// Watch the run to its end
    #[arg(long)]
    watch: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only runs of this workflow
    #[arg(long)]
    workflow: Option<String>,
    /// Only runs in this state: queued, running, paused, completed, failed or canceled
    #[arg(long)]
    state: Option<RunState>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=i64::from(inspect::MAX_LISTED)))]
    limit: u32,
    /// Only runs started before this one: the last id of a page asks for the next
    #[arg(long, value_name = "RUN")]
    before: Option<Uuid>,
}

#[derive(Serialize)]
struct Started {
    run_id: Uuid,
    created: bool,
}

#[derive(Serialize)]
struct Listed {
    runs: Vec<RunSummary>,
}

#[derive(Serialize)]
struct Shown {
    run: RunView,
    steps: Vec<StepView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<Vec<AttemptView>>,
}

#[derive(Serialize)]
struct Answer {
    run_id: Uuid,
    query: String,
    answer: Value,
}

#[derive(Serialize)]
struct Advanced {
    run_id: Uuid,
    timers: i64,
}

#[derive(Serialize)]
struct SentSignal {
    run_id: Uuid,
    signal_id: i64,
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        match self {
            Self::Start(start) => start.run(global).await,
            Self::List(list) => list.run(global).await,
            Self::Show { run, attempts } => show(global, run, attempts).await,
            Self::Watch { run } => watch::watch(global, run).await,
            Self::Pause { chosen, reason } => pause(global, &chosen, &reason).await,
            Self::Resume { chosen } => resume(global, &chosen).await,
            Self::Retry { chosen, plan } => rerun::retry(global, &chosen, plan).await,
            Self::Rerun { chosen, anew } => rerun::rerun(global, &chosen, &anew).await,
            Self::Cancel { chosen, reason } => cancel(global, &chosen, &reason).await,
            Self::Signal { run, name, payload, key } => signal(global, run, &name, payload, key).await,
            Self::Query { run, name } => {
                let enqueuer = Enqueuer::connect(&global.database_url()?).await?;
                let answer: Value = enqueuer.query(run, &name).await.map_err(refusal)?;
                global.output.print(&Answer { run_id: run, query: name, answer }, |asked| asked.answer.to_string())
            }
            Self::Advance { run, by } => {
                let enqueuer = Enqueuer::connect(&global.database_url()?).await?;
                let timers = enqueuer.advance(run, by).await.map_err(refusal)?;
                let moved = Advanced { run_id: run, timers };
                global.output.print(&moved, |moved| format!("moved the clock of run {run}: {} timers", moved.timers))
            }
            Self::Context { run, at, diff } => context::show(global, run, at, diff).await,
            Self::Explain { run } => {
                let Some(explanation) = explain::explain(&mut global.connect().await?, run).await? else {
                    return Err(missing(run));
                };
                global.output.print(&explanation, ToString::to_string)
            }
        }
    }
}

impl Start {
    async fn run(self, global: &Global) -> Result<()> {
        let input = self.input()?;
        let enqueuer = Enqueuer::connect(&global.database_url()?).await?;
        let mut start = enqueuer.start(&self.workflow, &input);
        if let Some(key) = self.key {
            start = start.key(key);
        }
        if let Some(at) = self.run_at {
            start = start.run_at(at);
        }
        if let Some(priority) = self.priority {
            start = start.priority(priority);
        }
        if let Some(version) = self.version {
            start = start.version(version);
        }
        if let Some(mocks) = &self.mocks {
            start = start.mocks(&read_json(mocks, "mocks")?);
        }
        let started = start.await.map_err(refusal)?;
        let started = Started { run_id: started.id, created: started.created };
        if self.watch {
            return watch::watch(global, started.run_id).await;
        }
        global.output.print(&started, |started| started.run_id.to_string())
    }

    fn input(&self) -> Result<Value> {
        let text = match (&self.input, &self.input_file) {
            (Some(text), _) => text.clone(),
            (None, Some(file)) if file.as_os_str() == "-" => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).context("cannot read stdin")?;
                text
            }
            (None, Some(file)) => return read_json(file, "input"),
            (None, None) => "{}".to_owned(),
        };
        serde_json::from_str(&text).map_err(|error| Exit::Usage.error(format!("the input is not JSON: {error}")))
    }
}

fn read_json(file: &Path, what: &str) -> Result<Value> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let no_json = |error| Exit::Usage.error(format!("{}: the {what} is not JSON: {error}", file.display()));
    serde_json::from_str(&text).map_err(no_json)
}

impl List {
    async fn run(self, global: &Global) -> Result<()> {
        let filter = Filter { workflow: self.workflow, state: self.state, limit: self.limit, before: self.before };
        let listed = Listed { runs: inspect::list(&mut global.connect().await?, &filter).await? };
        global.output.print(&listed, |listed| {
            let row = |run: &RunSummary| {
                [
                    run.run_id.to_string(),
                    format!("{} v{}", run.workflow, run.version),
                    run.state.to_string(),
                    time(run.created_at),
                    watch::seconds(run),
                    run.error.clone().or_else(|| run.key.as_ref().map(|key| format!("key {key}"))).unwrap_or_default(),
                ]
            };
            let rows = listed.runs.iter().map(row).collect();
            table(["run", "workflow", "state", "created", "seconds", ""], &[4], rows)
        })
    }
}

async fn show(global: &Global, run_id: Uuid, attempts: bool) -> Result<()> {
    let mut connection = global.connect().await?;
    let Some(run) = inspect::show(&mut connection, run_id).await? else {
        return Err(missing(run_id));
    };
    let steps = inspect::steps(&mut connection, run_id).await?;
    let attempts = match attempts {
        true => Some(inspect::attempts(&mut connection, run_id).await?),
        false => None,
    };
    global.output.print(&Shown { run, steps, attempts }, Shown::text)
}

impl Shown {
    fn text(&self) -> String {
        let step = |step: &StepView| {
            [
                inspect::place(&step.node, step.frame, step.within.as_deref()),
                step.node_type.clone(),
                step.state.to_string(),
                step.attempts.to_string(),
                step.duration_ms.map_or_else(String::new, |ms| format!("{ms:.1}")),
                step.worker.clone().unwrap_or_default(),
                short(step.error.as_ref()),
            ]
        };
        let headings = ["step", "type", "state", "attempts", "ms", "worker", "error"];
        let steps = table(headings, &[3, 4], self.steps.iter().map(step).collect());
        let mut text = format!("{}\n\n{steps}", watch::text(&self.run));
        if !self.run.children.is_empty() {
            let child = |child: &ChildView| {
                [
                    child.run_id.to_string(),
                    format!("{} v{}", child.workflow, child.version),
                    child.state.to_string(),
                    inspect::place(&child.node, child.frame, None),
                    child.attempt.to_string(),
                    if child.awaited { "" } else { "detached" }.to_owned(),
                ]
            };
            let headings = ["child run", "workflow", "state", "step", "attempt", ""];
            text += &format!("\n\n{}", table(headings, &[4], self.run.children.iter().map(child).collect()));
        }
        if let Some(attempts) = &self.attempts {
            let attempt = |attempt: &AttemptView| {
                [
                    inspect::place(&attempt.node, attempt.frame, attempt.within.as_deref()),
                    attempt.attempt.to_string(),
                    attempt.outcome.to_string(),
                    time(attempt.finished_at),
                    attempt.duration_ms.map_or_else(String::new, |ms| format!("{ms:.1}")),
                    attempt.worker.clone().unwrap_or_default(),
                    short(attempt.error.as_ref()),
                ]
            };
            let headings = ["step", "attempt", "outcome", "finished", "ms", "worker", "error"];
            text += &format!("\n\n{}", table(headings, &[1, 4], attempts.iter().map(attempt).collect()));
        }
        text
    }
}

async fn cancel(global: &Global, chosen: &Chosen, reason: &str) -> Result<()> {
    let enqueuer = Enqueuer::connect(&global.database_url()?).await?;
    let each = async |run_id: Uuid| {
        let (changed, said) = match enqueuer.cancel(run_id).reason(reason).await.map_err(refusal)? {
            Canceled::Canceled => (true, format!("run {run_id} is canceled")),
            Canceled::AlreadyEnded(RunState::Canceled) => (false, format!("run {run_id} was canceled before")),
            Canceled::AlreadyEnded(state) => {
                return Err(Exit::Conflict.error(format!("run {run_id} had {state} before it could be canceled")));
            }
            Canceled::NotFound => return Err(missing(run_id)),
        };
        Ok(Done { run_id, state: Some(RunState::Canceled), changed, plan: None, said })
    };
    chosen.each(global, &[], each).await
}

async fn pause(global: &Global, chosen: &Chosen, reason: &str) -> Result<()> {
    let enqueuer = Enqueuer::connect(&global.database_url()?).await?;
    let each = async |run_id: Uuid| {
        let switched = enqueuer.pause(run_id, reason).await.map_err(refusal)?;
        done(run_id, RunState::Paused, switched, ["is paused", "was paused before"])
    };
    chosen.each(global, &[RunState::Queued, RunState::Running], each).await
}

async fn resume(global: &Global, chosen: &Chosen) -> Result<()> {
    let enqueuer = Enqueuer::connect(&global.database_url()?).await?;
    let each = async |run_id: Uuid| {
        let switched = enqueuer.resume(run_id).await.map_err(refusal)?;
        done(run_id, RunState::Running, switched, ["goes on", "was not paused"])
    };
    chosen.each(global, &[RunState::Paused], each).await
}

fn done(run_id: Uuid, state: RunState, switched: Switched, words: [&str; 2]) -> Result<Done> {
    let (changed, word) = match switched {
        Switched::Changed => (true, words[0]),
        Switched::Already => (false, words[1]),
        Switched::AlreadyEnded(state) => {
            return Err(Exit::Conflict.error(format!("run {run_id} has {state} already")));
        }
        Switched::NotFound => return Err(missing(run_id)),
    };
    Ok(Done { run_id, state: Some(state), changed, plan: None, said: format!("run {run_id} {word}") })
}

async fn signal(global: &Global, run_id: Uuid, name: &str, payload: Option<String>, key: Option<String>) -> Result<()> {
    let payload: Value = serde_json::from_str(payload.as_deref().unwrap_or("null"))
        .map_err(|error| Exit::Usage.error(format!("the payload is not JSON: {error}")))?;
    let enqueuer = Enqueuer::connect(&global.database_url()?).await?;
    let mut signal = enqueuer.signal(run_id, name, &payload);
    if let Some(key) = key {
        signal = signal.key(key);
    }
    let sent = SentSignal { run_id, signal_id: signal.await.map_err(refusal)? };
    global.output.print(&sent, |sent| format!("sent signal {} to run {run_id}", sent.signal_id))
}

fn missing(run: Uuid) -> anyhow::Error {
    Exit::NotFound.error(format!("there is no run {run}"))
}

/// The enqueuer's error with the exit code for it.
fn refusal(error: Error) -> anyhow::Error {
    let exit = match &error {
        Error::UnknownWorkflow { .. } | Error::UnknownVersion { .. } => Exit::NotFound,
        Error::NotFound { .. } | Error::UnknownQuery { .. } => Exit::NotFound,
        Error::KeyConflict { .. } | Error::RunEnded { .. } | Error::NotATest { .. } => Exit::Conflict,
        Error::InvalidPriority { .. } | Error::InvalidKey { .. } | Error::InvalidSignal { .. } => Exit::Usage,
        Error::MocksInvalid { .. } => Exit::Usage,
        _ => Exit::Failed,
    };
    exit.error(error.to_string())
}

/// An error in a word and a few more.
fn short(error: Option<&Value>) -> String {
    let Some(error) = error else {
        return String::new();
    };
    let part = |name: &str| error[name].as_str().filter(|text| !text.is_empty());
    let parts = [part("name"), part("message"), part("reason")]; // a skipped step has a reason
    let text = parts.into_iter().flatten().collect::<Vec<_>>().join(": ");
    match text.chars().count() {
        0 => error.to_string().chars().take(80).collect(),
        1..=80 => text,
        _ => text.chars().take(79).chain(['…']).collect(),
    }
}
