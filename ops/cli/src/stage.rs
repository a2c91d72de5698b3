//! An embedded Postgres with our schema and worker processes on it, set up in one call: what `dev` and `demo` stand on, and tests may.
//! The worker processes go first and the cluster after them, however the process that holds this ends.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use longshore_core::{database, migrate};
use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, sleep};

use crate::{
    postgres::{Embedded, Listen},
    process::{Fleet, WorkerCommand, WorkerProcess},
};

/// How long the workers may take to start.
const START_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What to set up.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The cluster's folder; without one, a new cluster that is deleted at the end.
    pub dir: Option<PathBuf>,
    /// How the cluster is reached.
    pub listen: Listen,
    /// How many worker processes there are.
    pub workers: usize,
    /// What each worker is told beyond its name, its database and its log.
    pub worker_arguments: Vec<String>,
    /// The folder of the workers' logs; one in the cluster's folder without it.
    pub logs: Option<PathBuf>,
}

/// A running Postgres and its workers.
#[derive(Debug)]
pub struct Stage {
    // before the cluster, so that it is dropped before it
    fleet: Fleet,
    embedded: Embedded,
    logs: PathBuf,
}

impl Stage {
    /// Start Postgres, bring its schema up to date and start the workers, which claim when this returns. `longshore` is the operator's binary,
    /// which the workers are processes of.
    ///
    /// # Errors
    /// When Postgres does not start, the schema cannot be made, or a worker ends at once (with the end of its log).
    pub async fn set_up(plan: &Plan, longshore: &Path) -> Result<Self> {
        let embedded = Embedded::start(plan.dir.as_deref(), plan.listen, longshore).await?;
        let mut connection = PgConnection::connect_with(&database::options(embedded.url())?).await?;
        migrate::up(&mut connection).await?;
        connection.close().await?;
        let logs = plan.logs.clone().unwrap_or_else(|| embedded.dir().join("workers"));
        fs::create_dir_all(&logs).with_context(|| format!("cannot make the folder {}", logs.display()))?;
        forget_addresses(&logs)?;
        let command = WorkerCommand {
            program: longshore.to_owned(),
            arguments: worker_arguments(&logs, &plan.worker_arguments)?,
            environment: vec![("LONGSHORE_DATABASE_URL".to_owned(), embedded.url().to_owned())],
            logs: logs.clone(),
        };
        let mut stage = Self { fleet: Fleet::new(command), embedded, logs };
        for _ in 0..plan.workers {
            stage.spawn()?;
        }
        stage.started().await?;
        Ok(stage)
    }

    /// The URL of the database.
    pub fn url(&self) -> &str {
        self.embedded.url()
    }

    /// The folder of the cluster.
    pub fn dir(&self) -> &Path {
        self.embedded.dir()
    }

    /// The worker processes.
    pub fn fleet(&mut self) -> &mut Fleet {
        &mut self.fleet
    }

    /// Start one more worker; [`Stage::started`] waits for it.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn spawn(&mut self) -> Result<&WorkerProcess> {
        self.fleet.spawn()
    }

    /// Wait until every worker claims.
    ///
    /// # Errors
    /// When one ends instead (with the end of its log), or takes longer than 30 s.
    pub async fn started(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_WITHIN;
        while self.metrics().len() < self.fleet.workers().len() {
            if let Some((worker, status)) = self.fleet.take_ended()?.first() {
                bail!("{} ended with {status} when it started:\n{}", worker.name(), worker.log_end());
            }
            if Instant::now() > deadline {
                bail!("the workers do not start within {} s: see {}", START_WITHIN.as_secs(), self.logs.display());
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// The URLs of the metrics of the workers that run, by name.
    pub fn metrics(&self) -> Vec<(String, String)> {
        let url = |worker: &WorkerProcess| {
            let address = fs::read_to_string(address_file(&self.logs, worker.name())).ok()?;
            Some((worker.name().to_owned(), format!("http://{address}/metrics")))
        };
        self.fleet.workers().iter().filter_map(url).collect()
    }

    /// Stop the workers in order, killing those that have not left within `grace`, then the cluster. Returns how many had to be killed.
    ///
    /// # Errors
    /// When a worker cannot be signalled.
    pub async fn stop(mut self, grace: Duration) -> Result<usize> {
        self.fleet.stop(grace).await
    }
}

fn worker_arguments(logs: &Path, more: &[String]) -> Result<Vec<String>> {
    let file = address_file(logs, "{name}");
    let file = file.to_str().context("the folder of the logs has a name that is not text")?;
    let own = ["worker", "--until-stdin-closes", "--name", "{name}", "--address-file", file];
    Ok(own.into_iter().map(str::to_owned).chain(more.iter().cloned()).collect())
}

/// Addresses of an earlier fleet in the same folder, whose workers had the same names.
fn forget_addresses(logs: &Path) -> Result<()> {
    for entry in fs::read_dir(logs)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "address") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn address_file(logs: &Path, name: &str) -> PathBuf {
    logs.join(format!("{name}.address"))
}
