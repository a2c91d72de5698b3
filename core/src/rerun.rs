//! Going on with a run that ended, or running part of it anew: what its nodes gave is on record, and from that it is decided again what follows
//! (`successor::replay`), within blocks too (`course`, `block`).

mod anew;
mod block;
mod changes;
mod course;
mod go_on;
mod past;
mod place;
mod write;

use std::sync::Arc;

use serde::Serialize;
use sqlx::{FromRow, Postgres, Transaction};
use uuid::Uuid;

use crate::graph::{RunFacts, Values};
use crate::payload::Payload;
use crate::queue::SHARD;
use crate::session::Session;
use crate::state::RunState;
use crate::workflow::{self, LoadedVersion};
use crate::{context, error::StepError};
pub use anew::rerun;
use course::{Course, From, Instance, Plotter, Stand, Told};
pub use go_on::retry;

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such run, or it was pruned.
    #[error("there is no run {run_id}: it is not committed, or it was pruned")]
    NotFound {
        /// The id asked for.
        run_id: Uuid,
    },
    /// Only a run that failed or was canceled can be tried again.
    #[error("run {run_id} is {state}: only a run that failed or was canceled can be tried again")]
    NotFailed {
        /// The run.
        run_id: Uuid,
        /// Where it stands.
        state: RunState,
    },
    /// Steps of it may still be out: try again in some seconds.
    #[error("the end of run {run_id} is not settled yet: steps of it may still be out; try again in some seconds")]
    Settling {
        /// The run.
        run_id: Uuid,
    },
    /// The definition has no such node at that place.
    #[error(
        "workflow {workflow:?} version {version} has no node {node:?}; within blocks write their iterations, such as each[3]/charge"
    )]
    UnknownNode {
        /// The node asked for.
        node: String,
        /// The workflow.
        workflow: String,
        /// The version.
        version: i32,
    },
    /// The workflow has no such version.
    #[error("workflow {workflow:?} has no version {version}")]
    UnknownVersion {
        /// The workflow.
        workflow: String,
        /// The version asked for.
        version: i32,
    },
    /// The run cannot begin anew at that place.
    #[error("{place}: {why}")]
    Place {
        /// The place asked for.
        place: String,
        /// Why not.
        why: String,
    },
    /// A run that was to end with the run that started it is tried again with that, or not at all.
    #[error("run {run_id} was started by run {parent}, with which it was to end: try that one again")]
    OfParent {
        /// The run.
        run_id: Uuid,
        /// The run that started it.
        parent: Uuid,
    },
    /// All that is taken over, and nothing would run: the node's turn does not come.
    #[error("nothing would run: from what the run has on record, no node's turn comes")]
    NothingToDo,
    /// What is on record cannot be gone through again.
    #[error("the records of the run cannot be gone through again: {0}")]
    Replay(StepError),
    /// What was changed of the context, and is taken over, cannot be done without what is not.
    #[error("the context cannot be taken over without what is run anew: {0}; begin with an earlier node")]
    Context(String),
    /// The new input cannot be stored, or is not what the version demands.
    #[error("the input is refused: {0}")]
    Input(StepError),
    /// The version cannot be read.
    #[error(transparent)]
    Version(#[from] workflow::Error),
    /// Postgres refused a statement or could not be reached.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// What a rerun does, or did. Nodes within blocks are named by their places, such as `each[3]/charge`; several iterations as one, such as `each[0-2]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The run: the one that goes on, or the new one; none of a rerun that is only planned.
    pub run_id: Option<Uuid>,
    /// The version it has.
    pub version: i32,
    /// Nodes whose result is taken as it is on record, and iterations of blocks that go on.
    pub reused: Vec<String>,
    /// Nodes that do not run, by what was decided before.
    pub skipped: Vec<String>,
    /// Nodes that run first.
    pub ready: Vec<String>,
    /// Nodes that may run after these, and iterations that begin later.
    pub later: Vec<String>,
    /// Blocks that go on within, where they stood.
    pub taken_up: Vec<String>,
    /// Those of the nodes that run first which are blocks that had begun, and cannot be taken up: they run again as a whole, in new frames.
    pub whole: Vec<String>,
    /// The queues that got work.
    #[serde(skip)]
    pub queues: Vec<String>,
}

/// What is to be run anew.
#[derive(Clone, Debug)]
pub struct Rerun {
    /// The run whose records are used. It may have ended in any way, or go on.
    pub run_id: Uuid,
    /// The node that runs again, with all that comes after it; within blocks by its place, such as `each[3]/charge`.
    pub from: String,
    /// Another input for the new run; the old one's if none. It is what `run.input` says; what is taken over stays as it is.
    pub input: Option<Payload>,
    /// The version, the run's own if none.
    pub version: Option<Version>,
}

/// A version to run anew in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The latest.
    Latest,
    /// That of this number.
    Number(i32),
}

#[derive(FromRow)]
struct RunRow {
    version_id: i32,
    state: i16,
    priority: i16,
    workflow: String,
    input: String,
    key: Option<String>,
    parent: Option<Uuid>,
    bound_to_parent: bool,
    settling: bool,
}

/// What was done stays, unless it failed or was only to be planned.
async fn end<T>(transaction: Transaction<'_, Postgres>, done: Result<T, Error>, plan: bool) -> Result<T, Error> {
    if done.is_ok() && !plan {
        transaction.commit().await?;
    } else {
        transaction.rollback().await?;
    }
    done
}

async fn run_row(session: &mut Session<'_>, run_id: Uuid) -> Result<RunRow, Error> {
    let row = sqlx::query_as(include_str!("../sql/rerun/run.sql")).bind(SHARD).bind(run_id);
    row.fetch_optional(&mut *session).await?.ok_or(Error::NotFound { run_id })
}

async fn load(session: &mut Session<'_>, version_id: i32, workflow: &str) -> Result<LoadedVersion, Error> {
    let missing = || Error::UnknownVersion { workflow: workflow.to_owned(), version: version_id };
    workflow::load(&mut *session, version_id).await?.ok_or_else(missing)
}

/// What expressions read, but for the nodes' results.
async fn values(
    session: &mut Session<'_>,
    of: Uuid,
    run: &RunRow,
    version: &LoadedVersion,
    input: &str,
    run_id: Uuid,
) -> Result<Values, Error> {
    let facts = RunFacts {
        run_id,
        workflow: version.workflow.clone(),
        version: version.version,
        key: run.key.clone(),
        parent: run.parent,
        input: Payload::trusted(input.into()),
        mocks: None,
    };
    let mut values = Values::new(Arc::new(facts));
    if version.graph.context().is_some() {
        let found = context::of_runs(&mut *session, &[of]).await?;
        values.context = found.get(&of).or_else(|| version.graph.context()).cloned();
    }
    Ok(values)
}

/// Where a run goes on.
fn plot(plotter: Plotter<'_>, values: &Values, from: Option<From<'_>>) -> Result<Course, Error> {
    match plotter.body(Instance { frame: 0, body: 0, values, prefix: "" }, from)? {
        Stand::GoesOn(course) => Ok(course),
        Stand::Complete(..) | Stand::Nothing => Err(Error::NothingToDo),
    }
}

/// What is told of a child run, as part of its parent.
fn of_child(prefix: &str, plan: Plan) -> Told {
    let places = |places: Vec<String>| places.into_iter().map(|place| format!("{prefix}{place}")).collect();
    let mut told = Told {
        reused: places(plan.reused),
        skipped: places(plan.skipped),
        ready: places(plan.ready),
        later: places(plan.later),
        taken_up: places(plan.taken_up),
        whole: places(plan.whole),
    };
    told.taken_up.push(prefix.trim_end_matches('/').to_owned());
    told
}

fn told(run_id: Option<Uuid>, version: &LoadedVersion, told: Told, mut queues: Vec<String>) -> Plan {
    queues.sort_unstable();
    queues.dedup();
    let Told { reused, skipped, ready, later, taken_up, whole } = told;
    Plan { run_id, version: version.version, reused, skipped, ready, later, taken_up, whole, queues }
}
