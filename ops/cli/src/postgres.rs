//! A private Postgres cluster in a folder of its own: made, started, found again and stopped here, never
//! mistaken for another one. `dir/cluster.json` marks the folder as ours and says how to reach the
//! cluster; `dir/data` is Postgres' data folder and `dir/run` its socket folder. Starting and stopping
//! twice is safe, also from two processes at once: both hold `dir/lock`.

mod binaries;
mod embedded;
mod owner;
mod settings;

use std::{
    env,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{ErrorKind, Read, Seek, SeekFrom, Write},
    net::TcpListener,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{errno::Errno, sys::signal::kill, unistd::Pid};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, Executor, PgConnection};

use crate::exit::Exit;
use binaries::Binaries;
use owner::Owner;

pub use embedded::{Embedded, guard};
pub use settings::Listen;

const USER: &str = "longshore";
const DATABASE: &str = "longshore";
/// The port in a socket's file name; nothing listens on it.
const SOCKET_PORT: u16 = 5432;
/// The longest socket path that every supported system accepts, without its closing zero.
const LONGEST_SOCKET_PATH: usize = 103;
const START_WITHIN: &str = "60"; // seconds, for pg_ctl
const STOP_WITHIN: &str = "60";
const START_TRIES: u32 = 3;
const CONNECT_WITHIN: Duration = Duration::from_secs(30);

/// A private cluster in a folder, running or not, or yet to be made.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    owner: Option<Owner>,
}

/// A running cluster.
#[derive(Debug)]
pub struct Started {
    /// The URL of its database.
    pub url: String,
    /// Whether it ran before it was asked to start.
    pub was_running: bool,
}

/// The folder of the Postgres programs that a new cluster is made with.
///
/// # Errors
/// When there are none of version 15 or newer that can be run here: [`Exit::NotFound`].
pub fn programs() -> Result<PathBuf> {
    let owner = Owner::for_this_process()?;
    Ok(Binaries::find(owner.as_ref(), None)?.dir)
}

/// How the cluster is reached, as `cluster.json` keeps it.
#[derive(Debug, Serialize, Deserialize)]
struct Access {
    port: u16,
    /// None: by 127.0.0.1.
    socket_dir: Option<PathBuf>,
    password: String,
}

impl Cluster {
    /// The cluster of a folder, which need not exist yet.
    ///
    /// # Errors
    /// When the path is not text, or the process is root and there is no user to run Postgres as.
    pub fn at(dir: &Path) -> Result<Self> {
        let dir = std::path::absolute(dir).with_context(|| format!("cannot resolve the folder {}", dir.display()))?;
        if dir.to_str().is_none_or(|dir| dir.contains(['\n', '\r'])) {
            return Err(Exit::Usage
                .error(format!("the folder {} has a name that no configuration file can hold", dir.display())));
        }
        let owner = Owner::for_this_process()?;
        Ok(Self { dir, owner })
    }

    /// The folder of the cluster that is used when none is named: `~/.longshore/postgres`; for root, whose
    /// home is closed to the user that runs Postgres, `/var/lib/longshore/postgres`.
    ///
    /// # Errors
    /// When there is no home folder.
    pub fn default_dir() -> Result<PathBuf> {
        if nix::unistd::geteuid().is_root() {
            return Ok(PathBuf::from("/var/lib/longshore/postgres"));
        }
        match env::var_os("HOME").filter(|home| !home.is_empty()) {
            Some(home) => Ok(Path::new(&home).join(".longshore/postgres")),
            None => Err(Exit::Usage.error("HOME is not set: name a folder with --dir")),
        }
    }

    /// The folder of the cluster.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Make the cluster if there is none, start it if it does not run, and wait until its database accepts
    /// connections. Safe to repeat.
    ///
    /// # Errors
    /// When Postgres is not installed, the folder holds something else, is closed to the user that runs
    /// Postgres, or Postgres does not start (with the end of its log).
    pub async fn start(&self, listen: Listen) -> Result<Started> {
        self.claim_dir()?;
        let _lock = self.lock()?;
        if let Some(url) = self.url()? {
            let listens = match self.access()? {
                Some(Access { socket_dir: None, .. }) => Listen::Tcp,
                _ => Listen::Socket,
            };
            if listens != listen {
                return Err(Exit::Conflict.error(format!(
                    "the cluster in {} already runs at {url}: stop it first to have it listen elsewhere",
                    self.dir.display()
                )));
            }
            connect(&url).await?.close().await?;
            return Ok(Started { url, was_running: true });
        }
        let binaries = Binaries::find(self.owner.as_ref(), self.data_version()?)?;
        let password = self.make_data(&binaries)?;
        let access = self.launch(&binaries, listen, password)?;
        let url = access.url(DATABASE);
        make_database(&access).await?;
        connect(&url).await?.close().await?;
        Ok(Started { url, was_running: false })
    }

    /// Stop the cluster: sessions are ended, everything committed is on disk. True when it ran.
    ///
    /// # Errors
    /// When it does not stop within a minute.
    pub fn stop(&self) -> Result<bool> {
        self.stop_how("fast")
    }

    /// Stop the cluster as a crash would: nothing is written any more, and the next start recovers. True when it ran.
    ///
    /// # Errors
    /// When it does not stop within a minute.
    pub fn crash(&self) -> Result<bool> {
        self.stop_how("immediate")
    }

    fn stop_how(&self, mode: &str) -> Result<bool> {
        let Some(access) = self.access()? else {
            return Ok(false);
        };
        let _lock = self.lock()?;
        let ran = self.process()?.is_some();
        if ran {
            let binaries = Binaries::find(self.owner.as_ref(), self.data_version()?)?;
            let output = binaries
                .command("pg_ctl", self.owner.as_ref())
                .arg("-D")
                .arg(self.data())
                .args(["-m", mode, "-w", "-t", STOP_WITHIN, "stop"])
                .output()
                .context("cannot run pg_ctl")?;
            if !output.status.success() && self.process()?.is_some() {
                bail!(
                    "the cluster in {} does not stop: {}",
                    self.dir.display(),
                    String::from_utf8_lossy(&output.stderr).trim()
                );
            }
        }
        if let Some(dir) = access.socket_dir
            && dir != self.run()
        {
            let _ = fs::remove_dir(dir); // only when empty; a start makes it again
        }
        Ok(ran)
    }

    /// The URL of the running cluster's database; none when it does not run.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn url(&self) -> Result<Option<String>> {
        match (self.process()?, self.access()?) {
            (Some(_), Some(access)) => Ok(Some(access.url(DATABASE))),
            _ => Ok(None),
        }
    }

    /// Stop the cluster and delete its folder with all its data.
    ///
    /// # Errors
    /// When the folder is not one of ours, or cannot be deleted.
    pub fn remove(&self) -> Result<()> {
        self.stop_how("immediate")?; // nothing need be written that is deleted next
        if self.is_ours() {
            fs::remove_dir_all(&self.dir).with_context(|| format!("cannot delete {}", self.dir.display()))?;
        }
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn run(&self) -> PathBuf {
        self.dir.join("run")
    }

    fn log(&self) -> PathBuf {
        self.data().join("postgres.log")
    }

    fn is_ours(&self) -> bool {
        self.dir.join("lock").is_file()
    }

    /// Make the folder and mark it, unless it holds something that is not ours.
    fn claim_dir(&self) -> Result<()> {
        if let Some(owner) = &self.owner {
            owner.check_reach(&self.dir)?;
        }
        let mode = match self.owner {
            Some(_) => 0o755, // the owner passes through it to its data, which is 0700
            None => 0o700,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(&self.dir)
            .with_context(|| format!("cannot make the folder {}", self.dir.display()))?;
        let mut inside =
            fs::read_dir(&self.dir).with_context(|| format!("cannot read the folder {}", self.dir.display()))?;
        if !self.is_ours() && inside.next().is_some() {
            return Err(Exit::Conflict.error(format!(
                "the folder {} is not empty and holds no cluster of ours: name another with --dir",
                self.dir.display()
            )));
        }
        Ok(())
    }

    fn lock(&self) -> Result<File> {
        let path = self.dir.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .and_then(|file| file.lock().map(|()| file));
        file.with_context(|| format!("cannot lock {}", path.display()))
    }

    fn access(&self) -> Result<Option<Access>> {
        let path = self.dir.join("cluster.json");
        match fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).map(Some).with_context(|| format!("{} is damaged", path.display()))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// The major version that made the data folder; none when there is no data yet.
    fn data_version(&self) -> Result<Option<u32>> {
        let path = self.data().join("PG_VERSION");
        match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map(Some).with_context(|| format!("{} is damaged", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// The server process of this data folder. A process file left by a crash names a process that is
    /// gone, or one that has nothing to do with us.
    fn process(&self) -> Result<Option<Pid>> {
        let path = self.data().join("postmaster.pid");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let pid = text.lines().next().and_then(|line| line.trim().parse().ok());
        let Some(pid) = pid.filter(|pid| *pid > 1).map(Pid::from_raw) else {
            return Ok(None);
        };
        Ok((kill(pid, None) != Err(Errno::ESRCH) && self.serves(pid)).then_some(pid))
    }

    /// Whether a live process is the server of this data folder: it works in that folder. Where the
    /// system does not tell, its name decides.
    fn serves(&self, pid: Pid) -> bool {
        let process = Path::new("/proc").join(pid.to_string());
        match fs::read_link(process.join("cwd")) {
            Ok(cwd) => fs::canonicalize(self.data()).is_ok_and(|data| data == cwd),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim().starts_with("post"))
            }
            Err(_) if Path::new("/proc/self").exists() => false,
            Err(_) => std::process::Command::new("ps")
                .args(["-o", "comm=", "-p", &pid.to_string()])
                .output()
                .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("post")),
        }
    }

    /// Make the data folder if there is none; the password for TCP.
    fn make_data(&self, binaries: &Binaries) -> Result<String> {
        let known = self.access()?.map(|access| access.password);
        if let (Some(_), Some(password)) = (self.data_version()?, known) {
            return Ok(password);
        }
        let data = self.data();
        if data.exists() {
            bail!("{} is incomplete: delete {} to begin anew", data.display(), self.dir.display());
        }
        let password = uuid::Uuid::new_v4().simple().to_string();
        // Made under another name, so that what a kill leaves half-made is never taken for a cluster.
        let half = self.dir.join("data.new");
        let password_file = self.dir.join("password.new");
        if half.exists() {
            fs::remove_dir_all(&half)?;
        }
        self.make_private_dir(&half)?;
        self.write(&password_file, &password)?;
        let output = binaries
            .command("initdb", self.owner.as_ref())
            .arg("-D")
            .arg(&half)
            .arg("--pwfile")
            .arg(&password_file)
            .args(["--username", USER, "--encoding", "UTF8", "--locale", "C"])
            .args(["--auth-local", "trust", "--auth-host", "scram-sha-256"])
            .output()
            .context("cannot run initdb")?;
        fs::remove_file(&password_file)?;
        if !output.status.success() {
            bail!(
                "initdb could not make a cluster in {}: {}",
                self.dir.display(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        let config = half.join("postgresql.conf");
        let text = fs::read_to_string(&config)?;
        self.write(&config, &format!("{text}\ninclude_if_exists = 'longshore.conf'\n"))?;
        // Before the rename: data without its password would be lost to TCP.
        self.write_access(&Access { port: SOCKET_PORT, socket_dir: None, password: password.clone() })?;
        fs::rename(&half, &data)?;
        Ok(password)
    }

    /// Write the configuration and start the server; where it can be reached.
    fn launch(&self, binaries: &Binaries, listen: Listen, password: String) -> Result<Access> {
        self.disown_stale_process()?;
        let mut access = Access { port: SOCKET_PORT, socket_dir: None, password };
        if listen == Listen::Socket {
            access.socket_dir = Some(self.make_socket_dir()?);
        }
        for attempt in 1.. {
            if listen == Listen::Tcp {
                access.port = free_port()?;
            }
            let socket_dir = access.socket_dir.as_deref();
            let text = settings::text(socket_dir, access.port, settings::shared_buffers_mb());
            self.write(&self.data().join("longshore.conf"), &text)?;
            self.write_access(&access)?;
            let logged = fs::metadata(self.log()).map_or(0, |meta| meta.len());
            let output = binaries
                .command("pg_ctl", self.owner.as_ref())
                .arg("-D")
                .arg(self.data())
                .arg("-l")
                .arg(self.log())
                .args(["-w", "-t", START_WITHIN, "start"])
                .output()
                .context("cannot run pg_ctl")?;
            if output.status.success() {
                break;
            }
            let why = self.log_since(logged);
            // Another took the port meanwhile, or the processes of a killed server are still ending.
            let passing = ["could not bind", "shared memory block"];
            if attempt < START_TRIES && passing.iter().any(|text| why.contains(text)) {
                std::thread::sleep(Duration::from_secs(1));
                continue;
            }
            bail!(
                "Postgres does not start in {}: {}{}",
                self.dir.display(),
                String::from_utf8_lossy(&output.stderr).trim(),
                why
            );
        }
        Ok(access)
    }

    /// The socket folder: `run` inside the cluster's folder, or a short one under the temporary folder
    /// where that path would be too long for a socket. Only its owner and root may enter.
    fn make_socket_dir(&self) -> Result<PathBuf> {
        let inside = self.run();
        let socket = format!("/.s.PGSQL.{SOCKET_PORT}");
        if inside.as_os_str().len() + socket.len() <= LONGEST_SOCKET_PATH {
            if inside.exists() {
                fs::remove_dir_all(&inside)?;
            }
            self.make_private_dir(&inside)?;
            return Ok(inside);
        }
        let dir = temporary_dir("run", self.owner.as_ref())?;
        if let Some(owner) = &self.owner {
            owner.take(&dir)?;
        }
        Ok(dir)
    }

    /// A process file that names a live process which is not our server keeps Postgres from starting.
    /// Naming this process instead (`pg_ctl`'s parent, which Postgres knows to ignore) leaves its check for
    /// processes of the dead server in force; deleting the file would not.
    fn disown_stale_process(&self) -> Result<()> {
        let path = self.data().join("postmaster.pid");
        let Ok(text) = fs::read_to_string(&path) else {
            return Ok(());
        };
        let rest = text.split_once('\n').map_or("", |(_, rest)| rest);
        self.write(&path, &format!("{}\n{rest}", std::process::id()))
    }

    fn make_private_dir(&self, dir: &Path) -> Result<()> {
        let made = DirBuilder::new().mode(0o700).create(dir);
        made.and_then(|()| self.owner.as_ref().map_or(Ok(()), |owner| owner.take(dir)))
            .with_context(|| format!("cannot make the folder {}", dir.display()))
    }

    /// Write a file that the server's user may read and no other, whole or not at all. A symbolic link in
    /// its place is replaced, not followed.
    fn write(&self, path: &Path, text: &str) -> Result<()> {
        write_whole(path, text, self.owner.as_ref()).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The password stays the caller's: the server's user need not read this file.
    fn write_access(&self, access: &Access) -> Result<()> {
        let path = self.dir.join("cluster.json");
        write_whole(&path, &serde_json::to_string(access)?, None)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn log_since(&self, offset: u64) -> String {
        let mut text = String::new();
        if let Ok(mut file) = File::open(self.log())
            && file.seek(SeekFrom::Start(offset)).is_ok()
        {
            let _ = file.take(8192).read_to_string(&mut text); // a log that cannot be read adds nothing
        }
        match text.trim() {
            "" => text,
            log => format!("\n{log}"),
        }
    }
}

impl Access {
    fn url(&self, database: &str) -> String {
        match &self.socket_dir {
            Some(dir) => format!("postgres:///{database}?host={}&port={}&user={USER}", encoded(dir), self.port),
            None => format!("postgres://{USER}:{}@127.0.0.1:{}/{database}", self.password, self.port),
        }
    }
}

/// A path inside a URL's query: everything but letters, digits, `/`, `-`, `_`, `.` is percent-encoded.
fn encoded(path: &Path) -> String {
    path.as_os_str()
        .as_encoded_bytes()
        .iter()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => char::from(*byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// A new folder under the temporary folder, or under `/tmp` where that is too deep or closed to `owner`.
fn temporary_dir(name: &str, owner: Option<&Owner>) -> Result<PathBuf> {
    let mut base = env::temp_dir();
    let reachable = owner.is_none_or(|owner| owner.check_reach(&base).is_ok());
    if base.as_os_str().len() > 60 || !reachable {
        base = PathBuf::from("/tmp");
    }
    nix::unistd::mkdtemp(&base.join(format!("longshore-{name}-XXXXXX")))
        .with_context(|| format!("cannot make a folder in {}", base.display()))
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("no free port on 127.0.0.1")?;
    Ok(listener.local_addr()?.port())
}

fn write_whole(path: &Path, text: &str, owner: Option<&Owner>) -> std::io::Result<()> {
    let half = path.with_added_extension("tmp");
    let _ = fs::remove_file(&half); // what an earlier kill left
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&half)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    if let Some(owner) = owner {
        owner.take(&half)?;
    }
    fs::rename(&half, path)
}

async fn connect(url: &str) -> Result<PgConnection> {
    let connection = tokio::time::timeout(CONNECT_WITHIN, PgConnection::connect(url)).await;
    connection
        .with_context(|| format!("no answer within {} s", CONNECT_WITHIN.as_secs()))
        .and_then(|connection| Ok(connection?))
        .with_context(|| format!("cannot connect to {url}"))
}

async fn make_database(access: &Access) -> Result<()> {
    let mut connection = connect(&access.url("postgres")).await?;
    let known: Option<i32> = sqlx::query_scalar("select 1 from pg_database where datname = $1")
        .bind(DATABASE)
        .fetch_optional(&mut connection)
        .await?;
    if known.is_none() {
        let statement = format!("create database {DATABASE}");
        connection.execute(statement.as_str()).await?;
    }
    connection.close().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_socket_url_survives_odd_folder_names() {
        let access =
            Access { port: 5432, socket_dir: Some(PathBuf::from("/tmp/a b&c=d/run")), password: String::new() };
        let url = access.url("longshore");
        assert_eq!(url, "postgres:///longshore?host=/tmp/a%20b%26c%3Dd/run&port=5432&user=longshore");
        let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
        assert_eq!(options.get_socket().map(PathBuf::as_path), access.socket_dir.as_deref());
        assert_eq!(options.get_username(), "longshore");
        assert_eq!(options.get_database(), Some("longshore"));
    }

    #[test]
    fn a_folder_with_other_things_in_it_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("PG_VERSION"), "15").unwrap();
        let cluster = Cluster { dir: dir.path().to_owned(), owner: None };
        let refused = cluster.claim_dir().unwrap_err();
        assert_eq!(Exit::of(&refused), Exit::Conflict);
        assert!(!dir.path().join("lock").exists());
    }

    #[test]
    fn a_process_file_left_by_a_crash_is_not_a_running_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = Cluster { dir: dir.path().to_owned(), owner: None };
        fs::create_dir(cluster.data()).unwrap();
        // This test's own process lives, but is no server of that folder.
        let file = format!("{}\n{}\n", std::process::id(), cluster.data().display());
        fs::write(cluster.data().join("postmaster.pid"), file).unwrap();
        assert_eq!(cluster.process().unwrap(), None);
        fs::write(cluster.data().join("postmaster.pid"), "garbage").unwrap();
        assert_eq!(cluster.process().unwrap(), None);
    }
}
