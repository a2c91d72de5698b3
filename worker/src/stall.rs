//! Whether the application's runtime still runs anything. Handlers that block every thread of it leave the worker deaf: what it claims never starts
//! and what it
//! holds never ends. Such a worker claims nothing, lets its leases run out so that others take its steps over, and says on `/health/live` that it wants
//! to be started again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::http::Health;
use crate::shared::Shared;

/// How often the runtime is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// A runtime that has not run a new task for this long is blocked.
const BLOCKED_AFTER: Duration = Duration::from_secs(5);

/// Ask for as long as the worker lives.
pub(crate) async fn watch(shared: Arc<Shared>, health: Health) {
    loop {
        let mut asked = shared.runtime.spawn(async {});
        if tokio::time::timeout(BLOCKED_AFTER, &mut asked).await.is_err() {
            tracing::error!(
                "handlers block all threads of their runtime: this worker claims nothing and lets its leases run out; move what blocks to tokio::task::spawn_blocking"
            );
            shared.blocked.store(true, Ordering::Relaxed);
            health.blocked(true);
            // the answer comes when a thread is free again
            if asked.await.is_err() {
                return;
            }
            shared.blocked.store(false, Ordering::Relaxed);
            health.blocked(false);
            tracing::warn!("the runtime of the handlers runs again");
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}
