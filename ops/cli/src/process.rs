//! Worker processes of this command: spawned from its own binary, each with a log file, told to stop or
//! killed by id, and replaced on request. They end with this process, however it ends: each reads a pipe
//! that closes then, and takes that as the order to stop.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    time::{Instant, timeout_at},
};

/// How many bytes of a log an error shows.
const LOG_END: usize = 4096;

/// How every worker of a fleet is started.
#[derive(Clone, Debug)]
pub struct WorkerCommand {
    /// The binary, the operator's own.
    pub program: PathBuf,
    /// Its arguments; `{name}` in one stands for the worker's name in the fleet.
    pub arguments: Vec<String>,
    /// Variables added to the environment, such as the database's URL: an argument would show it to
    /// everyone on the machine.
    pub environment: Vec<(String, String)>,
    /// The folder of the log files, which exists.
    pub logs: PathBuf,
}

/// One worker process.
#[derive(Debug)]
pub struct WorkerProcess {
    name: String,
    pid: Pid,
    child: Child,
    log: PathBuf,
}

/// The worker processes of one command.
#[derive(Debug)]
pub struct Fleet {
    command: WorkerCommand,
    workers: Vec<WorkerProcess>,
    spawned: u32,
}

impl Fleet {
    /// A fleet without workers yet.
    pub fn new(command: WorkerCommand) -> Self {
        Self { command, workers: Vec::new(), spawned: 0 }
    }

    /// Start one more worker, named `worker-1`, `worker-2` and so on. It is not waited for.
    ///
    /// # Errors
    /// When the process or its log file cannot be made.
    pub fn spawn(&mut self) -> Result<&WorkerProcess> {
        self.spawned += 1;
        let worker = WorkerProcess::spawn(&self.command, format!("worker-{}", self.spawned))?;
        self.workers.push(worker);
        Ok(&self.workers[self.workers.len() - 1])
    }

    /// The workers that were started and neither killed nor stopped.
    pub fn workers(&self) -> &[WorkerProcess] {
        &self.workers
    }

    /// Kill a worker without warning and wait until it is gone; none when no worker has that id.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(&mut self, pid: u32) -> Result<Option<WorkerProcess>> {
        let Some(place) = self.workers.iter().position(|worker| worker.pid() == pid) else {
            return Ok(None);
        };
        let mut worker = self.workers.remove(place);
        worker.signal(Signal::SIGKILL)?;
        worker.child.wait().await?;
        Ok(Some(worker))
    }

    /// The workers that ended although nobody stopped them, each once.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn take_ended(&mut self) -> Result<Vec<(WorkerProcess, ExitStatus)>> {
        let mut ended = Vec::new();
        let mut place = 0;
        while place < self.workers.len() {
            match self.workers[place].child.try_wait()? {
                Some(status) => ended.push((self.workers.remove(place), status)),
                None => place += 1,
            }
        }
        Ok(ended)
    }

    /// Ask all workers to stop, wait until they have, and kill those that have not within `grace`. Returns
    /// how many had to be killed.
    ///
    /// # Errors
    /// When a worker cannot be signalled.
    pub async fn stop(&mut self, grace: Duration) -> Result<usize> {
        let deadline = Instant::now() + grace;
        for worker in &self.workers {
            worker.signal(Signal::SIGTERM)?;
        }
        let mut killed = 0;
        for mut worker in self.workers.drain(..) {
            if timeout_at(deadline, worker.child.wait()).await.is_err() {
                worker.signal(Signal::SIGKILL)?;
                worker.child.wait().await?;
                killed += 1;
            }
        }
        Ok(killed)
    }
}

impl WorkerProcess {
    fn spawn(command: &WorkerCommand, name: String) -> Result<Self> {
        let log = command.logs.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new(&command.program)
            .args(command.arguments.iter().map(|argument| argument.replace("{name}", &name)))
            .envs(command.environment.iter().cloned())
            .stdin(Stdio::piped()) // held open: its end is the worker's sign that we are gone
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0) // Ctrl-C on the terminal is for this command, which stops them in order
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", command.program.display()))?;
        let pid = child.id().context("the worker ended at once")?;
        Ok(Self { name, pid: Pid::from_raw(i32::try_from(pid)?), child, log })
    }

    /// Its name in this fleet.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// Its log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The end of its log, for an error message; empty when there is none.
    pub fn log_end(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let from = bytes.len().saturating_sub(LOG_END);
        String::from_utf8_lossy(&bytes[from..]).trim().to_owned()
    }

    /// Send a signal. The process is our child and not yet waited for, so its id is no one else's.
    fn signal(&self, signal: Signal) -> Result<()> {
        if self.child.id().is_none() {
            return Ok(());
        }
        kill(self.pid, signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shell(script: &str, logs: &Path) -> Fleet {
        Fleet::new(WorkerCommand {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: vec![("GREETING".into(), "hello".into())],
            logs: logs.to_owned(),
        })
    }

    #[tokio::test]
    async fn a_killed_worker_is_gone_and_can_be_replaced() {
        let logs = tempfile::tempdir().unwrap();
        let mut fleet = shell("read line", logs.path());
        let first = fleet.spawn().unwrap().pid();
        fleet.spawn().unwrap();
        let killed = fleet.kill(first).await.unwrap().unwrap();
        assert_eq!(killed.name(), "worker-1");
        assert_eq!(kill(killed.pid, None), Err(nix::errno::Errno::ESRCH));
        assert_eq!(fleet.spawn().unwrap().name(), "worker-3");
        assert_eq!(fleet.workers().len(), 2);
        assert!(fleet.kill(first).await.unwrap().is_none());
        assert_eq!(fleet.stop(Duration::from_secs(10)).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_worker_that_does_not_stop_is_killed() {
        let logs = tempfile::tempdir().unwrap();
        let mut fleet = shell("trap '' TERM; echo armed; exec sleep 60", logs.path());
        let log = fleet.spawn().unwrap().log().to_owned();
        while fs::read_to_string(&log).unwrap() != "armed\n" {
            tokio::task::yield_now().await;
        }
        assert_eq!(fleet.stop(Duration::from_millis(50)).await.unwrap(), 1);
        assert!(fleet.workers().is_empty());
    }

    #[tokio::test]
    async fn a_worker_that_ends_by_itself_is_reported_once_with_its_log() {
        let logs = tempfile::tempdir().unwrap();
        let mut fleet = shell("echo $GREETING; exit 7", logs.path());
        fleet.spawn().unwrap();
        let mut ended = Vec::new();
        while ended.is_empty() {
            ended = fleet.take_ended().unwrap();
            tokio::task::yield_now().await;
        }
        let (worker, status) = &ended[0];
        assert_eq!((status.code(), worker.log_end()), (Some(7), "hello".into()));
        assert!(fleet.take_ended().unwrap().is_empty());
    }

    #[tokio::test]
    async fn workers_see_the_end_of_their_pipe_when_the_fleet_goes() {
        let logs = tempfile::tempdir().unwrap();
        let mut fleet = shell("cat > /dev/null; echo closed", logs.path());
        fleet.spawn().unwrap();
        let mut worker = fleet.workers.remove(0);
        drop(worker.child.stdin.take());
        assert!(worker.child.wait().await.unwrap().success());
        assert_eq!(worker.log_end(), "closed");
    }
}
