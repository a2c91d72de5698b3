//! Real worker processes for one test: the binary of this build, each with its log, signalled and killed by its id. They end with the test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::fleet::PATIENCE;
use crate::http;

/// How a worker process is started.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// Queues as on the command line, such as `default=10`.
    pub queues: Vec<String>,
    /// Its lease.
    pub lease: Duration,
    /// Its grace.
    pub grace: Duration,
    /// Its URL leads through a pooler.
    pub pooled: bool,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            queues: vec!["default=10".into()],
            lease: Duration::from_secs(1),
            grace: Duration::from_secs(10),
            pooled: false,
        }
    }
}

/// A worker process; killed when dropped.
#[derive(Debug)]
pub struct WorkerProcess {
    child: Child,
    folder: TempDir,
}

impl WorkerProcess {
    /// Start the worker of this build on this database. It is not waited for.
    pub fn spawn(url: &str, options: &WorkerOptions) -> Self {
        Self::spawn_with(url, options, &[])
    }

    /// The same with these variables in its environment.
    pub fn spawn_with(url: &str, options: &WorkerOptions, environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(folder.path().join("log")).unwrap();
        let seconds = |duration: Duration| format!("{}ms", duration.as_millis());
        let mut command = Command::new(binary());
        command
            .env("LONGSHORE_DATABASE_URL", url)
            .env("LONGSHORE_LOG", "info")
            .envs(environment.iter().copied())
            .args(["--no-system-lane", "--lease", &seconds(options.lease), "--grace", &seconds(options.grace)])
            .arg("--address-file")
            .arg(folder.path().join("address"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file);
        if options.pooled {
            command.arg("--pooled");
        }
        for queue in &options.queues {
            command.args(["--queue", queue]);
        }
        let child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", binary().display()));
        Self { child, folder }
    }

    /// Start a worker and await that it claims and listens.
    pub async fn start(url: &str, options: &WorkerOptions) -> Self {
        let worker = Self::spawn(url, options);
        worker.address().await;
        worker
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Await this text in its log.
    pub async fn says(&self, text: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            assert!(Instant::now() < until, "the worker never said {text:?}:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Where it serves metrics and health: awaits that it does.
    pub async fn address(&self) -> SocketAddr {
        let until = Instant::now() + PATIENCE;
        loop {
            match std::fs::read_to_string(self.folder.path().join("address")) {
                Ok(address) => return address.parse().unwrap(),
                Err(_) if Instant::now() < until => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => panic!("the worker serves nothing, {error}:\n{}", self.log()),
            }
        }
    }

    /// Send a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Kill it without a word and await that it is gone.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Await that it ends by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "the worker did not end:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ask it to leave and await that it did, well.
    pub async fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.ended().await;
        assert!(status.success(), "{status}:\n{}", self.log());
    }

    /// The status and body of one of its pages.
    pub async fn get(&self, path: &str) -> (u16, String) {
        http::get(self.address().await, path).await.unwrap()
    }

    /// A counter or gauge it exports: the sum over all label sets that contain `labels`. 0 without any.
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        metric(&self.get("/metrics").await.1, name, labels)
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The sum of the samples of a metric over all label sets that contain `labels`.
pub fn metric(page: &str, name: &str, labels: &str) -> f64 {
    let samples = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (set, value) = rest.rsplit_once(' ')?;
        ((set.is_empty() || set.starts_with('{')) && set.contains(labels)).then(|| value.parse::<f64>().unwrap())
    });
    samples.sum()
}

/// The worker's binary beside this test's. Cargo brings it up to date where it is missing or older than the test: it would be another worker's.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let folder = test.parent().and_then(Path::parent).unwrap(); // target/debug/deps/test
        let binary = folder.join("longshore-worker");
        let made = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
        if made(&binary) < made(&test) {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut build = Command::new(cargo);
            build.args(["build", "-p", "longshore-worker", "--bin", "longshore-worker"]);
            // what describes this test's package would make build scripts run again, and half of the dependencies with them
            for (name, _) in std::env::vars_os() {
                let name = name.to_string_lossy();
                if name.starts_with("CARGO_") && name != "CARGO_HOME" {
                    build.env_remove(&*name);
                }
            }
            build.env("CARGO_TARGET_DIR", folder.parent().unwrap());
            if folder.ends_with("release") {
                build.arg("--release");
            }
            assert!(build.status().unwrap().success(), "the worker does not build");
        }
        binary
    })
}
