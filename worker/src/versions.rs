//! The published versions a worker has met, compiled once each. A version never changes, so nothing here is ever stale.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use longshore_core::workflow::{self, LoadedVersion};
use sqlx::PgPool;

/// Kept at most; beyond it the cache starts again (a fleet that runs thousands of versions at once pays with reads).
const MAX_KEPT: usize = 1000;

/// A cache of compiled versions.
#[derive(Debug)]
pub(crate) struct Versions {
    pool: PgPool,
    kept: RwLock<HashMap<i32, Arc<LoadedVersion>>>,
}

impl Versions {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self { pool, kept: RwLock::default() }
    }

    /// The version, if the worker has met it.
    pub(crate) fn kept(&self, version_id: i32) -> Option<Arc<LoadedVersion>> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner).get(&version_id).cloned()
    }

    /// The version from Postgres; `None` when there is no such version, and the problem in words when this binary cannot read it.
    pub(crate) async fn get(
        &self,
        version_id: i32,
    ) -> Result<Option<Result<Arc<LoadedVersion>, String>>, workflow::Error> {
        let mut connection = self.pool.acquire().await.map_err(workflow::Error::from)?;
        let version = match workflow::load(&mut *connection, version_id).await {
            Ok(Some(version)) => Arc::new(version),
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
