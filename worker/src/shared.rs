//! What all parts of one worker process share: where to send, what it knows, and the three ways of ending.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use longshore_core::cycle::Sender;
use longshore_core::notify::Notifier;
use longshore_core::pacing::Pacing;
use longshore_core::queue::LowWater;
use longshore_core::results::{self, FRAMES_DRAWN};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::handler::Handlers;
use crate::metrics::Metrics;
use crate::sweep::Sweeps;
use crate::versions::{Version, Versions};

/// See the module.
pub(crate) struct Shared {
    pub(crate) sender: Sender,
    /// There is a connection for each lane to keep.
    pub(crate) keep_lines: bool,
    /// A lane that ends nothing passes its baton this often.
    pub(crate) heartbeat: Duration,
    pub(crate) handlers: Handlers,
    pub(crate) unknown: UnknownHandlers,
    pub(crate) versions: Versions,
    pub(crate) metrics: Metrics,
    pub(crate) sweeps: Sweeps,
    /// Where claims start to look.
    pub(crate) marks: Mutex<LowWater>,
    /// Handlers run here, on the application's own runtime; lanes do not.
    pub(crate) runtime: Handle,
    /// Handlers block every thread of that runtime (see `stall`).
    pub(crate) blocked: AtomicBool,
    /// Claim nothing more; finish what is held.
    pub(crate) draining: CancellationToken,
    /// Give back what is held.
    pub(crate) stop: CancellationToken,
    /// Leave at once; what is held is reclaimed when its lease is over.
    pub(crate) abandon: CancellationToken,
    pub(crate) notifier: Notifier,
    /// A lane set a timer.
    pub(crate) timer_set: Notify,
    /// Slots with a running handler, over all lanes.
    pub(crate) occupied: AtomicUsize,
    /// The lanes that run, private ones too.
    pub(crate) lanes: TaskTracker,
    pub(crate) queue_names: RwLock<HashMap<i32, String>>,
    pub(crate) frame_numbers: FrameNumbers,
}

impl Shared {
    /// Handlers block every thread of their runtime (see `stall`).
    pub(crate) fn blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    /// Tell the fleet that a queue has work. Costs nothing and may get lost.
    pub(crate) fn tell(&self, queue_id: i32) {
        let names = self.queue_names.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = names.get(&queue_id) {
            self.notifier.notify(name);
        }
    }

    /// The version, read again and again until Postgres answers; `None` when there is no such version, this worker is
    /// too old for it, or it gave up waiting.
    pub(crate) async fn version(&self, version_id: i32) -> Option<Arc<Version>> {
        if let Some(version) = self.versions.kept(version_id) {
            return Some(version);
        }
        let version = self.insist("read a version", || self.versions.get(version_id)).await??;
        let version = match version {
            Ok(version) => version,
            Err(problem) => {
                tracing::error!(
                    version_id,
                    problem,
                    "this worker cannot read the version: its steps wait for a newer worker"
                );
                return None;
            }
        };
        let mut names = self.queue_names.write().unwrap_or_else(PoisonError::into_inner);
        for node in version.graph.nodes() {
            names.entry(version.queue_id(node.number)).or_insert_with(|| node.queue.to_string());
        }
        Some(version)
    }

    /// Do it until it succeeds or the worker leaves (`None`). Only for what is safe to do twice.
    pub(crate) async fn insist<T, E, F>(&self, what: &str, attempt: impl Fn() -> F + Send) -> Option<T>
    where
        T: Send,
        E: std::fmt::Display + Send,
        F: Future<Output = Result<T, E>> + Send,
    {
        let mut pacing = Pacing::reconnect();
        loop {
            match attempt().await {
                Ok(done) => return Some(done),
                Err(error) => tracing::warn!(%error, "cannot {what}, trying again"),
            }
            tokio::select! {
                () = self.abandon.cancelled() => return None,
                () = tokio::time::sleep(pacing.pause()) => {}
            }
        }
    }
}

/// Steps for handlers that this worker does not know go back untried: after 1 s at first, up to 30 s when it goes on.
#[derive(Debug, Default)]
pub(crate) struct UnknownHandlers(Mutex<HashMap<Arc<str>, Instant>>);

impl UnknownHandlers {
    /// For how long a step for this handler is put back. Warns once per handler.
    pub(crate) fn put_back_after(&self, handler: &Arc<str>) -> Duration {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = seen.entry(handler.clone()).or_insert_with(|| {
            tracing::warn!(%handler, "this worker has no such handler: its steps are put back for others (`longshore run explain` names them)");
            Instant::now()
        });
        (first.elapsed() / 2).clamp(Duration::from_secs(1), Duration::from_secs(30))
    }
}

/// Numbers for new frames: drawn many at a time, so that a frame costs no trip of its own.
#[derive(Debug, Default)]
pub(crate) struct FrameNumbers(tokio::sync::Mutex<Range<i32>>);

impl FrameNumbers {
    /// So many numbers that follow each other, as far as one draw gives them; `None` when the worker gave up waiting for them.
    pub(crate) async fn take(&self, shared: &Shared, count: usize) -> Option<Range<i32>> {
        let count = i32::try_from(count).unwrap_or(i32::MAX).min(FRAMES_DRAWN);
        let mut drawn = self.0.lock().await;
        if drawn.end - drawn.start < count {
            let draw = || results::draw_frames(&shared.sender.access);
            let first = shared.insist("draw numbers for frames", draw).await?;
            *drawn = first..first + FRAMES_DRAWN;
        }
        let taken = drawn.start..drawn.start + count;
        drawn.start = taken.end;
        Some(taken)
    }
}
