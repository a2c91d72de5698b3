//! Going on with runs that ended, and running part of them anew.

use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::Arc;

use longshore_core::error::{INPUT_INVALID, StepError};
use longshore_core::payload::{self, Payload};
use longshore_core::rerun::{self, Error, Plan, Version};
use serde::Serialize;
use uuid::Uuid;

use crate::Enqueuer;

impl Enqueuer {
    /// Goes on with a run that failed or was canceled: what gave up or was canceled is tried again, with the attempts going on counting and the policies
    /// beginning anew; what completed stays as it is, within blocks and in child runs too. Blocks that cannot be taken up where they stood run again as a whole
    /// ([`Plan::whole`]). Safe to repeat: a run that is live already is refused with [`Error::NotFailed`]. [`Error::Settling`] means "in some seconds".
    pub async fn retry(&self, run: Uuid) -> Result<Plan, Error> {
        let done = rerun::retry(&mut self.access().session().await?, run, false).await?;
        self.tell(&done.queues);
        Ok(done)
    }

    /// What [`retry`](Self::retry) would do.
    pub async fn plan_retry(&self, run: Uuid) -> Result<Plan, Error> {
        rerun::retry(&mut self.access().session().await?, run, true).await
    }

    /// A new run that takes over what `run` has on record, but for the node `from` and all that comes after it: to be awaited. Within blocks and child runs
    /// `from` is the node's place: the blocks around it with their iterations, such as `each[3]/both[left]/charge`. Not safe to repeat: each time it is
    /// another run.
    pub fn rerun(&self, run: Uuid, from: &str) -> Rerun<'_> {
        let wanted = rerun::Rerun { run_id: run, from: from.to_owned(), input: None, version: None };
        Rerun { enqueuer: self, wanted, input: None, plan: false }
    }

    /// Workers that idle hear of the queues that got work.
    pub(crate) fn tell(&self, queues: &[String]) {
        for queue in queues {
            self.notifier().notify(queue);
        }
    }
}

/// A rerun that waits to be made: await it.
#[derive(Debug)]
#[must_use = "nothing runs before it is awaited"]
pub struct Rerun<'e> {
    enqueuer: &'e Enqueuer,
    wanted: rerun::Rerun,
    input: Option<Result<Payload, Arc<payload::Error>>>,
    plan: bool,
}

impl Rerun<'_> {
    /// Another input for the new run. What is taken over stays as it is.
    pub fn input<T: Serialize + ?Sized>(self, input: &T) -> Self {
        Self { input: Some(Payload::of(input).map_err(Arc::new)), ..self }
    }

    /// Another version; the run's own without it. Nodes are the same if they have the same id.
    pub fn version(mut self, version: Version) -> Self {
        self.wanted.version = Some(version);
        self
    }

    /// Only say what it would be.
    pub fn plan(self) -> Self {
        Self { plan: true, ..self }
    }
}

impl<'e> IntoFuture for Rerun<'e> {
    type Output = Result<Plan, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'e>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { enqueuer, mut wanted, input, plan } = self;
            wanted.input = match input.transpose() {
                Ok(input) => input,
                Err(error) => return Err(Error::Input(StepError::permanent(INPUT_INVALID, &error.to_string()))),
            };
            let done = rerun::rerun(&mut enqueuer.access().session().await?, &wanted, plan).await?;
            if !plan {
                enqueuer.tell(&done.queues);
            }
            Ok(done)
        })
    }
}
