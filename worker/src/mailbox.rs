//! Where handlers leave what became of their steps, for the lane that holds them.
//! The lane is woken only when as many reports lie there as it wants: a hundred quick handlers cost it one wake-up, not a hundred.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A many-to-one mailbox.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    inner: Mutex<Inner<T>>,
    filled: Notify,
}

#[derive(Debug)]
struct Inner<T> {
    reports: Vec<T>,
    wanted: usize,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self { inner: Mutex::new(Inner { reports: Vec::new(), wanted: 1 }), filled: Notify::new() }
    }
}

impl<T> Mailbox<T> {
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        // nothing can panic while it is held
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leave a report.
    pub(crate) fn put(&self, report: T) {
        let enough = {
            let mut inner = self.lock();
            inner.reports.push(report);
            inner.reports.len() >= inner.wanted
        };
        if enough {
            self.filled.notify_one();
        }
    }

    /// Take all reports without waiting.
    pub(crate) fn take(&self) -> Vec<T> {
        let mut inner = self.lock();
        inner.wanted = usize::MAX;
        std::mem::take(&mut inner.reports)
    }

    /// Return when at least `wanted` reports lie here. Cancel safe.
    pub(crate) async fn filled(&self, wanted: usize) {
        loop {
            let filled = self.filled.notified();
            {
                let mut inner = self.lock();
                if inner.reports.len() >= wanted {
                    return;
                }
                inner.wanted = wanted;
            }
            filled.await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_lane_wakes_when_enough_reports_lie_there() {
        let mailbox = Arc::new(Mailbox::default());
        let filled = {
            let mailbox = mailbox.clone();
            tokio::spawn(async move { mailbox.filled(3).await })
        };
        for report in 0..3 {
            tokio::task::yield_now().await;
            mailbox.put(report);
        }
        tokio::time::timeout(Duration::from_secs(5), filled).await.unwrap().unwrap();
        assert_eq!(mailbox.take(), vec![0, 1, 2]);
        assert_eq!(mailbox.take(), Vec::<i32>::new());
    }
}
