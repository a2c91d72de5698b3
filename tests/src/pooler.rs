//! A PgBouncer of its own for one test, in transaction mode with two servers, which can be killed and started again. It refuses what PgBouncer refuses
//! by default, so a test proves what a connection needs. Where none is installed there is none, and the test says so.

use std::fs::Permissions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use nix::unistd::{Uid, User};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, PgPool};
use tempfile::TempDir;

use crate::TestDatabase;
use crate::fleet::PATIENCE;

/// Servers that all clients share: fewer than any worker has connections.
const SERVERS: u32 = 2;

/// See the module; killed when dropped.
#[derive(Debug)]
pub struct Pooler {
    program: PathBuf,
    folder: TempDir,
    port: u16,
    database: String,
    user: Option<String>,
    child: Child,
}

impl Pooler {
    /// A pooler before this database, if PgBouncer is installed.
    pub fn before(database: &TestDatabase) -> Option<Self> {
        let Some(program) = program() else {
            eprintln!("skipped: pgbouncer is not installed");
            return None;
        };
        let upstream = PgConnectOptions::from_str(&database.url).unwrap();
        let host = upstream.get_socket().map_or(PathBuf::from(upstream.get_host()), PathBuf::from);
        let name = upstream.get_database().unwrap().to_owned();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let ini = format!(
            "[databases]\n{name} = host={} port={} dbname={name} user={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = {SERVERS}\nmax_client_conn = 1000\n\
             server_login_retry = 1\n",
            host.display(),
            upstream.get_port(),
            upstream.get_username(),
        );
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        std::fs::write(folder.path().join("pgbouncer.ini"), ini).unwrap();
        // root must become somebody else, who may enter the folder of the server's socket
        let owner = host.metadata().map_or(65_534, |metadata| metadata.uid());
        let user = Uid::effective().is_root().then(|| User::from_uid(Uid::from_raw(owner)).unwrap().unwrap().name);
        let child = spawn(&program, &folder, user.as_deref());
        let mut pooler = Self { program, folder, port, database: name, user, child };
        pooler.answers();
        Some(pooler)
    }

    /// How to reach the database through it.
    pub fn url(&self) -> String {
        format!("postgres://longshore@127.0.0.1:{}/{}", self.port, self.database)
    }

    /// A pool as an application would make it.
    pub async fn pool(&self) -> PgPool {
        let options = PgConnectOptions::from_str(&self.url()).unwrap().extra_float_digits(None);
        PgPoolOptions::new().max_connections(8).connect_with(options.disable_statement_logging()).await.unwrap()
    }

    /// Kill it without a word: every connection through it is cut, wherever it was.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Start it again, at the same address.
    pub fn start_again(&mut self) {
        self.child = spawn(&self.program, &self.folder, self.user.as_deref());
        self.answers();
    }

    fn answers(&mut self) {
        let until = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if self.child.try_wait().unwrap().is_some() || Instant::now() > until {
                let mut said = String::new();
                self.child.kill().ok();
                self.child.stderr.take().unwrap().read_to_string(&mut said).ok();
                panic!("pgbouncer does not answer: {said}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn spawn(program: &PathBuf, folder: &TempDir, user: Option<&str>) -> Child {
    let mut command = Command::new(program);
    if let Some(user) = user {
        command.args(["-u", user]);
    }
    command.arg("-q").arg(folder.path().join("pgbouncer.ini"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// PgBouncer's program, if it is installed. Debian keeps it where only root looks.
pub fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join("pgbouncer")).find(|program| program.is_file())
}
