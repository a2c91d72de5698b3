//! `longshore chaos`: the fault harness, which is a program of its own beside this one. It is built with the tests, not shipped with the operator's binary.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use longshore::exit::Exit;

/// What is handed on, word for word.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// See `longshore chaos --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

impl Arguments {
    pub(crate) fn run(self) -> Result<()> {
        let me = std::env::current_exe().context("cannot tell where this program is")?;
        let harness = me.with_file_name("longshore-chaos");
        if !harness.exists() {
            return Err(Exit::NotFound.error(format!(
                "the fault harness is not beside this program ({}): build it in the repository with `cargo build -p longshore-tests --bin longshore-chaos`, or run ops/chaos there",
                harness.display()
            )));
        }
        // returns only when it fails
        Err(Command::new(&harness).args(self.arguments).exec())
            .with_context(|| format!("cannot start {}", harness.display()))
    }
}
