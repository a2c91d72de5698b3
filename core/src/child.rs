//! Child runs as the steps that wait for them read them. How they begin and how their end is told is in `attempt::children`.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::{PgExecutor, Row};
use uuid::Uuid;

use crate::attempt::Left;
use crate::error::{self, ErrorKind, StepError};
use crate::graph::Subflow;
use crate::payload::Payload;
use crate::queue::{SHARD, StepRef};
use crate::results;
use crate::state::RunState;

/// The run that a step waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// When the step began to wait.
    pub since: DateTime<Utc>,
    /// The run.
    pub run_id: Uuid,
    /// The step was woken.
    pub woken: bool,
    /// Where the run stands; none: it is gone.
    pub state: Option<RunState>,
    /// What it gave, if that was asked for.
    pub output: Option<Payload>,
    /// What it says of its failure, if that was asked for.
    pub error: Option<Payload>,
}

impl Child {
    /// The step can go on: it waits, and there is nothing more to wait for.
    #[must_use]
    pub fn wakes(&self) -> bool {
        !self.woken && self.state.is_none_or(RunState::has_ended)
    }

    /// How the step that waited ends, and the run that it waits for no more: a step that was woken before its run had ended was woken by time.
    pub fn end(&self, subflow: &Subflow) -> (Result<Payload, StepError>, Option<Left>) {
        let of = format!("run {} of workflow {}", self.run_id, subflow.workflow);
        let error = match self.state {
            Some(RunState::Completed) => return (Ok(self.output.clone().unwrap_or_else(Payload::null)), None),
            Some(RunState::Failed) => {
                let own = self.error.as_ref().map(StepError::from_payload);
                let own = own.unwrap_or_else(|| StepError::permanent(error::LOST, "it says no error"));
                StepError {
                    details: own.details,
                    from_child: true,
                    ..StepError::new(&own.name, own.kind, &format!("{of} failed: {}", own.message))
                }
            }
            Some(RunState::Canceled) => {
                let why = self
                    .error
                    .as_ref()
                    .map(StepError::from_payload)
                    .map(|own| own.message)
                    .filter(|why| !why.is_empty());
                let why = why.map_or_else(String::new, |why| format!(": {why}"));
                StepError::new(error::SUBFLOW_CANCELED, ErrorKind::Canceled, &format!("{of} was canceled{why}"))
            }
            None => error::gone(&of),
            Some(RunState::Queued | RunState::Running | RunState::Paused) => {
                let left = Left {
                    run_id: self.run_id,
                    workflow: Arc::clone(&subflow.workflow),
                    close_policy: subflow.close_policy,
                };
                let late = StepError::new(error::TIMEOUT, ErrorKind::Timeout, &format!("{of} did not end in time"));
                return (Err(late), Some(left));
            }
        };
        (Err(error), None)
    }
}

/// The runs that these steps wait for, with what they gave if that is asked for; none for a step that waits for no run. Sends nothing when asked for
/// nothing.
pub async fn of_waits(
    db: impl PgExecutor<'_>,
    waits: &[StepRef],
    with_results: bool,
) -> Result<Vec<Option<Child>>, sqlx::Error> {
    let mut found = vec![Vec::new(); waits.len()];
    if waits.is_empty() {
        return Ok(Vec::new());
    }
    let (runs, frames, nodes) = results::columns(waits.iter().copied());
    let rows = sqlx::query(include_str!("../sql/child/of_waits.sql"))
        .bind(SHARD)
        .bind(runs)
        .bind(frames)
        .bind(nodes)
        .bind(with_results)
        .fetch_all(db)
        .await?;
    for row in rows {
        let payload = |name: &str| {
            let text: Option<&str> = row.try_get(name)?;
            Ok::<_, sqlx::Error>(text.map(|text| Payload::trusted(text.into())))
        };
        let state: Option<i16> = row.try_get("state")?;
        let state = state.map(RunState::from_code).transpose().map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        let child = Child {
            since: row.try_get("since")?,
            run_id: row.try_get("child_run_id")?,
            woken: row.try_get("woken")?,
            state,
            output: payload("output")?,
            error: payload("error")?,
        };
        results::put(&mut found, row.try_get("of_step")?, child);
    }
    Ok(found.into_iter().map(|mut child| child.pop()).collect())
}

/// How many runs are around each of these. Sends nothing when asked for nothing.
pub async fn depths(db: impl PgExecutor<'_>, runs: &[Uuid]) -> Result<Vec<(Uuid, i32)>, sqlx::Error> {
    if runs.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query_as(include_str!("../sql/child/depths.sql")).bind(SHARD).bind(runs).fetch_all(db).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::definition::{ChildVersion, ClosePolicy, SubflowMode};
    use crate::retry::RetryPolicies;

    fn subflow() -> Subflow {
        Subflow {
            workflow: "ship".into(),
            version: ChildVersion::Pinned,
            mode: SubflowMode::Wait,
            close_policy: ClosePolicy::Terminate,
            timeout: None,
            retry: RetryPolicies::default(),
        }
    }

    fn child(state: Option<RunState>) -> Child {
        Child {
            since: DateTime::from_timestamp(0, 0).unwrap(),
            run_id: Uuid::nil(),
            woken: true,
            state,
            output: (state == Some(RunState::Completed)).then(|| Payload::of(&7).unwrap()),
            error: Some(StepError::new("no_stock", ErrorKind::Retryable, "none left").to_payload()),
        }
    }

    #[test]
    fn the_end_of_the_run_is_that_of_the_step() {
        let end = |state| child(state).end(&subflow());
        assert_eq!(end(Some(RunState::Completed)), (Ok(Payload::of(&7).unwrap()), None));
        let (failed, left) = end(Some(RunState::Failed));
        let failed = failed.unwrap_err();
        assert_eq!((failed.name.as_str(), failed.kind, left), ("no_stock", ErrorKind::Retryable, None));
        assert!(failed.from_child);
        assert_eq!(failed.message, format!("run {} of workflow ship failed: none left", Uuid::nil()));
        assert_eq!(end(Some(RunState::Canceled)).0.unwrap_err().name, "subflow_canceled");
        assert_eq!(end(None).0.unwrap_err().name, "lost");
    }

    #[test]
    fn a_run_that_goes_on_when_its_step_was_woken_is_left() {
        let (late, left) = child(Some(RunState::Running)).end(&subflow());
        let late = late.unwrap_err();
        assert_eq!((late.name.as_str(), late.from_child), ("timeout", false));
        assert_eq!(left.unwrap().close_policy, ClosePolicy::Terminate);
    }

    #[test]
    fn only_a_run_that_ended_wakes_and_once() {
        let wakes = |state, woken| Child { woken, ..child(state) }.wakes();
        assert!(wakes(Some(RunState::Failed), false) && wakes(None, false));
        assert!(!wakes(Some(RunState::Failed), true) && !wakes(Some(RunState::Running), false));
    }
}
