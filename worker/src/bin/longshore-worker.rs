//! A worker with the built-in handlers `echo`, `sleep`, `flaky` and `crash`.

use std::process::ExitCode;

use clap::Parser;
use longshore_worker::args::WorkerArgs;
use longshore_worker::builtin::builtin;

/// Claim and run step jobs of Longshore workflows.
#[derive(Parser)]
#[command(version)]
struct Command {
    #[command(flatten)]
    worker: WorkerArgs,
}

fn main() -> anyhow::Result<ExitCode> {
    longshore_worker::run(Command::parse().worker, builtin(), std::future::pending())
}
