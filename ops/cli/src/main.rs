//! The operator's binary. `main` reads the arguments, runs one command and turns its error into a line on
//! stderr and an exit code; each command is a file under `commands/`.

#![allow(clippy::print_stderr)] // where a command line says what went wrong

mod commands;
mod output;

use std::process::ExitCode;

use clap::Parser;
use longshore::exit::Exit;
use tracing_subscriber::EnvFilter;

use commands::Command;
use output::Format;

/// Durable workflow runs on plain Postgres.
#[derive(Debug, Parser)]
#[command(name = "longshore", version, max_term_width = 100)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, clap::Args)]
struct Global {
    /// Postgres, as postgres://user@host/database; DATABASE_URL serves too.
    #[arg(long, global = true, value_name = "URL", env = "LONGSHORE_DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    /// How results are printed.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    output: Format,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn")))
        .with_writer(std::io::stderr)
        .init();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("longshore: {error:#}");
            Exit::of(&error).into()
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(arguments.command.run(&arguments.global))
}
