//! The worker processes of a bench: spawned from this binary, listened to, measured, and gone when the bench is.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;
use uuid::Uuid;

use super::member::{GO, Said};

/// How long the workers may be silent: longer than a lease and a reclaim.
const SILENCE: Duration = Duration::from_secs(60);
/// How long they may take to leave.
const LEAVE_WITHIN: Duration = Duration::from_secs(45);
/// How much of its log an error shows.
const LOG_END: usize = 4096;

/// How the workers are started.
#[derive(Clone, Debug)]
pub(super) struct Spawn<'a> {
    pub(super) longshore: &'a Path,
    pub(super) url: &'a str,
    pub(super) workers: u32,
    pub(super) slots: u32,
    /// The folder of their logs.
    pub(super) logs: &'a Path,
}

/// The running workers. Dropping it kills them.
#[derive(Debug)]
pub(super) struct Fleet {
    members: Vec<Member>,
    lines: UnboundedReceiver<(usize, Option<Said>)>,
    began: VecDeque<(Uuid, SystemTime)>,
}

#[derive(Debug)]
struct Member {
    child: Child,
    log: PathBuf,
    ready: bool,
    ended: u64,
}

impl Fleet {
    /// Make the worker processes, which wait at a gate.
    pub(super) fn spawn(spawn: &Spawn<'_>) -> Result<Self> {
        let (sender, lines) = unbounded_channel();
        let mut members = Vec::new();
        for number in 0..spawn.workers {
            let log = spawn.logs.join(format!("bench-worker-{}.log", number + 1));
            let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
            let mut child = Command::new(spawn.longshore)
                .args(["bench-worker", "--slots", &spawn.slots.to_string()])
                .env("LONGSHORE_DATABASE_URL", spawn.url)
                .env("LONGSHORE_LOG", "info,sqlx::postgres::notice=warn")
                .stdin(Stdio::piped()) // held open: its end is the worker's sign to leave
                .stdout(Stdio::piped())
                .stderr(file)
                .process_group(0)
                .kill_on_drop(true)
                .spawn()
                .with_context(|| format!("cannot start {}", spawn.longshore.display()))?;
            let output = child.stdout.take().context("a worker without output")?;
            tokio::spawn(listen(members.len(), output, sender.clone()));
            members.push(Member { child, log, ready: false, ended: 0 });
        }
        Ok(Self { members, lines, began: VecDeque::new() })
    }

    /// The processes.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.members.iter().filter_map(|member| member.child.id()).collect()
    }

    /// Let the workers join the fleet and claim.
    pub(super) async fn open_gate(&mut self) -> Result<()> {
        for member in &mut self.members {
            let input = member.child.stdin.as_mut().context("a worker without input")?;
            input.write_all(GO).await.context("a worker is gone before it began")?;
        }
        Ok(())
    }

    /// Return when every worker claims.
    pub(super) async fn ready(&mut self) -> Result<()> {
        while self.members.iter().any(|member| !member.ready) {
            self.listen().await?;
        }
        Ok(())
    }

    /// Return when `calls` handler calls have ended in all. What they led to is recorded a moment later.
    pub(super) async fn ended(&mut self, calls: u64) -> Result<()> {
        while self.members.iter().map(|member| member.ended).sum::<u64>() < calls {
            self.listen().await?;
        }
        Ok(())
    }

    /// When the next timed step began, and of which run.
    pub(super) async fn began(&mut self) -> Result<(Uuid, SystemTime)> {
        loop {
            if let Some(began) = self.began.pop_front() {
                return Ok(began);
            }
            self.listen().await?;
        }
    }

    async fn listen(&mut self) -> Result<()> {
        let Ok(line) = timeout(SILENCE, self.lines.recv()).await else {
            let calls: u64 = self.members.iter().map(|member| member.ended).sum();
            bail!("no step has run for {SILENCE:?}, {calls} handler calls ended before");
        };
        let Some((number, said)) = line else { bail!("the workers are gone") };
        let member = self.members.get_mut(number).context("a worker nobody started")?;
        match said {
            Some(Said::Ready) => member.ready = true,
            Some(Said::Ended(count)) => member.ended = count,
            Some(Said::Began { run_id, at }) => self.began.push_back((run_id, at)),
            None => bail!("a worker ended by itself; the end of its log:\n{}", log_end(&member.log)),
        }
        Ok(())
    }

    /// Let the workers drain and leave.
    pub(super) async fn stop(mut self) -> Result<()> {
        for member in &mut self.members {
            drop(member.child.stdin.take());
        }
        for member in &mut self.members {
            match timeout(LEAVE_WITHIN, member.child.wait()).await {
                Ok(Ok(status)) if status.success() => {}
                Ok(_) => bail!("a worker did not leave well; the end of its log:\n{}", log_end(&member.log)),
                Err(_) => bail!("a worker did not leave within {LEAVE_WITHIN:?}"),
            }
        }
        Ok(())
    }
}

async fn listen(number: usize, output: ChildStdout, sender: UnboundedSender<(usize, Option<Said>)>) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(said) = Said::read(&line) {
            let _ = sender.send((number, Some(said))); // a bench that is over does not listen
        }
    }
    let _ = sender.send((number, None));
}

fn log_end(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let from = bytes.len().saturating_sub(LOG_END);
    String::from_utf8_lossy(&bytes[from..]).trim().to_owned()
}
