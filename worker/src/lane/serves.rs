//! What a lane may claim, and how it is told to look.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::Notify;

/// How a lane is told to look for work.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    pub(super) notify: Notify,
    pub(super) sweep: AtomicBool,
}

impl Wake {
    /// There may be work above the lane's marks.
    pub(crate) fn hint(&self) {
        self.notify.notify_one();
    }

    /// There is work, perhaps below the lane's marks.
    pub(crate) fn sweep(&self) {
        self.sweep.store(true, Ordering::Release);
        self.notify.notify_one();
    }
}

/// The queues a lane serves and its slots for each. Shared with the upkeep, which adds queues that come later.
#[derive(Clone, Debug, Default)]
pub(crate) struct Serves(Arc<RwLock<Vec<(i32, i32)>>>);

impl Serves {
    pub(crate) fn new(slots: Vec<(i32, i32)>) -> Self {
        Self(Arc::new(RwLock::new(slots)))
    }

    pub(crate) fn get(&self) -> RwLockReadGuard<'_, Vec<(i32, i32)>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serve this queue too, unless the lane does already.
    pub(crate) fn add(&self, queue_id: i32, slots: i32) {
        let mut serves = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if !serves.iter().any(|(id, _)| *id == queue_id) {
            serves.push((queue_id, slots));
        }
    }

    /// All slots together.
    pub(super) fn total(&self) -> i32 {
        self.get().iter().map(|(_, slots)| *slots).fold(0, i32::saturating_add)
    }
}

/// What a lane may claim and hold.
#[derive(Clone, Debug)]
pub(crate) struct LaneSpec {
    /// Slots per queue.
    pub(crate) slots: Serves,
    /// A lane for one step at a time, claiming only those that must be alone.
    pub(crate) solo: bool,
    /// A lane for the one step it began with.
    pub(crate) private: bool,
}
