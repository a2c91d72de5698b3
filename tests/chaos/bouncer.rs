//! PgBouncer in transaction mode before the fleet: two servers for all who come by it.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use longshore_tests::pooler;
use nix::unistd::{Uid, User};
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
    pub(crate) async fn start(folder: &Path, direct: &PgConnectOptions) -> Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let socket = direct.get_socket().context("the cluster has no socket")?;
        let (user, database) = (direct.get_username(), direct.get_database().unwrap_or("postgres"));
        let own = folder.join("bouncer");
        fs::create_dir(&own)?;
        // it refuses to run as root, and reads its files as who it is then
        fs::set_permissions(&own, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        let (config, users) = (own.join("pgbouncer.ini"), own.join("users.txt"));
        fs::write(&users, format!("\"{user}\" \"\"\n"))?;
        let (host, port) = (socket.display(), direct.get_port());
        fs::write(
            &config,
            format!(
                "[databases]\n{database} = host={host} port={port} dbname={database} user={user}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\nunix_socket_dir =\n\
                 auth_type = trust\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 1000\nquery_wait_timeout = 60\nserver_login_retry = 1\n",
                address.port(),
                users.display()
            ),
        )?;
        let mut command = Command::new(pooler::program().context("pgbouncer is not installed")?);
        if nix::unistd::geteuid().is_root() {
            // the socket is its owner's alone
            let owner = fs::metadata(socket)?.uid();
            let owner = User::from_uid(Uid::from_raw(owner))?.context("the cluster's owner has no name")?;
            command.args(["-u", &owner.name]);
        }
        let log = fs::File::create(folder.join("pgbouncer.log"))?;
        command.arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0).kill_on_drop(true);
        Ok(Self { child: command.spawn().context("pgbouncer does not start")?, address })
    }

    /// End it, and with it its sessions.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.child.kill().await?;
        // Postgres notices at once, yet not at the same instant
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(())
    }
}
