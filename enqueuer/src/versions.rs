//! What the enqueuer remembers of published versions: their input schema and first queue.
//!
//! A version never changes, so it is kept; which one is the latest is asked again after five seconds. A start that is checked
//! against a version just replaced is checked again by the run's first step.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use longshore_core::definition::is_id;
use longshore_core::error::StepError;
use longshore_core::graph::Graph;
use longshore_core::payload::Payload;
use longshore_core::session::Session;
use longshore_core::{run, workflow};

use crate::Error;

/// How long the latest version and the limit are believed.
const FRESH: Duration = Duration::from_secs(5);

/// Entries of either map before it is emptied.
const BOUND: usize = 1000;

/// What a start needs to know of its version.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    /// Largest input in bytes of JSON text.
    pub(crate) max_payload: u64,
    facts: Arc<Facts>,
}

impl Version {
    /// Checks the input against the version's schema, if it has one.
    pub(crate) fn check_input(&self, input: &Payload) -> Result<(), StepError> {
        self.facts.graph.as_ref().map_or(Ok(()), |graph| graph.check_input(input))
    }
}

#[derive(Debug, Default)]
struct Facts {
    /// Only if it has an input schema that this library can read.
    graph: Option<Graph>,
    first_queue: Option<Arc<str>>,
}

/// A workflow's name, and the version if not the latest.
type Asked = (String, Option<i32>);

/// The caches of an enqueuer.
#[derive(Debug, Default)]
pub(crate) struct Versions {
    latest: Mutex<HashMap<Asked, (Version, Instant)>>,
    kept: Mutex<HashMap<i32, Arc<Facts>>>,
}

impl Versions {
    /// The version a start of `workflow` will take, read over `session` unless it is fresh.
    pub(crate) async fn get(
        &self,
        session: &mut Session<'_>,
        workflow: &str,
        version: Option<i32>,
    ) -> Result<Version, Error> {
        let key = (workflow.to_owned(), version);
        if let Some((known, read_at)) = lock(&self.latest).get(&key)
            && read_at.elapsed() < FRESH
        {
            return Ok(known.clone());
        }
        let version_id = find(session, workflow, version).await?;
        let facts = self.facts(session, version_id).await?;
        let found = Version { max_payload: run::max_payload(session).await?, facts };
        keep(&self.latest, key, (found.clone(), Instant::now()));
        Ok(found)
    }

    /// The queue of the first step of a version asked for before.
    pub(crate) fn first_queue(&self, workflow: &str, version: Option<i32>) -> Option<Arc<str>> {
        let latest = lock(&self.latest);
        latest.get(&(workflow.to_owned(), version))?.0.facts.first_queue.clone()
    }

    async fn facts(&self, session: &mut Session<'_>, version_id: i32) -> Result<Arc<Facts>, Error> {
        if let Some(facts) = lock(&self.kept).get(&version_id) {
            return Ok(Arc::clone(facts));
        }
        let facts = match workflow::load(session, version_id).await {
            Ok(Some(version)) => Facts {
                first_queue: Some(version.first_queue),
                graph: Some(version.graph).filter(|graph| graph.input_schema_value().is_some()),
            },
            Ok(None) => Facts::default(),
            Err(workflow::Error::Database(error)) => return Err(error.into()),
            Err(error) => {
                // Newer than this library: the run's first step checks the input, as it does in any case.
                tracing::warn!(%error, "the input is not checked against the schema before the start");
                Facts::default()
            }
        };
        let facts = Arc::new(facts);
        keep(&self.kept, version_id, Arc::clone(&facts));
        Ok(facts)
    }
}

async fn find(session: &mut Session<'_>, workflow: &str, version: Option<i32>) -> Result<i32, Error> {
    let unknown = || Error::UnknownWorkflow { workflow: workflow.to_owned() };
    if !is_id(workflow) {
        return Err(unknown()); // perhaps no text that Postgres takes
    }
    let database = |error| match error {
        workflow::Error::Database(error) => Error::from(error),
        _ => unknown(),
    };
    match (workflow::find(&mut *session, workflow, version).await.map_err(database)?, version) {
        (Some(version_id), _) => Ok(version_id),
        (None, None) => Err(unknown()),
        (None, Some(version)) => match workflow::find(session, workflow, None).await.map_err(database)? {
            Some(_) => Err(Error::UnknownVersion { workflow: workflow.to_owned(), version: version.into() }),
            None => Err(unknown()),
        },
    }
}

fn keep<K: std::hash::Hash + Eq, V>(map: &Mutex<HashMap<K, V>>, key: K, value: V) {
    let mut map = lock(map);
    if map.len() >= BOUND {
        map.clear();
    }
    map.insert(key, value);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
