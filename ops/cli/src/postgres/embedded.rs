//! A cluster that lives as long as the command that started it. A guard process holds the other end of a
//! pipe; when the command ends, however it ends, the pipe closes and the guard stops the cluster, and
//! deletes an ephemeral one. So there is one way out, and `kill -9` takes it too.

use std::{
    io::Read,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};

use super::{Cluster, Listen, Owner, temporary_dir};

/// A running cluster that stops when this value, or the process that holds it, goes away.
#[derive(Debug)]
pub struct Embedded {
    url: String,
    dir: PathBuf,
    /// None when the cluster ran before: then it is left running.
    guard: Option<Child>,
}

impl Embedded {
    /// Start the cluster in `dir`; without one, a new cluster that is deleted at the end. `longshore` is
    /// the operator's binary, which the guard is a process of.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub async fn start(dir: Option<&Path>, listen: Listen, longshore: &Path) -> Result<Self> {
        let cluster = match dir {
            Some(dir) => Cluster::at(dir)?,
            None => Cluster::at(&ephemeral_dir()?)?,
        };
        let was_running = cluster.url()?.is_some();
        // The guard first: from here on nothing is left behind.
        let guard = match was_running {
            true => None,
            false => Some(spawn_guard(cluster.dir(), dir.is_none(), longshore)?),
        };
        let mut embedded = Self { url: String::new(), dir: cluster.dir().to_owned(), guard };
        embedded.url = cluster.start(listen).await?.url;
        Ok(embedded)
    }

    /// The URL of its database.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The folder of the cluster.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            let _ = guard.wait(); // it has said on stderr what went wrong
        }
    }
}

/// The guard's work: wait until the command that started it is gone, then stop the cluster and, if so
/// told, delete it.
///
/// # Errors
/// As [`Cluster::stop`] and [`Cluster::remove`].
pub fn guard(dir: &Path, remove: bool) -> Result<()> {
    let mut buffer = [0; 64];
    let mut pipe = std::io::stdin().lock();
    while pipe.read(&mut buffer).is_ok_and(|read| read > 0) {}
    let cluster = Cluster::at(dir)?;
    match remove {
        true => cluster.remove(),
        false => cluster.stop().map(drop),
    }
}

fn ephemeral_dir() -> Result<PathBuf> {
    let owner = Owner::for_this_process()?;
    let dir = temporary_dir("pg", owner.as_ref())?;
    if owner.is_some() {
        // The server's user passes through it to its data.
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(dir)
}

fn spawn_guard(dir: &Path, remove: bool, longshore: &Path) -> Result<Child> {
    let mut command = Command::new(longshore);
    command.args(["postgres", "guard", "--dir"]).arg(dir);
    if remove {
        command.arg("--remove");
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null()) // a reader of the command's output must see its end
        .process_group(0) // Ctrl-C on the terminal is for the command, not for its guard
        .spawn()
        .with_context(|| format!("cannot start a guard for the cluster in {}", dir.display()))
}
