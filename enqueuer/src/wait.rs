//! Waiting for a run to end: its state is read by key, every 20 ms at first, every second in the end.

use std::future::IntoFuture;
use std::pin::Pin;
use std::time::Duration;

use longshore_core::database::{self, ErrorKind};
use longshore_core::pacing::Pacing;
use longshore_core::run::{self, Run};
use longshore_core::session::Access;
use uuid::Uuid;

use crate::Error;

const SHORTEST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(1);

/// A wait for the end of a run: await it.
#[derive(Debug)]
#[must_use = "nothing waits before it is awaited"]
pub struct Wait<'e> {
    access: &'e Access,
    id: Uuid,
    timeout: Option<Duration>,
}

impl<'e> Wait<'e> {
    pub(crate) fn new(access: &'e Access, id: Uuid) -> Self {
        Self { access, id, timeout: None }
    }

    /// Give up after this time with [`Error::TimedOut`]; the run goes on.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }
}

impl<'e> IntoFuture for Wait<'e> {
    /// The ended run, whether completed, failed or canceled.
    type Output = Result<Run, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'e>>;

    fn into_future(self) -> Self::IntoFuture {
        let ended = ended(self.access, self.id);
        Box::pin(async move {
            match self.timeout {
                None => ended.await,
                Some(timeout) => {
                    tokio::time::timeout(timeout, ended).await.unwrap_or(Err(Error::TimedOut { run_id: self.id }))
                }
            }
        })
    }
}

async fn ended(access: &Access, id: Uuid) -> Result<Run, Error> {
    let mut pacing = Pacing::idle(SHORTEST, LONGEST);
    loop {
        match look(access, id).await {
            Ok(Some(run)) => return Ok(run),
            Ok(None) => {}
            Err(Error::Database(error)) if passes(&error) => {
                tracing::debug!(%error, run_id = %id, "the run could not be read, it is read again");
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(pacing.pause()).await;
    }
}

/// The run if it has ended.
async fn look(access: &Access, id: Uuid) -> Result<Option<Run>, Error> {
    let missing = Error::NotFound { run_id: id };
    match run::state(access, id).await? {
        None => Err(missing),
        Some(state) if state.has_ended() => run::get(access, id).await?.map(Some).ok_or(missing),
        Some(_) => Ok(None),
    }
}

fn passes(error: &sqlx::Error) -> bool {
    matches!(database::kind(error), ErrorKind::Ambiguous | ErrorKind::Retryable)
}
