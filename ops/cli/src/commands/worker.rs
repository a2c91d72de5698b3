//! `longshore worker`: the same process as `longshore-worker`, with its arguments.

use std::{io::Read, process::ExitCode};

use anyhow::Result;
use longshore_worker::{args::WorkerArgs, builtin::builtin};
use tokio::sync::oneshot;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    worker: WorkerArgs,
    /// Leave when stdin ends, as it does when the process that holds its other end is gone
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

impl Arguments {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let holder_leaves = self.until_stdin_closes;
        longshore_worker::run(self.worker, builtin(), async move {
            match holder_leaves {
                true => stdin_ends().await,
                false => std::future::pending().await,
            }
        })
    }
}

async fn stdin_ends() {
    let (ended, told) = oneshot::channel();
    // A thread of its own, which does not keep the process from ending.
    let reader = std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut buffer = [0; 64];
        while std::io::stdin().read(&mut buffer).is_ok_and(|read| read > 0) {}
        let _ = ended.send(()); // nobody waits any more: it leaves already
    });
    if reader.is_err() || told.await.is_err() {
        std::future::pending().await
    }
}
