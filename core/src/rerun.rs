//! Going on with a run that ended, or running part of it anew: what its nodes gave is on record, and from that it is decided again what follows
//! (`successor::replay`), within blocks too (`course`, `block`).

mod block;
mod course;
mod past;
mod place;
mod write;

use std::pin::Pin;
use std::sync::Arc;

use serde::Serialize;
use sqlx::FromRow;
use uuid::Uuid;

use crate::graph::{NodeNumber, RunFacts, Values};
use crate::payload::Payload;
use crate::queue::SHARD;
use crate::session::Session;
use crate::state::RunState;
use crate::workflow::{self, LoadedVersion};
use crate::{context, error::StepError};
use course::{Course, From, Instance, Plotter, Stand, Told};
use past::Past;
use place::Place;

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

/// Goes on with a run that failed or was canceled, from there: the same run, whose attempts go on counting. `plan`: only say what that would be.
pub async fn retry(session: &mut Session<'_>, run_id: Uuid, plan: bool) -> Result<Plan, Error> {
    let route = session.route();
    let mut transaction = session.begin().await?;
    let done = {
        let mut session = Session::within(&mut transaction, route);
        go_on(&mut session, run_id, false).await
    };
    match done {
        Ok(done) if !plan => {
            transaction.commit().await?;
            Ok(done)
        }
        other => {
            transaction.rollback().await?;
            other
        }
    }
}

/// `awaited`: for a step of its parent, which goes on in the same transaction and waits for it again.
async fn go_on(session: &mut Session<'_>, run_id: Uuid, awaited: bool) -> Result<Plan, Error> {
    sqlx::query(include_str!("../sql/rerun/clear_pause.sql")).bind(SHARD).bind(run_id).execute(&mut *session).await?;
    sqlx::query(include_str!("../sql/rerun/lock.sql")).bind(SHARD).bind(run_id).execute(&mut *session).await?;
    let run = run_row(session, run_id).await?;
    let state = RunState::from_code(run.state).map_err(|error| sqlx::Error::Decode(error.into()))?;
    if !matches!(state, RunState::Failed | RunState::Canceled) {
        return Err(Error::NotFailed { run_id, state });
    }
    if let Some(parent) = run.parent.filter(|_| run.bound_to_parent && !awaited) {
        return Err(Error::OfParent { run_id, parent });
    }
    for sql in [
        include_str!("../sql/rerun/clear_ready.sql"),
        include_str!("../sql/rerun/clear_delayed.sql"),
        include_str!("../sql/rerun/clear_joins.sql"),
    ] {
        sqlx::query(sql).bind(SHARD).bind(run_id).execute(&mut *session).await?;
    }
    // a lane that claimed one of them meanwhile is seen now
    if run_row(session, run_id).await?.settling {
        return Err(Error::Settling { run_id });
    }
    let version = load(session, run.version_id, &run.workflow).await?;
    let past = Past::read(session, run_id, &[]).await?;
    let values = values(session, run_id, &run, &version, &run.input, run_id).await?;
    version.graph.check_input(&values.run.input).map_err(Error::Input)?;
    let mut course = plot(Plotter { graph: &version.graph, past: &past, anew: false }, &values, None)?;
    let mut queues = Vec::new();
    for call in std::mem::take(&mut course.calls) {
        match go_on_for_parent(session, call.run_id).await {
            Ok(plan) => {
                write::wait_again(session, run_id, &run, &version, &call).await?;
                queues.extend(plan.queues.iter().cloned());
                course.told.add(of_child(&call.prefix, plan));
            }
            // it cannot go on, so the step starts another
            Err(Error::NothingToDo | Error::Replay(_) | Error::Input(_) | Error::UnknownVersion { .. }) => {
                course.told.ready.push(call.prefix.trim_end_matches('/').to_owned());
                course.jobs.push(call.job());
            }
            Err(error) => return Err(error),
        }
    }
    sqlx::query(include_str!("../sql/rerun/reopen.sql")).bind(SHARD).bind(run_id).execute(&mut *session).await?;
    write::go_on(session, run_id, &run, &version, &course).await?;
    queues.extend(write::queues(&version, &course));
    Ok(told(Some(run_id), &version, course.told, queues))
}

/// The same of a run that a step of such a run waits for.
fn go_on_for_parent<'s>(
    session: &'s mut Session<'_>,
    run_id: Uuid,
) -> Pin<Box<dyn Future<Output = Result<Plan, Error>> + Send + 's>> {
    Box::pin(go_on(session, run_id, true))
}

/// Makes a new run that takes over what a run has on record, but for a node and all that comes after it. `plan`: only say what that would be.
pub async fn rerun(session: &mut Session<'_>, wanted: &Rerun, plan: bool) -> Result<Plan, Error> {
    let route = session.route();
    let mut transaction = session.begin().await?;
    let done = {
        let mut session = Session::within(&mut transaction, route);
        start_over(&mut session, wanted, None).await
    };
    match done {
        Ok(done) if !plan => {
            transaction.commit().await?;
            Ok(done)
        }
        Ok(done) => {
            transaction.rollback().await?;
            Ok(Plan { run_id: None, ..done })
        }
        Err(error) => {
            transaction.rollback().await?;
            Err(error)
        }
    }
}

/// The step of a new run that waits for another new run.
#[derive(Clone, Copy)]
struct Awaits {
    run_id: Uuid,
    frame: i32,
    node: NodeNumber,
}

/// The same of a run for which a step of such a run waits.
fn start_over_for_parent<'s>(
    session: &'s mut Session<'_>,
    wanted: &'s Rerun,
    parent: Awaits,
) -> Pin<Box<dyn Future<Output = Result<Plan, Error>> + Send + 's>> {
    Box::pin(start_over(session, wanted, Some(parent)))
}

async fn start_over(session: &mut Session<'_>, wanted: &Rerun, parent: Option<Awaits>) -> Result<Plan, Error> {
    let of = wanted.run_id;
    // a new run has a key and a parent of its own, or none
    let run = RunRow { parent: parent.map(|parent| parent.run_id), key: None, ..run_row(session, of).await? };
    let old = load(session, run.version_id, &run.workflow).await?;
    let version = match wanted.version {
        None => None,
        Some(Version::Latest) => workflow::find(&mut *session, &run.workflow, None).await?,
        Some(Version::Number(number)) => {
            let found = workflow::find(&mut *session, &run.workflow, Some(number)).await?;
            let missing = || Error::UnknownVersion { workflow: run.workflow.clone(), version: number };
            Some(found.ok_or_else(missing)?)
        }
    };
    let newer = match version.filter(|version| *version != old.version_id) {
        Some(version) => Some(load(session, version, &run.workflow).await?),
        None => None,
    };
    let version = newer.as_ref().unwrap_or(&old);
    let place = Place::parse(version, &wanted.from)?;
    let refused = |why: &str| Error::Place { place: wanted.from.clone(), why: why.to_owned() };
    if newer.is_some() && !(place.within.is_empty() && place.child.is_none()) {
        return Err(refused("within a block or a child run it begins anew only in the version that the run has"));
    }
    // by id, for another version may number its nodes otherwise
    let own = |node: &NodeNumber| version.graph.node(*node).is_some_and(|node| node.body == 0);
    let new_number = |node: NodeNumber| match newer {
        Some(_) => version.graph.number(old.graph.id(node)).filter(own),
        None => Some(node),
    };
    let old_number = |node: NodeNumber| match newer {
        Some(_) => old.graph.number(version.graph.id(node)),
        None => Some(node),
    };
    let past = Past::read(session, of, &place.within).await?;
    let input = wanted.input.as_ref().map_or(run.input.as_str(), Payload::as_str);
    let new_id: Uuid = sqlx::query_scalar(include_str!("../sql/rerun/new_id.sql")).fetch_one(&mut *session).await?;
    let new_id = parent.map_or(new_id, |parent| after(parent.run_id, new_id));
    let values = values(session, of, &run, version, input, new_id).await?;
    version.graph.check_input(&values.run.input).map_err(Error::Input)?;
    let renumbered = newer.is_some().then(|| past.renumbered(new_number));
    let plotter = Plotter { graph: &version.graph, past: renumbered.as_ref().unwrap_or(&past), anew: true };
    let mut course = plot(plotter, &values, Some(From::place(&place)))?;
    sqlx::query(include_str!("../sql/rerun/insert_run.sql"))
        .bind(SHARD)
        .bind(new_id)
        .bind(of)
        .bind(version.version_id)
        .bind(input)
        .bind(parent.map(|parent| parent.run_id))
        .bind(parent.map(|parent| parent.frame))
        .bind(parent.map(|parent| parent.node))
        .execute(&mut *session)
        .await?;
    write::take_over(session, (new_id, of), &course, &past, old_number).await?;
    if version.graph.context().is_some() {
        write::take_over_context(session, (new_id, of), &course, &past, new_number).await?;
    }
    write::go_on(session, new_id, &run, version, &course).await?;
    let mut queues = write::queues(version, &course);
    for call in std::mem::take(&mut course.calls) {
        let from = place.child.clone().unwrap_or_default();
        let wanted = Rerun { run_id: call.run_id, from, input: None, version: None };
        let parent = Awaits { run_id: new_id, frame: call.frame, node: call.node };
        let plan = start_over_for_parent(session, &wanted, parent).await?;
        if let Some(run_id) = plan.run_id {
            write::wait_again(session, new_id, &run, version, &course::Call { run_id, ..call.clone() }).await?;
        }
        queues.extend(plan.queues.iter().cloned());
        course.told.add(of_child(&call.prefix, plan));
    }
    Ok(told(Some(new_id), version, course.told, queues))
}

/// The id of a run that another waits for: runs are locked in the order of their ids, the parent first.
fn after(parent: Uuid, id: Uuid) -> Uuid {
    if id > parent {
        return id;
    }
    let (millis, random) = ((parent.as_u128() >> 80) as u64 + 1, id.as_bytes());
    let random = [6, 7, 8, 9, 10, 11, 12, 13, 14, 15].map(|at| random.get::<usize>(at).copied().unwrap_or(0));
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
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
