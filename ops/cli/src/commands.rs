//! The commands, one file each.

mod bench;
mod chaos;
mod completions;
mod demo;
mod dev;
mod doctor;
mod import;
mod migrate;
mod postgres;
mod progress;
mod prune;
mod run;
mod signals;
mod table;
mod worker;
mod workflow;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use crate::Global;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Private Postgres and worker processes to try things with, until Ctrl-C
    Dev(dev::Arguments),
    /// Run sample workflows on a fleet of four, kill a worker on the way, count what came of it
    Demo(demo::Arguments),
    /// Make, undo or look at the database schema
    #[command(subcommand)]
    Migrate(migrate::Command),
    /// Claim and run step jobs, with the handlers echo, sleep, flaky and crash
    Worker(Box<worker::Arguments>),
    /// Publish, check and look at workflows
    #[command(subcommand)]
    Workflow(workflow::Command),
    /// Start runs and look after them
    #[command(subcommand)]
    Run(run::Command),
    /// Check every promise over the whole database
    Doctor(doctor::Arguments),
    /// Delete runs that ended long ago
    Prune(prune::Arguments),
    /// Turn a recorded workflow into a definition
    #[command(subcommand)]
    Import(import::Command),
    /// A private Postgres by itself, for scripts
    #[command(subcommand)]
    Postgres(postgres::Command),
    /// Measure speed and cost
    Bench(bench::Arguments),
    #[command(hide = true)]
    BenchWorker(bench::Worker),
    /// Break everything a fleet stands on, and prove that nothing is lost
    Chaos(chaos::Arguments),
    /// Print a shell's completions
    Completions(completions::Arguments),
}

impl Command {
    /// Run the command; what ends it in another way than an error says so by its code.
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        match self {
            // telemetry and threads of their own
            Self::Worker(arguments) => arguments.run(),
            Self::BenchWorker(arguments) => arguments.run(global),
            command => {
                crate::log_to_stderr();
                let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
                runtime.block_on(command.run_here(global)).map(|()| ExitCode::SUCCESS)
            }
        }
    }

    async fn run_here(self, global: &Global) -> Result<()> {
        match self {
            Self::Dev(arguments) => arguments.run(global).await,
            Self::Demo(arguments) => arguments.run(global).await,
            Self::Migrate(command) => command.run(global).await,
            Self::Worker(arguments) => arguments.run().map(drop),
            Self::Workflow(command) => command.run(global).await,
            Self::Run(command) => command.run(global).await,
            Self::Doctor(arguments) => arguments.run(global).await,
            Self::Prune(arguments) => arguments.run(global).await,
            Self::Import(command) => command.run(global).await,
            Self::Postgres(command) => command.run(global).await,
            Self::Bench(arguments) => arguments.run(global).await,
            Self::BenchWorker(arguments) => arguments.run(global).map(drop),
            Self::Chaos(arguments) => arguments.run(),
            Self::Completions(arguments) => arguments.run(),
        }
    }
}
