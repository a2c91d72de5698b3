//! The commands, one file each.

mod completions;
mod import;
mod postgres;

use anyhow::Result;
use clap::Subcommand;

use crate::Global;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A private Postgres by itself, for scripts
    #[command(subcommand)]
    Postgres(postgres::Command),
    /// Turn a recorded workflow into a definition
    #[command(subcommand)]
    Import(import::Command),
    /// Print a shell's completions
    Completions(completions::Arguments),
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        match self {
            Self::Postgres(command) => command.run(global).await,
            Self::Import(command) => command.run(global),
            Self::Completions(arguments) => arguments.run(),
        }
    }
}
