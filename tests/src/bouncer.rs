//! How a PgBouncer of our own is set up: transaction mode, two servers for all who come by it. It refuses what PgBouncer refuses by default.

use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::unistd::{Uid, User};
use sqlx::postgres::PgConnectOptions;

/// Servers that all clients share: fewer than any worker has connections.
const SERVERS: u32 = 2;

/// See the module.
#[derive(Debug)]
pub struct Bouncer {
    /// Where it listens.
    pub address: SocketAddr,
    program: PathBuf,
    config: PathBuf,
    user: Option<String>,
}

impl Bouncer {
    /// Write what it needs into this folder, to stand before this database.
    ///
    /// # Errors
    /// PgBouncer is not installed, or the folder cannot be written.
    pub fn before(direct: &PgConnectOptions, folder: &Path) -> Result<Self> {
        let program = program().context("pgbouncer is not installed")?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let host = direct.get_socket().map_or(PathBuf::from(direct.get_host()), PathBuf::from);
        let database = direct.get_database().context("a URL without a database")?;
        let config = folder.join("pgbouncer.ini");
        // it reads its file as who it is then
        fs::set_permissions(folder, Permissions::from_mode(0o755))?;
        let ini = format!(
            "[databases]\n{database} = host={} port={} dbname={database} user={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\n\
             unix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = {SERVERS}\nmax_client_conn = 1000\n\
             query_wait_timeout = 60\nserver_login_retry = 1\n",
            host.display(),
            direct.get_port(),
            direct.get_username(),
            address.port(),
        );
        fs::write(&config, ini)?;
        // it refuses to run as root, and the socket may be its owner's alone
        let owner = Uid::from_raw(host.metadata().map_or(65_534, |metadata| metadata.uid()));
        let user = match Uid::effective().is_root() {
            true => Some(User::from_uid(owner)?.context("the cluster's owner has no name")?.name),
            false => None,
        };
        Ok(Self { address, program, config, user })
    }

    /// What starts it, any number of times.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(self.user.iter().flat_map(|user| ["-u", user]));
        command.arg("-q").arg(&self.config).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }
}

/// PgBouncer's program, if it is installed. Debian keeps it where only root looks.
pub fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join("pgbouncer")).find(|program| program.is_file())
}
