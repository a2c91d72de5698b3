//! `longshore demo`: real graphs on four worker processes, one of them killed on the way, and the books checked afterwards.
//! This file says what is run; `drive` runs it, `books` counts what came of it.

mod books;
mod drive;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use longshore::{
    exit::Exit,
    postgres::Listen,
    samples::{self, Sample},
    stage::{Plan, Stage},
    wfcommons::{self, Graph},
};
use serde_json::json;

use super::{progress::Progress, signals::Leave};
use crate::Global;
use books::Books;

/// Short, so that what a killed worker held is soon taken over.
const LEASE: &str = "2s";
/// Slots for the one queue that the demo's workflows use. Few, since steps lost together run again one at a time in each worker.
const QUEUE: &str = "default=25";
const GRACE: &str = "5s";
/// Beyond their grace, workers may take so long to leave.
const STOP_WITHIN: Duration = Duration::from_secs(12);
/// The longest a file's critical path is slept for.
const CRITICAL_PATH_SECONDS: f64 = 5.0;
/// A graph with fewer tasks is started several times, so that every worker has something to do.
const FEW_TASKS: usize = 40;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Clean up at the end and exit with 0 only if all went well, instead of staying up
    #[arg(long)]
    once: bool,
    /// How many worker processes there are
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(2..=16))]
    workers: u8,
    /// Keep the workers' logs in this folder
    #[arg(long, value_name = "FOLDER")]
    logs: Option<PathBuf>,
    /// WfCommons files to import and run instead of the samples
    files: Vec<PathBuf>,
}

impl Arguments {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let mut leave = Leave::new()?;
        let samples = match &self.files[..] {
            [] => samples::all()?,
            files => imported(files)?,
        };
        let longshore = std::env::current_exe().context("cannot find this program")?;
        let plan = self.plan();
        let mut stage = tokio::select! {
            stage = Stage::set_up(&plan, &longshore) => stage?,
            () = leave.told() => return Err(told_to_leave()),
        };
        let books = tokio::select! {
            books = drive::drive(&mut stage, &samples) => books,
            () = leave.told() => Err(told_to_leave()),
        };
        let shown = match &books {
            Ok(books) => global.output.print(books, Books::text),
            Err(_) => Ok(()),
        };
        if !self.once && books.is_ok() {
            stay_up(&stage, &mut leave).await;
        }
        let killed = stage.stop(STOP_WITHIN).await?;
        shown?;
        let mut wrong = books?.wrong();
        if killed > 0 {
            wrong.push(format!("{killed} workers did not leave when told to"));
        }
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(Exit::Failed.error(format!("the demo did not show what it should: {}", wrong.join("; ")))),
        }
    }

    fn plan(&self) -> Plan {
        Plan {
            dir: None,
            listen: Listen::Socket,
            workers: self.workers.into(),
            worker_arguments: ["--queue", QUEUE, "--lease", LEASE, "--grace", GRACE].map(str::to_owned).to_vec(),
            logs: self.logs.clone(),
        }
    }
}

/// The graphs of these files, slept for as long as they ran, or shorter where that would take too long.
fn imported(files: &[PathBuf]) -> Result<Vec<Sample>> {
    let mut samples: Vec<Sample> = Vec::new();
    for file in files {
        let graph = Graph::read(file)?;
        let mut name = wfcommons::name_of(file);
        let taken = samples.iter().filter(|sample| sample.name() == name).count();
        if taken > 0 {
            name = format!("{name}-{}", samples.len() + 1); // the same file name in two folders
        }
        let definition = graph.definition(&name, graph.scale_to(CRITICAL_PATH_SECONDS));
        samples.push(Sample::new(definition, vec![json!({}); FEW_TASKS.div_ceil(graph.tasks())]));
    }
    Ok(samples)
}

async fn stay_up(stage: &Stage, leave: &mut Leave) {
    let progress = Progress::new();
    for (name, url) in stage.metrics() {
        progress.say(&format!("{name}: {url}"));
    }
    progress.say(&format!("database: {}", stage.url()));
    progress.say("all of it stays up until Ctrl-C");
    leave.told().await;
}

fn told_to_leave() -> anyhow::Error {
    Exit::Failed.error("stopped before the end")
}
