//! `longshore prune`: deletes runs that ended long ago.

use std::time::Duration;

use anyhow::Result;
use longshore_core::prune;
use serde::Serialize;

use crate::Global;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How long ago a run must have ended, such as 30d; its key is free again then
    #[arg(long, value_name = "DURATION", value_parser = longshore_core::duration::parse)]
    older_than: Duration,
}

#[derive(Serialize)]
struct Pruned {
    runs: u64,
    attempts: u64,
    partitions: u64,
}

impl Arguments {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        global.refuse_pooler().await?;
        let pruned = prune::prune(&global.pool().await?, self.older_than).await?;
        let pruned = Pruned { runs: pruned.runs, attempts: pruned.attempts, partitions: pruned.partitions };
        global.output.print(&pruned, |pruned| {
            format!("pruned {} runs, {} attempts, {} empty months", pruned.runs, pruned.attempts, pruned.partitions)
        })
    }
}
