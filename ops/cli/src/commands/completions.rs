//! `longshore completions`: what a shell sources to complete our commands.

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The shell
    shell: Shell,
}

impl Arguments {
    pub(crate) fn run(self) -> Result<()> {
        let mut command = crate::Arguments::command();
        clap_complete::generate(
            self.shell,
            &mut command,
            "longshore",
            &mut std::io::stdout(),
        );
        Ok(())
    }
}
