//! `longshore dev`: a private Postgres and worker processes to try things with, until Ctrl-C.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use longshore::{
    postgres::{Cluster, Listen},
    stage::{Plan, Stage},
};
use serde::Serialize;

use super::{progress::Progress, signals::Leave};
use crate::{Global, output::Format};

const GRACE: &str = "5s";
/// Beyond their grace, workers may take so long to leave.
const STOP_WITHIN: Duration = Duration::from_secs(12);
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many worker processes there are
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=16))]
    workers: u8,
    /// The cluster's folder [default: ~/.longshore/postgres, for root /var/lib/longshore/postgres]
    #[arg(long, value_name = "FOLDER", conflicts_with = "ephemeral")]
    dir: Option<PathBuf>,
    /// A new cluster, deleted at the end
    #[arg(long)]
    ephemeral: bool,
    /// Listen on 127.0.0.1 with a password instead of on a Unix socket
    #[arg(long)]
    tcp: bool,
}

#[derive(Serialize)]
struct Running {
    database_url: String,
    dir: PathBuf,
    workers: Vec<Worker>,
}

#[derive(Serialize)]
struct Worker {
    name: String,
    metrics_url: String,
}

impl Arguments {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let mut leave = Leave::new()?;
        let dir = match (self.ephemeral, self.dir) {
            (true, _) => None,
            (false, Some(dir)) => Some(dir),
            (false, None) => Some(Cluster::default_dir()?),
        };
        let plan = Plan {
            dir,
            listen: if self.tcp { Listen::Tcp } else { Listen::Socket },
            workers: self.workers.into(),
            worker_arguments: ["--all-queues", "--grace", GRACE].map(str::to_owned).to_vec(),
            logs: None,
        };
        let longshore = std::env::current_exe().context("cannot find this program")?;
        let mut stage = tokio::select! {
            stage = Stage::set_up(&plan, &longshore) => stage?,
            () = leave.told() => return Ok(()),
        };
        let running = Running {
            database_url: stage.url().to_owned(),
            dir: stage.dir().to_owned(),
            workers: stage.metrics().into_iter().map(|(name, metrics_url)| Worker { name, metrics_url }).collect(),
        };
        global.output.print(&running, Running::text)?;
        let ended = tokio::select! {
            ended = keep_up(&mut stage) => ended,
            () = leave.told() => Ok(()),
        };
        if global.output == Format::Text {
            Progress::new().say("stopping");
        }
        stage.stop(STOP_WITHIN).await?;
        ended
    }
}

impl Running {
    fn text(&self) -> String {
        let mut text = format!("Postgres runs in {}\n", self.dir.display());
        for worker in &self.workers {
            text += &format!("{} runs, its metrics are at {}\n", worker.name, worker.metrics_url);
        }
        // without a worker of ours the samples would wait: whoever asks for that has a worker to start
        let next = match self.workers.is_empty() {
            true => "cargo run -p sample-handlers      # or a worker of your own",
            false => {
                "longshore workflow apply ops/samples\n  \
                 longshore run start order --input '{\"order\": 1, \"amount\": 12.5}' --watch\n  \
                 longshore run list\n  \
                 longshore doctor"
            }
        };
        text += &format!(
            "\nIn another terminal:\n\n  \
             export LONGSHORE_DATABASE_URL='{}'\n  \
             {next}\n\n\
             Ctrl-C stops all of it.",
            self.database_url
        );
        text
    }
}

/// Replace workers that end by themselves.
async fn keep_up(stage: &mut Stage) -> Result<()> {
    let progress = Progress::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        for (worker, status) in stage.fleet().take_ended()? {
            progress.say(&format!(
                "{} ended with {status}, another takes its place: {}",
                worker.name(),
                worker.log_end()
            ));
            stage.spawn()?;
        }
    }
}
