//! Moving the clock of a run in test mode.

use std::time::Duration;

use longshore_core::run;
use uuid::Uuid;

use crate::{Enqueuer, Error};

impl Enqueuer {
    /// Moves the clock of a run in test mode, and of the runs that it started, on: `by` so much, or, without it, to their next timer. What is due then happens
    /// as soon as a worker looks. Returns how many timers they have. [`Error::NotATest`] for any other run. Each call moves the clock, so it is not sent again
    /// where its answer got lost.
    pub async fn advance(&self, id: Uuid, by: Option<Duration>) -> Result<i64, Error> {
        run::advance(self.access(), id, by).await
    }
}
