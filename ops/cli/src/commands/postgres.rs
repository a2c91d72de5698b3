//! `longshore postgres`: the private cluster by itself, for scripts. `start` prints the URL on its last
//! line; all of them may be repeated.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use longshore::{
    exit::Exit,
    postgres::{self, Cluster, Listen},
};
use serde::Serialize;

use crate::Global;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the cluster if there is none, start it, print its URL
    Start {
        #[command(flatten)]
        place: Place,
        /// Listen on 127.0.0.1 with a password instead of on a Unix socket
        #[arg(long)]
        tcp: bool,
    },
    /// Stop the cluster
    Stop {
        #[command(flatten)]
        place: Place,
        /// Delete the cluster and all its data
        #[arg(long)]
        remove: bool,
    },
    /// Print the URL of the running cluster
    Url(Place),
    /// Print the folder of the Postgres programs that are used
    Where,
    /// Stop the cluster when the command that started this process is gone
    #[command(hide = true)]
    Guard {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        remove: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// The cluster's folder [default: ~/.longshore/postgres, for root /var/lib/longshore/postgres]
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

#[derive(Serialize)]
struct Running {
    url: String,
    dir: PathBuf,
}

#[derive(Serialize)]
struct Stopped {
    was_running: bool,
    dir: PathBuf,
}

#[derive(Serialize)]
struct Programs {
    programs: PathBuf,
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        match self {
            Self::Start { place, tcp } => {
                let cluster = place.cluster()?;
                let listen = match tcp {
                    true => Listen::Tcp,
                    false => Listen::Socket,
                };
                let started = cluster.start(listen).await?;
                let dir = cluster.dir().to_owned();
                let running = Running { url: started.url, dir };
                global.output.print(&running, |running| running.url.clone())
            }
            Self::Stop { place, remove } => {
                let cluster = place.cluster()?;
                let was_running = cluster.stop()?;
                if remove {
                    cluster.remove()?;
                }
                let dir = cluster.dir().to_owned();
                let stopped = Stopped { was_running, dir };
                global.output.print(&stopped, |stopped| {
                    let what = if stopped.was_running { "stopped" } else { "was not running" };
                    format!("the cluster in {} {what}", stopped.dir.display())
                })
            }
            Self::Url(place) => {
                let cluster = place.cluster()?;
                let dir = cluster.dir().to_owned();
                match cluster.url()? {
                    Some(url) => global.output.print(&Running { url, dir }, |running| running.url.clone()),
                    None => Err(Exit::NotFound.error(format!(
                        "no cluster runs in {}: start it with `longshore postgres start`",
                        dir.display()
                    ))),
                }
            }
            Self::Where => {
                let programs = Programs { programs: postgres::programs()? };
                global.output.print(&programs, |found| found.programs.display().to_string())
            }
            Self::Guard { place, remove } => postgres::guard(place.cluster()?.dir(), remove),
        }
    }
}

impl Place {
    fn cluster(&self) -> Result<Cluster> {
        match &self.dir {
            Some(dir) => Cluster::at(dir),
            None => Cluster::at(&Cluster::default_dir()?),
        }
    }
}
