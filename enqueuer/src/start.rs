//! Starting runs: everything that can be checked is checked before anything is written.
//!
//! So a refused start leaves the caller's transaction as it was, except where only Postgres can know: a key that
//! another run has with another input, or a version that was published or pruned a moment ago.

use std::collections::BTreeSet;
use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use longshore_core::mock::{self, MAX_MOCKS, Mocks};
use longshore_core::payload::{self, Payload};
use longshore_core::run::{self, PRIORITIES, Start};
use longshore_core::session::Session;
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::again::{again, check_key};
use crate::versions::Version;
use crate::{Enqueuer, Error};

type Pending<'e, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'e>>;

/// A run that was started, by this call or by an earlier one with the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// Its id.
    pub id: Uuid,
    /// False if it was there already. (Also if the answer to this very call got lost and was asked for again.)
    pub created: bool,
}

/// A run to be started, for [`Enqueuer::start_many`].
#[derive(Debug)]
pub struct NewRun {
    workflow: String,
    input: Result<Payload, Arc<payload::Error>>,
    key: Option<String>,
    run_at: Option<DateTime<Utc>>,
    priority: Option<i16>,
    version: Option<i32>,
    mocks: Option<Result<Payload, String>>,
}

impl NewRun {
    /// The latest version of `workflow`, at once, with the default priority and no key. An input that cannot be
    /// stored is reported when the run is started.
    pub fn new<T: Serialize + ?Sized>(workflow: &str, input: &T) -> Self {
        Self {
            workflow: workflow.to_owned(),
            input: Payload::of(input).map_err(Arc::new),
            key: None,
            run_at: None,
            priority: None,
            version: None,
            mocks: None,
        }
    }

    /// Idempotency key, 1 to 512 characters, unique per workflow while the run is kept. Starting it again with an
    /// equal input returns the same run, with another input it is [`Error::KeyConflict`].
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Not before this time, by Postgres' clock.
    #[must_use]
    pub fn run_at(mut self, at: DateTime<Utc>) -> Self {
        self.run_at = Some(at);
        self
    }

    /// 0 to 3, 0 first; 1 if it is not given.
    #[must_use]
    pub fn priority(mut self, priority: i16) -> Self {
        self.priority = Some(priority);
        self
    }

    /// This version instead of the latest.
    #[must_use]
    pub fn version(mut self, version: i32) -> Self {
        self.version = Some(version);
        self
    }

    /// In test mode: its nodes are answered from `mocks`, and nothing of it, nor of the runs that it starts, reaches a handler. No metric of runs and attempts
    /// counts it. An object by what is answered for: the id of a `task`, `subflow`, `wait` or `approval`; for the nodes of child runs `workflow/id`; for all
    /// nodes of a handler `handler:name`. Each has an output, or `{"output": …}` or `{"error": {"name": …, "message": …, "kind": "retryable" | "permanent"}}`,
    /// beside which `input` says what it must be given; or a list of these, one for each attempt, of which the last repeats. A task for which nothing stands
    /// fails with `mock_missing`. Time is moved by [`Enqueuer::advance`].
    #[must_use]
    pub fn mocks<T: Serialize + ?Sized>(mut self, mocks: &T) -> Self {
        self.mocks = Some(read_mocks(&self.workflow, mocks));
        self
    }

    /// What can be checked without the workflow.
    fn check(&self) -> Result<Start, Error> {
        check_key(self.key.as_deref())?;
        if let Some(priority) = self.priority
            && !(0..PRIORITIES).contains(&priority)
        {
            return Err(Error::InvalidPriority { priority: priority.into() });
        }
        Ok(Start {
            workflow: self.workflow.clone(),
            input: match &self.input {
                Ok(input) => input.clone(),
                Err(error) => return Err(Error::PayloadInvalid(Arc::clone(error))),
            },
            key: self.key.clone(),
            run_at: self.run_at,
            priority: self.priority,
            version: self.version,
            mocks: self.mocks.clone().transpose().map_err(|problems| Error::MocksInvalid { problems })?,
        })
    }
}

/// The mocks as the run has them.
fn read_mocks<T: Serialize + ?Sized>(workflow: &str, mocks: &T) -> Result<Payload, String> {
    let given = Payload::of(mocks).map_err(|error| error.to_string())?.value();
    Mocks::from_json(&given).map_err(|problems| problems.to_string())?;
    let given = given.as_object().cloned().unwrap_or_default();
    let mocks = Payload::of(&mock::qualified(workflow, given)).map_err(|error| error.to_string())?;
    if mocks.len() > MAX_MOCKS {
        let each = "the workflow's name before each node's id counted";
        return Err(format!("they have {} bytes, {each}, at most {MAX_MOCKS} are allowed", mocks.len()));
    }
    Ok(mocks)
}

/// A start that waits to be written: await it, or call [`in_transaction`](Self::in_transaction).
#[derive(Debug)]
#[must_use = "nothing is started before it is awaited or written in a transaction"]
pub struct StartRun<'e> {
    enqueuer: &'e Enqueuer,
    run: NewRun,
}

impl<'e> StartRun<'e> {
    pub(crate) fn new(enqueuer: &'e Enqueuer, run: NewRun) -> Self {
        Self { enqueuer, run }
    }

    /// See [`NewRun::key`].
    pub fn key(self, key: impl Into<String>) -> Self {
        Self { run: self.run.key(key), ..self }
    }

    /// See [`NewRun::run_at`].
    pub fn run_at(self, at: DateTime<Utc>) -> Self {
        Self { run: self.run.run_at(at), ..self }
    }

    /// See [`NewRun::priority`].
    pub fn priority(self, priority: i16) -> Self {
        Self { run: self.run.priority(priority), ..self }
    }

    /// See [`NewRun::version`].
    pub fn version(self, version: i32) -> Self {
        Self { run: self.run.version(version), ..self }
    }

    /// See [`NewRun::mocks`].
    pub fn mocks<T: Serialize + ?Sized>(self, mocks: &T) -> Self {
        Self { run: self.run.mocks(mocks), ..self }
    }

    /// Writes the run in a transaction of the caller (`&mut tx`; any connection will do, unless a pooler is in between): it exists if and only if that
    /// commits, and workers see it then, at the latest when they next poll. It only inserts, and waits for nothing
    /// but another transaction that starts the same key.
    ///
    /// Errors found here leave the transaction usable. [`Error::KeyConflict`] and [`Error::Database`] come from
    /// Postgres and abort it, as does an unknown workflow or version that vanished within the last five seconds: roll back.
    pub async fn in_transaction(self, tx: &mut PgConnection) -> Result<Started, Error> {
        let started = write(self.enqueuer, &mut self.enqueuer.within(tx), std::slice::from_ref(&self.run)).await?;
        one(&started)
    }
}

impl<'e> IntoFuture for StartRun<'e> {
    type Output = Result<Started, Error>;
    type IntoFuture = Pending<'e, Started>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let started = start(self.enqueuer, std::slice::from_ref(&self.run)).await?;
            one(&started)
        })
    }
}

/// Starts that wait to be written: await it, or call [`in_transaction`](Self::in_transaction).
#[derive(Debug)]
#[must_use = "nothing is started before it is awaited or written in a transaction"]
pub struct StartMany<'e> {
    enqueuer: &'e Enqueuer,
    runs: &'e [NewRun],
}

impl<'e> StartMany<'e> {
    pub(crate) fn new(enqueuer: &'e Enqueuer, runs: &'e [NewRun]) -> Self {
        Self { enqueuer, runs }
    }

    /// As [`StartRun::in_transaction`]; more than a thousand runs are written within a savepoint.
    pub async fn in_transaction(self, tx: &mut PgConnection) -> Result<Vec<Started>, Error> {
        write(self.enqueuer, &mut self.enqueuer.within(tx), self.runs).await
    }
}

impl<'e> IntoFuture for StartMany<'e> {
    type Output = Result<Vec<Started>, Error>;
    type IntoFuture = Pending<'e, Vec<Started>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(start(self.enqueuer, self.runs))
    }
}

/// In a transaction of our own, and again where that cannot start a run twice; then the hint to the workers.
async fn start(enqueuer: &Enqueuer, runs: &[NewRun]) -> Result<Vec<Started>, Error> {
    let repeatable = runs.iter().all(|run| run.key.is_some());
    let send = || async move { write(enqueuer, &mut enqueuer.access().session().await?, runs).await };
    let started = again(repeatable, send).await?;
    let at_once = runs
        .iter()
        .zip(&started)
        .filter(|(run, started)| started.created && run.run_at.is_none_or(|at| at <= Utc::now()));
    let told: BTreeSet<(&str, Option<i32>)> = at_once.map(|(run, _)| (run.workflow.as_str(), run.version)).collect();
    for (workflow, version) in told {
        if let Some(queue) = enqueuer.versions().first_queue(workflow, version) {
            enqueuer.notifier().notify(&queue);
        }
    }
    Ok(started)
}

/// Checks everything, then writes everything.
async fn write(enqueuer: &Enqueuer, session: &mut Session<'_>, runs: &[NewRun]) -> Result<Vec<Started>, Error> {
    let mut starts = Vec::with_capacity(runs.len());
    for run in runs {
        let start = run.check()?;
        let version = enqueuer.versions().get(session, &run.workflow, run.version).await?;
        check_against(&start, &version)?;
        starts.push(start);
    }
    let started = run::start(session, &starts).await?;
    Ok(started.into_iter().map(|started| Started { id: started.run_id, created: started.created }).collect())
}

fn check_against(start: &Start, version: &Version) -> Result<(), Error> {
    let bytes = start.input.len() as u64;
    if bytes > version.max_payload {
        return Err(Error::PayloadTooLarge { bytes, limit: version.max_payload });
    }
    version
        .check_input(&start.input)
        .map_err(|error| Error::InputInvalid { workflow: start.workflow.clone(), problems: error.message })
}

/// A start of one run gives one answer; anything else is not our schema.
fn one(started: &[Started]) -> Result<Started, Error> {
    started.first().copied().ok_or(Error::SchemaMissing)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_priorities_and_inputs_are_checked_before_anything_is_sent() {
        let run = || NewRun::new("w", &json!({}));
        assert!(run().key("k").priority(3).check().is_ok());
        assert!(run().key("é".repeat(512)).check().is_ok());
        for key in [String::new(), "x".repeat(513), "a\0b".to_owned()] {
            assert!(matches!(run().key(key).check(), Err(Error::InvalidKey { .. })));
        }
        for priority in [-1, 4] {
            assert!(matches!(run().priority(priority).check(), Err(Error::InvalidPriority { .. })));
        }
        let nul = NewRun::new("w", &json!({"text": "\0"}));
        assert!(matches!(nul.check(), Err(Error::PayloadInvalid(_))));
    }
}
