//! Canceling a run, in a transaction of its own: it locks the run's row, which the lane that ends the run needs too.

use std::future::IntoFuture;
use std::pin::Pin;

use longshore_core::run::{self, Canceled};
use longshore_core::session::Access;
use uuid::Uuid;

use crate::Error;
use crate::again::again;

const NO_REASON: &str = "canceled by request";

/// A cancel that waits to be written: await it.
#[derive(Debug)]
#[must_use = "nothing is canceled before it is awaited"]
pub struct Cancel<'e> {
    access: &'e Access,
    id: Uuid,
    reason: Option<String>,
}

impl<'e> Cancel<'e> {
    pub(crate) fn new(access: &'e Access, id: Uuid) -> Self {
        Self { access, id, reason: None }
    }

    /// Why, for people: the message of the run's error.
    pub fn reason(self, reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..self }
    }
}

impl<'e> IntoFuture for Cancel<'e> {
    type Output = Result<Canceled, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'e>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let reason = self.reason.as_deref().unwrap_or(NO_REASON);
            again(true, || run::cancel(self.access, self.id, reason)).await
        })
    }
}
