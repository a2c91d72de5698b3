//! Pausing a run and letting it go on, each in a transaction of its own: both lock the run's row, which the lane that ends the run needs too.

use longshore_core::database::{self, ErrorKind};
use longshore_core::pacing::Pacing;
use longshore_core::run::{self, Switched};
use uuid::Uuid;

use crate::{Enqueuer, Error};

const ATTEMPTS: u32 = 5;

impl Enqueuer {
    /// Pauses a run that has not ended: what its running steps do is recorded, and what follows is parked until it is resumed. Steps that a lane was just
    /// taking over may still begin. Timers go on. Safe to repeat.
    pub async fn pause(&self, id: Uuid, reason: &str) -> Result<Switched, Error> {
        let mut pacing = Pacing::reconnect();
        for _ in 1..ATTEMPTS {
            match run::pause(self.access(), id, reason).await {
                Err(Error::Database(error)) if passes(&error) => tokio::time::sleep(pacing.pause()).await,
                result => return result,
            }
        }
        run::pause(self.access(), id, reason).await
    }

    /// Lets a paused run go on, from where it is. One that paused itself, since a step with `"give_up": "pause"` had no attempt left, tries that step again. Safe
    /// to repeat.
    pub async fn resume(&self, id: Uuid) -> Result<Switched, Error> {
        let mut pacing = Pacing::reconnect();
        let mut attempt = 1;
        let (switched, queues) = loop {
            match run::resume(self.access(), id).await {
                Err(Error::Database(error)) if attempt < ATTEMPTS && passes(&error) => {
                    tokio::time::sleep(pacing.pause()).await;
                    attempt += 1;
                }
                result => break result?,
            }
        };
        for queue in queues {
            self.notifier().notify(&queue);
        }
        Ok(switched)
    }
}

fn passes(error: &sqlx::Error) -> bool {
    matches!(database::kind(error), ErrorKind::Ambiguous | ErrorKind::Retryable)
}
