//! The operator's binary. `main` reads the arguments, runs one command and turns its error into a line on
//! stderr and an exit code; each command is a file under `commands/`.

#![allow(clippy::print_stderr)] // where a command line says what went wrong

mod commands;
mod output;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory, FromArgMatches, Parser, parser::ValueSource};
use longshore::exit::Exit;
use longshore_core::database;
use sqlx::{Connection, PgConnection, PgPool};
use tracing_subscriber::EnvFilter;

use commands::Command;
use output::Format;

/// Connections of a command that works with several at once.
const CONNECTIONS: u32 = 4;

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
    /// Postgres, as postgres://user@host/database; without it LONGSHORE_DATABASE_URL counts, else DATABASE_URL
    #[arg(long, global = true, value_name = "URL", env = "LONGSHORE_DATABASE_URL", hide_env = true)]
    database_url: Option<String>,
    /// It stands on the command line, and not only in the environment
    #[arg(skip)]
    named: bool,
    /// How results are printed
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    output: Format,
}

impl Global {
    fn database_url(&self) -> Result<String> {
        match self.database_url.clone().filter(|url| !url.is_empty()) {
            Some(url) => Ok(url),
            None => Err(Exit::Usage.error(
                "no database is named: give --database-url, set LONGSHORE_DATABASE_URL or DATABASE_URL, or start a private one with `longshore dev`",
            )),
        }
    }

    /// The database, if the command line names it: for what must not happen on the one that happens to be in the environment.
    fn named_database_url(&self) -> Option<&str> {
        self.database_url.as_deref().filter(|url| self.named && !url.is_empty())
    }

    /// A connection of its own to the database.
    async fn connect(&self) -> Result<PgConnection> {
        let options = database::options(&self.database_url()?)?;
        PgConnection::connect_with(&options).await.context("cannot connect to Postgres")
    }

    /// Fails behind a pooler in transaction mode: for what needs a session, such as the lock of a migration.
    async fn refuse_pooler(&self) -> Result<()> {
        if database::is_pooled(&database::options(&self.database_url()?)?).await? {
            return Err(Exit::Usage.error(
                "this URL leads through a pooler in transaction mode, which keeps no session: give --database-url one past it",
            ));
        }
        Ok(())
    }

    /// A small pool on the database.
    async fn pool(&self) -> Result<PgPool> {
        Ok(database::pool(&self.database_url()?, CONNECTIONS).await?)
    }
}

/// DATABASE_URL, which other tools use, serves where LONGSHORE_DATABASE_URL is not set. A worker's own `--database-url` may also stand before
/// `worker`.
fn command() -> clap::Command {
    let custom = std::env::var_os("LONGSHORE_DATABASE_URL").is_none_or(|url| url.is_empty());
    let url = move |url: clap::Arg| match custom {
        true => url.env("DATABASE_URL").required(false),
        false => url.required(false),
    };
    let command = Arguments::command().mut_arg("database_url", url);
    command.mut_subcommand("worker", |worker| worker.mut_arg("database_url", url))
}

fn main() -> ExitCode {
    let matches = command().get_matches();
    let mut arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    arguments.global.named = matches.value_source("database_url") == Some(ValueSource::CommandLine);
    match arguments.command.run(&arguments.global) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("longshore: {error:#}");
            Exit::of(&error).into()
        }
    }
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("LONGSHORE_LOG").unwrap_or_else(|_| EnvFilter::new("warn,sqlx=error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
