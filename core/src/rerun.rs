//! Going on with a run that ended, or running part of it anew: what its nodes gave is on record, and from that it is decided again what follows
//! (`successor::replay`). A block is one node here: it is run again as a whole, in new frames.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use sqlx::FromRow;
use uuid::Uuid;

use crate::graph::{Graph, NodeNumber, NodeResult, RunFacts, START, Values};
use crate::payload::Payload;
use crate::queue::SHARD;
use crate::session::Session;
use crate::state::{Outcome, RunState};
use crate::successor::replay::{Standing, replay};
use crate::workflow::{self, LoadedVersion};
use crate::{context, error::StepError};

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
    /// The definition has no such node in the run's own graph.
    #[error("workflow {workflow:?} version {version} has no node {node:?} in the run's own graph")]
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

/// What a rerun does, or did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The run: the one that goes on, or the new one; none of a rerun that is only planned.
    pub run_id: Option<Uuid>,
    /// The version it has.
    pub version: i32,
    /// Nodes whose result is taken as it is on record.
    pub reused: Vec<String>,
    /// Nodes that do not run, by what was decided before.
    pub skipped: Vec<String>,
    /// Nodes that run first.
    pub ready: Vec<String>,
    /// Nodes that may run after these.
    pub later: Vec<String>,
    /// The queues that got work.
    #[serde(skip)]
    pub queues: Vec<String>,
}

/// What is to be run anew.
#[derive(Clone, Debug)]
pub struct Rerun {
    /// The run whose records are used. It may have ended in any way, or go on.
    pub run_id: Uuid,
    /// The node that runs again, with all that comes after it.
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
    settling: bool,
}

/// How a node ended, and how often it was tried.
struct Record {
    attempt: i32,
    result: Option<NodeResult>,
}

/// Goes on with a run that failed or was canceled, from there: the same run, whose attempts go on counting. `plan`: only say what that would be.
pub async fn retry(session: &mut Session<'_>, run_id: Uuid, plan: bool) -> Result<Plan, Error> {
    let route = session.route();
    let mut transaction = session.begin().await?;
    let done = {
        let mut session = Session::within(&mut transaction, route);
        go_on(&mut session, run_id).await
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

async fn go_on(session: &mut Session<'_>, run_id: Uuid) -> Result<Plan, Error> {
    sqlx::query(include_str!("../sql/rerun/clear_pause.sql")).bind(SHARD).bind(run_id).execute(&mut *session).await?;
    sqlx::query(include_str!("../sql/rerun/lock.sql")).bind(SHARD).bind(run_id).execute(&mut *session).await?;
    let run = run_row(session, run_id).await?;
    let state = RunState::from_code(run.state).map_err(|error| sqlx::Error::Decode(error.into()))?;
    if !matches!(state, RunState::Failed | RunState::Canceled) {
        return Err(Error::NotFailed { run_id, state });
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
    let records = records(session, run_id).await?;
    let values = values(session, run_id, &run, &version, &run.input, run_id).await?;
    version.graph.check_input(&values.run.input).map_err(Error::Input)?;
    let values = Values { results: results(&records), ..values };
    let standing = stand(&version.graph, &values)?;
    sqlx::query(include_str!("../sql/rerun/reopen.sql")).bind(SHARD).bind(run_id).execute(&mut *session).await?;
    write(session, run_id, &run, &version, &standing, &records).await?;
    Ok(told(Some(run_id), &version, &standing))
}

/// Makes a new run that takes over what a run has on record, but for a node and all that comes after it. `plan`: only say what that would be.
pub async fn rerun(session: &mut Session<'_>, wanted: &Rerun, plan: bool) -> Result<Plan, Error> {
    let route = session.route();
    let mut transaction = session.begin().await?;
    let done = {
        let mut session = Session::within(&mut transaction, route);
        start_over(&mut session, wanted).await
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

async fn start_over(session: &mut Session<'_>, wanted: &Rerun) -> Result<Plan, Error> {
    let run = run_row(session, wanted.run_id).await?;
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
    let anew = downstream(version, &wanted.from)?;
    let mut records = records(session, wanted.run_id).await?;
    // by id, for another version may number its nodes otherwise
    let places: BTreeMap<NodeNumber, NodeNumber> = records
        .keys()
        .filter(|node| **node >= 0)
        .filter_map(|node| Some((version.graph.number(old.graph.id(*node))?, *node)))
        .filter(|(node, _)| !anew.contains(node) && version.graph.node(*node).is_some_and(|node| node.body == 0))
        .collect();
    records = places.iter().filter_map(|(node, old)| Some((*node, records.remove(old)?))).collect();
    let input = wanted.input.as_ref().map_or(run.input.as_str(), Payload::as_str);
    let new_id: Uuid = sqlx::query_scalar(include_str!("../sql/rerun/new_id.sql")).fetch_one(&mut *session).await?;
    let values = values(session, wanted.run_id, &run, version, input, new_id).await?;
    version.graph.check_input(&values.run.input).map_err(Error::Input)?;
    let values = Values { results: results(&records), ..values };
    let standing = stand(&version.graph, &values)?;
    sqlx::query(include_str!("../sql/rerun/insert_run.sql"))
        .bind(SHARD)
        .bind(new_id)
        .bind(wanted.run_id)
        .bind(version.version_id)
        .bind(input)
        .execute(&mut *session)
        .await?;
    let kept = standing.ended.iter().filter_map(|node| Some((*places.get(node)?, *node)));
    let start = standing.ended.contains(&START).then_some((START, START));
    let (from, to): (Vec<_>, Vec<_>) = kept.chain(start).unzip();
    let copied = sqlx::query(include_str!("../sql/rerun/copy_records.sql"))
        .bind(SHARD)
        .bind(new_id)
        .bind(wanted.run_id)
        .bind(&from)
        .bind(&to);
    copied.execute(&mut *session).await?;
    if version.graph.context().is_some() {
        sqlx::query(include_str!("../sql/rerun/copy_context.sql"))
            .bind(SHARD)
            .bind(new_id)
            .bind(wanted.run_id)
            .bind(&from)
            .execute(&mut *session)
            .await?;
    }
    // what is not on record is tried for the first time, whatever it was in the other run
    records.retain(|node, _| standing.ended.contains(node));
    write(session, new_id, &run, version, &standing, &records).await?;
    Ok(told(Some(new_id), version, &standing))
}

async fn run_row(session: &mut Session<'_>, run_id: Uuid) -> Result<RunRow, Error> {
    let row = sqlx::query_as(include_str!("../sql/rerun/run.sql")).bind(SHARD).bind(run_id);
    row.fetch_optional(&mut *session).await?.ok_or(Error::NotFound { run_id })
}

async fn load(session: &mut Session<'_>, version_id: i32, workflow: &str) -> Result<LoadedVersion, Error> {
    let missing = || Error::UnknownVersion { workflow: workflow.to_owned(), version: version_id };
    workflow::load(&mut *session, version_id).await?.ok_or_else(missing)
}

async fn records(session: &mut Session<'_>, run_id: Uuid) -> Result<BTreeMap<NodeNumber, Record>, Error> {
    type Row = (NodeNumber, i32, i16, Option<String>, Option<String>);
    let rows: Vec<Row> = sqlx::query_as(include_str!("../sql/rerun/records.sql"))
        .bind(SHARD)
        .bind(run_id)
        .fetch_all(&mut *session)
        .await?;
    let record = |(node, attempt, outcome, output, error): Row| {
        let result = match Outcome::from_code(outcome) {
            Ok(Outcome::Completed) => output.map(|output| NodeResult::Completed(Payload::trusted(output.into()))),
            Ok(Outcome::Failed | Outcome::Lost) => {
                error.map(|error| NodeResult::Failed(Payload::trusted(error.into())))
            }
            _ => None,
        };
        (node, Record { attempt, result })
    };
    Ok(rows.into_iter().map(record).collect())
}

fn results(records: &BTreeMap<NodeNumber, Record>) -> BTreeMap<NodeNumber, NodeResult> {
    records.iter().filter_map(|(node, record)| Some((*node, record.result.clone()?))).collect()
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
    // a new run has a key and a parent of its own: none
    let same = of == run_id;
    let facts = RunFacts {
        run_id,
        workflow: version.workflow.clone(),
        version: version.version,
        key: run.key.clone().filter(|_| same),
        parent: run.parent.filter(|_| same),
        input: Payload::trusted(input.into()),
    };
    let mut values = Values::new(Arc::new(facts));
    if version.graph.context().is_some() {
        let found = context::of_runs(&mut *session, &[of]).await?;
        values.context = found.get(&of).or_else(|| version.graph.context()).cloned();
    }
    Ok(values)
}

fn stand(graph: &Graph, values: &Values) -> Result<Standing, Error> {
    let standing = replay(graph, values).map_err(Error::Replay)?;
    if standing.ready.is_empty() { Err(Error::NothingToDo) } else { Ok(standing) }
}

/// The node and all that comes after it.
fn downstream(version: &LoadedVersion, from: &str) -> Result<BTreeSet<NodeNumber>, Error> {
    let graph = &version.graph;
    let number = graph.number(from).filter(|node| graph.node(*node).is_some_and(|node| node.body == 0));
    let unknown = || Error::UnknownNode {
        node: from.to_owned(),
        workflow: version.workflow.to_string(),
        version: version.version,
    };
    let mut open = vec![number.ok_or_else(unknown)?];
    let mut found = BTreeSet::new();
    while let Some(node) = open.pop() {
        if found.insert(node) {
            open.extend(graph.edges().iter().filter(|edge| edge.from == node).map(|edge| edge.to));
        }
    }
    Ok(found)
}

/// The step jobs, counts and skips of where a run stands.
async fn write(
    session: &mut Session<'_>,
    run_id: Uuid,
    run: &RunRow,
    version: &LoadedVersion,
    standing: &Standing,
    records: &BTreeMap<NodeNumber, Record>,
) -> Result<(), Error> {
    let (joins, skips) = (&standing.joins, &standing.skips);
    sqlx::query(include_str!("../sql/rerun/insert_joins.sql"))
        .bind(SHARD)
        .bind(run_id)
        .bind(joins.iter().map(|join| join.node).collect::<Vec<_>>())
        .bind(joins.iter().map(|join| join.resolved).collect::<Vec<_>>())
        .bind(joins.iter().map(|join| join.taken).collect::<Vec<_>>())
        .execute(&mut *session)
        .await?;
    sqlx::query(include_str!("../sql/rerun/insert_skips.sql"))
        .bind(SHARD)
        .bind(run_id)
        .bind(skips.iter().map(|skip| skip.node).collect::<Vec<_>>())
        .bind(skips.iter().map(|skip| skip.reason.as_str()).collect::<Vec<_>>())
        .execute(&mut *session)
        .await?;
    let ready: Vec<NodeNumber> = standing.ready.iter().copied().collect();
    let next = |node: &NodeNumber| records.get(node).map_or(1, |record| record.attempt + 1);
    sqlx::query(include_str!("../sql/rerun/insert_ready.sql"))
        .bind(SHARD)
        .bind(run_id)
        .bind(version.version_id)
        .bind(run.priority)
        .bind(&ready)
        .bind(ready.iter().map(next).collect::<Vec<_>>())
        .bind(ready.iter().map(|node| version.queue_id(*node)).collect::<Vec<_>>())
        .execute(&mut *session)
        .await?;
    Ok(())
}

fn told(run_id: Option<Uuid>, version: &LoadedVersion, standing: &Standing) -> Plan {
    let graph = &version.graph;
    let ids = |nodes: &mut dyn Iterator<Item = NodeNumber>| -> Vec<String> {
        nodes.filter(|node| *node >= 0).map(|node| graph.id(node).to_owned()).collect()
    };
    let skipped: BTreeSet<NodeNumber> = standing.skips.iter().map(|skip| skip.node).collect();
    let decided =
        |node: &NodeNumber| standing.ended.contains(node) || standing.ready.contains(node) || skipped.contains(node);
    let mut queues: Vec<String> = standing
        .ready
        .iter()
        .map(|node| graph.node(*node).map_or(&version.first_queue, |node| &node.queue).to_string())
        .collect();
    queues.dedup();
    let own = graph.nodes().iter().filter(|node| node.body == 0).map(|node| node.number);
    Plan {
        run_id,
        version: version.version,
        reused: ids(&mut standing.ended.iter().copied()),
        later: ids(&mut own.filter(|node| !decided(node))),
        skipped: ids(&mut skipped.iter().copied()),
        ready: ids(&mut standing.ready.iter().copied()),
        queues,
    }
}
