//! The published versions a worker has met, compiled once each. A version never changes, so nothing here is ever stale.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use longshore_core::graph::NodeNumber;
use longshore_core::session::Access;
use longshore_core::workflow::{self, LoadedVersion};

use crate::metrics::{Metrics, StepMetrics};

/// Kept at most; beyond it the cache starts again (a fleet that runs thousands of versions at once pays with reads).
const MAX_KEPT: usize = 1000;

/// A version, and the metrics of its nodes once they are used: looking those up by name for every step would cost more than the step's plan.
pub(crate) struct Version {
    loaded: LoadedVersion,
    metrics: Vec<OnceLock<Arc<StepMetrics>>>,
}

impl std::ops::Deref for Version {
    type Target = LoadedVersion;

    fn deref(&self) -> &LoadedVersion {
        &self.loaded
    }
}

impl Version {
    fn new(loaded: LoadedVersion) -> Self {
        let metrics = loaded.graph.nodes().iter().map(|_| OnceLock::new()).collect();
        Self { loaded, metrics }
    }

    /// The metrics of a task node.
    pub(crate) fn metrics(&self, metrics: &Metrics, number: NodeNumber) -> Option<Arc<StepMetrics>> {
        let node = self.graph.node(number)?;
        let kept = self.metrics.get(usize::try_from(number).ok()?)?;
        let made = || metrics.step(&node.queue, &self.workflow, node.handler().map_or("", |handler| handler));
        Some(kept.get_or_init(made).clone())
    }
}

/// A cache of compiled versions.
pub(crate) struct Versions {
    access: Access,
    kept: RwLock<HashMap<i32, Arc<Version>>>,
}

impl Versions {
    pub(crate) fn new(access: Access) -> Self {
        Self { access, kept: RwLock::default() }
    }

    /// The version, if the worker has met it.
    pub(crate) fn kept(&self, version_id: i32) -> Option<Arc<Version>> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner).get(&version_id).cloned()
    }

    /// The version from Postgres; `None` when there is no such version, and the problem in words when this binary cannot read it.
    pub(crate) async fn get(&self, version_id: i32) -> Result<Option<Result<Arc<Version>, String>>, workflow::Error> {
        let version = match workflow::load(&self.access, version_id).await {
            Ok(Some(version)) => Arc::new(Version::new(version)),
            Ok(None) => return Ok(None),
            Err(problem @ workflow::Error::Unreadable { .. }) => return Ok(Some(Err(problem.to_string()))),
            Err(error) => return Err(error),
        };
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(version_id, version.clone());
        Ok(Some(Ok(version)))
    }
}
