//! Pausing a run and letting it go on, each in a transaction of its own: both lock the run's row, which the lane that ends the run needs too.

use longshore_core::run::{self, Switched};
use uuid::Uuid;

use crate::again::again;
use crate::{Enqueuer, Error};

impl Enqueuer {
    /// Pauses a run that has not ended: what its running steps do is recorded, and what follows is parked until it is resumed. Steps that a lane was just
    /// taking over may still begin. Timers go on. Safe to repeat.
    pub async fn pause(&self, id: Uuid, reason: &str) -> Result<Switched, Error> {
        again(true, || run::pause(self.access(), id, reason)).await
    }

    /// Lets a paused run go on, from where it is. One that paused itself, since a step with `"give_up": "pause"` had no attempt left, tries that step again. Safe
    /// to repeat.
    pub async fn resume(&self, id: Uuid) -> Result<Switched, Error> {
        let (switched, queues) = again(true, || run::resume(self.access(), id)).await?;
        self.tell(&queues);
        Ok(switched)
    }
}
