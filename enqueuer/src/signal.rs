//! Sending signals: everything that can be checked is checked before anything is written.

use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::Arc;

use longshore_core::payload::{self, Payload};
use longshore_core::session::Session;
use longshore_core::signal::{self, MAX_SIGNAL, Sent};
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::again::{again, check_key};
use crate::{Enqueuer, Error};

/// A signal that waits to be sent: await it, or call [`in_transaction`](Self::in_transaction). Either gives its number: of two signals the one that was
/// sent first has the smaller.
#[derive(Debug)]
#[must_use = "nothing is sent before it is awaited or written in a transaction"]
pub struct SendSignal<'e> {
    enqueuer: &'e Enqueuer,
    run: Uuid,
    name: String,
    payload: Result<Payload, Arc<payload::Error>>,
    key: Option<String>,
}

impl<'e> SendSignal<'e> {
    pub(crate) fn new<T: Serialize + ?Sized>(enqueuer: &'e Enqueuer, run: Uuid, name: &str, payload: &T) -> Self {
        Self { enqueuer, run, name: name.to_owned(), payload: Payload::of(payload).map_err(Arc::new), key: None }
    }

    /// Idempotency key, 1 to 512 characters, unique in the run. Sending it again sends nothing and gives the number of the signal that is there.
    pub fn key(self, key: impl Into<String>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// Sends the signal in a transaction of the caller (`&mut tx`; any connection will do, unless a pooler is in between): it is there if and only if that
    /// commits, and workers see it then, at the latest when they next poll. It only inserts, and waits for nothing but another transaction that sends the
    /// same key.
    ///
    /// [`Error::NotFound`], [`Error::RunEnded`] and [`Error::Database`] come from Postgres and abort the transaction: roll back.
    pub async fn in_transaction(self, tx: &mut PgConnection) -> Result<i64, Error> {
        Ok(self.write(&mut self.enqueuer.within(tx)).await?.id)
    }

    async fn write(&self, session: &mut Session<'_>) -> Result<Sent, Error> {
        let length = self.name.chars().count();
        if length == 0 || length > MAX_SIGNAL || self.name.contains('\0') {
            return Err(Error::InvalidSignal { length: length as u64 });
        }
        check_key(self.key.as_deref())?;
        let payload = self.payload.as_ref().map_err(|error| Error::PayloadInvalid(Arc::clone(error)))?;
        signal::send(session, self.run, &self.name, payload, self.key.as_deref()).await
    }

    /// In a transaction of our own, and again where that cannot send it twice; then the hint to the workers.
    async fn send(self) -> Result<i64, Error> {
        let this = &self;
        let send = || async move { this.write(&mut this.enqueuer.access().session().await?).await };
        let sent = again(self.key.is_some(), send).await?;
        if let Some(queue) = &sent.queue {
            self.enqueuer.notifier().notify(queue);
        }
        Ok(sent.id)
    }
}

impl<'e> IntoFuture for SendSignal<'e> {
    type Output = Result<i64, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'e>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
