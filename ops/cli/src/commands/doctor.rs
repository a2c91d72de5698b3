//! `longshore doctor`: every promise checked over the whole database.

use anyhow::Result;
use longshore::exit::Exit;
use longshore_core::doctor;

use crate::Global;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Exit with 1 if a promise is broken
    #[arg(long)]
    strict: bool,
}

impl Arguments {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let report = doctor::examine(&mut global.connect().await?).await?;
        global.output.print(&report, ToString::to_string)?;
        match report.broken().count() {
            broken @ 1.. if self.strict => Err(Exit::Failed.error(format!("{broken} promises are broken"))),
            _ => Ok(()),
        }
    }
}
