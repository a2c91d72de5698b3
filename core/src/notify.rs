//! The hint that a queue has work, for workers that are asleep.
//!
//! A notification makes commits queue behind each other, so it never rides in a cycle or, unasked, in a caller's
//! transaction: a task of its own sends it after the commit, the first at once, then at most one per queue and
//! 50 ms. Losing one costs a worker's poll interval, nothing else.

use std::collections::{BTreeSet, HashMap};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::session::Access;

/// The channel workers listen on; the payload is a queue's name.
pub const CHANNEL: &str = "longshore";

/// Before a queue's name: it has step jobs that must be alone in their lane. No name of a queue begins with it.
pub const ALONE: &str = "!";

/// A queue is told of at most once in this time.
const PAUSE: Duration = Duration::from_millis(50);

/// Sends hints in the background. Cloning it shares the task, which ends with the last clone.
#[derive(Clone, Debug)]
pub struct Notifier {
    wanted: Arc<Mutex<BTreeSet<String>>>,
    wake: mpsc::Sender<()>,
}

impl Notifier {
    /// Starts the task on the current tokio runtime. It takes a connection for each send.
    pub fn start(access: Access) -> Self {
        let wanted = Arc::new(Mutex::new(BTreeSet::new()));
        let (wake, woken) = mpsc::channel(1);
        tokio::spawn(send_all(Arc::clone(&wanted), woken, move |queues| {
            let access = access.clone();
            async move { send(&access, &queues).await }
        }));
        Self { wanted, wake }
    }

    /// Tell the workers of `queue`. Returns at once and never fails; many calls become one hint.
    pub fn notify(&self, queue: &str) {
        let mut wanted = lock(&self.wanted);
        if !wanted.contains(queue) {
            wanted.insert(queue.to_owned());
            drop(wanted);
            let _ = self.wake.try_send(()); // full: the task is about to look anyway
        }
    }
}

async fn send_all<S, F>(wanted: Arc<Mutex<BTreeSet<String>>>, mut woken: mpsc::Receiver<()>, mut send: S)
where
    S: FnMut(Vec<String>) -> F,
    F: Future<Output = ()>,
{
    let mut sent: HashMap<String, Instant> = HashMap::new();
    while woken.recv().await.is_some() {
        loop {
            sent.retain(|_, at| at.elapsed() < PAUSE);
            let due = take_due(&wanted, &sent);
            if !due.is_empty() {
                let now = Instant::now();
                sent.extend(due.iter().map(|queue| (queue.clone(), now)));
                send(due).await;
            }
            if lock(&wanted).is_empty() {
                break;
            }
            if let Some(first) = sent.values().min() {
                tokio::time::sleep_until(*first + PAUSE).await;
            }
        }
    }
}

/// The wanted queues that were not told of just now; the others stay wanted.
fn take_due(wanted: &Mutex<BTreeSet<String>>, sent: &HashMap<String, Instant>) -> Vec<String> {
    let mut wanted = lock(wanted);
    let (later, due) = mem::take(&mut *wanted).into_iter().partition(|queue| sent.contains_key(queue));
    *wanted = later;
    drop(wanted);
    BTreeSet::into_iter(due).collect()
}

async fn send(access: &Access, queues: &[String]) {
    let sent = sqlx::query(include_str!("../sql/notify/notify.sql")).bind(queues).execute(access).await;
    if let Err(error) = sent {
        tracing::debug!(%error, "a notification was not sent; workers find the work when they poll");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    type Log = Arc<Mutex<Vec<(Duration, Vec<String>)>>>;

    fn notifier() -> (Notifier, Log) {
        let log: Log = Arc::default();
        let wanted = Arc::new(Mutex::new(BTreeSet::new()));
        let (wake, woken) = mpsc::channel(1);
        let (begin, kept) = (Instant::now(), Arc::clone(&log));
        tokio::spawn(send_all(Arc::clone(&wanted), woken, move |queues| {
            lock(&kept).push((begin.elapsed(), queues));
            async {}
        }));
        (Notifier { wanted, wake }, log)
    }

    #[tokio::test]
    async fn the_first_goes_at_once_and_the_rest_once_in_50_ms_and_queue() {
        let (notifier, log) = notifier();
        for _ in 0..100 {
            notifier.notify("a");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        notifier.notify("b");
        while !lock(&notifier.wanted).is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let log = lock(&log).clone();
        let times = |queue: &str| {
            let told = log.iter().filter(|(_, queues)| queues.iter().any(|name| name == queue));
            told.map(|(at, _)| at.as_millis()).collect::<Vec<_>>()
        };
        let a = times("a");
        assert!(a.len() >= 2 && a[0] < 50, "the first at once: {a:?}");
        assert!(a.windows(2).all(|pair| pair[1] - pair[0] >= 49), "{a:?}");
        assert_eq!(times("b").len(), 1);
    }
}
