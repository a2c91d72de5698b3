//! The worker process of a bench: the worker library with typed handlers, metrics and logs as in production. It waits for a line,
//! then says on its output that it is ready, how many handler calls have ended and, for timed steps, when they began; it leaves when its input ends.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use longshore_worker::telemetry::{self, LogFormat};
use longshore_worker::{Failure, Slots, Step, Worker};
use uuid::Uuid;

use super::workload::{COUNTED, QUEUE, StepInput, StepOutput, TIMED};

/// How often the count is said, when it has changed.
const SAY_EVERY: Duration = Duration::from_millis(10);

/// What a worker process waits for before it joins the fleet.
pub(super) const GO: &[u8] = b"go\n";

/// What a worker process says, one line each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It claims.
    Ready,
    /// So many handler calls have ended since it started.
    Ended(u64),
    /// A timed step began.
    Began {
        /// Its run.
        run_id: Uuid,
        /// When, by this machine's clock.
        at: SystemTime,
    },
}

impl Said {
    fn line(self) -> String {
        match self {
            Self::Ready => "ready".to_owned(),
            Self::Ended(count) => format!("ended {count}"),
            Self::Began { run_id, at } => {
                let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                format!("began {run_id} {}", since.as_nanos())
            }
        }
    }

    /// What a line says; none if it is no line of ours.
    pub(super) fn read(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        match (words.next()?, words.next(), words.next()) {
            ("ready", None, None) => Some(Self::Ready),
            ("ended", Some(count), None) => Some(Self::Ended(count.parse().ok()?)),
            ("began", Some(run_id), Some(nanos)) => {
                let since = Duration::from_nanos(nanos.parse().ok()?);
                Some(Self::Began { run_id: run_id.parse().ok()?, at: SystemTime::UNIX_EPOCH + since })
            }
            _ => None,
        }
    }

    /// Say it. Whoever no longer listens is about to end us.
    fn say(self) {
        let mut stdout = std::io::stdout().lock();
        let _ = writeln!(stdout, "{}", self.line()).and_then(|()| stdout.flush());
    }
}

/// Be a worker of this database with so many slots until the standard input ends. Blocks the calling thread.
///
/// # Errors
/// When the worker does not start.
pub fn work(url: &str, slots: u32) -> Result<()> {
    telemetry::init(LogFormat::Text)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work_here(url, slots))
}

async fn work_here(url: &str, slots: u32) -> Result<()> {
    let mut orders = Orders::listen();
    if !orders.go().await {
        return Ok(());
    }
    let ended = Arc::new(AtomicU64::new(0));
    let count = ended.clone();
    let counted = move |_: Step, input: StepInput| {
        let output = StepOutput::of(&input);
        count.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Ok::<_, Failure>(output))
    };
    let count = ended.clone();
    let timed = move |step: Step, input: StepInput| {
        Said::Began { run_id: step.run_id(), at: SystemTime::now() }.say();
        let output = StepOutput::of(&input);
        count.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Ok::<_, Failure>(output))
    };
    let worker = Worker::builder(url)
        .handler(COUNTED, counted)
        .handler(TIMED, timed)
        .queue(QUEUE, Slots(slots))
        .listen(SocketAddr::from(([127, 0, 0, 1], 0)))
        .without_system_lane()
        .start()
        .await?;
    Said::Ready.say();
    let saying = tokio::spawn(async move {
        let mut said = 0;
        loop {
            tokio::time::sleep(SAY_EVERY).await;
            let now = ended.load(Ordering::Relaxed);
            if now != said {
                said = now;
                Said::Ended(now).say();
            }
        }
    });
    worker.until(orders.leave()).await;
    saying.abort();
    Ok(())
}

/// What the bench tells its worker. A thread of its own reads: a task of the runtime would be waited for at the end.
struct Orders(tokio::sync::mpsc::UnboundedReceiver<()>);

impl Orders {
    fn listen() -> Self {
        let (given, orders) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || {
            let mut lines = std::io::stdin().lock().lines();
            while lines.next().is_some_and(|line| line.is_ok() && given.send(()).is_ok()) {}
        });
        Self(orders)
    }

    /// False when the bench has gone instead.
    async fn go(&mut self) -> bool {
        self.0.recv().await.is_some()
    }

    async fn leave(mut self) {
        while self.0.recv().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_said_is_read_back() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
        for said in [Said::Ready, Said::Ended(7), Said::Began { run_id: Uuid::now_v7(), at }] {
            assert_eq!(Said::read(&said.line()), Some(said));
        }
        for line in ["", "ready now", "ended", "ended many", "began 7 7", "2026 INFO the worker claims"] {
            assert_eq!(Said::read(line), None, "{line}");
        }
    }
}
