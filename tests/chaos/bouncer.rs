//! PgBouncer before the fleet, as one of its faults.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use longshore_tests::bouncer;
use sqlx::postgres::PgConnectOptions;
use tokio::process::{Child, Command};

/// See the module. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Bouncer {
    child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Bouncer {
    /// Start it before this database.
    pub(crate) fn start(folder: &Path, direct: &PgConnectOptions) -> Result<Self> {
        let own = folder.join("bouncer");
        fs::create_dir(&own)?;
        let bouncer = bouncer::Bouncer::before(direct, &own)?;
        let mut command = Command::from(bouncer.command());
        command.stderr(fs::File::create(folder.join("pgbouncer.log"))?).process_group(0).kill_on_drop(true);
        Ok(Self { child: command.spawn().context("pgbouncer does not start")?, address: bouncer.address })
    }

    /// End it, and with it its sessions.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.child.kill().await?;
        // Postgres notices at once, yet not at the same instant
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(())
    }
}
