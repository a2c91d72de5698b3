//! Making a new run that takes over from another, and, where it begins within a child run, a new child that takes over from that one.

use std::pin::Pin;

use uuid::Uuid;

use super::changes::{self, Taken};
use super::course::{Call, From, Plotter};
use super::past::Past;
use super::place::Place;
use super::{Error, Plan, Rerun, RunRow, Version, end, load, of_child, plot, run_row, told, values, write};
use crate::graph::NodeNumber;
use crate::payload::Payload;
use crate::queue::SHARD;
use crate::session::Session;
use crate::workflow;

/// Makes a new run that takes over what a run has on record, but for a node and all that comes after it. `plan`: only say what that would be.
pub async fn rerun(session: &mut Session<'_>, wanted: &Rerun, plan: bool) -> Result<Plan, Error> {
    let route = session.route();
    let mut transaction = session.begin().await?;
    let done = {
        let mut session = Session::within(&mut transaction, route);
        // the other run may go on meanwhile: all that is taken over is of one moment
        sqlx::query(include_str!("../../sql/rerun/one_moment.sql")).execute(&mut session).await?;
        start_over(&mut session, wanted, None).await
    };
    let (run_id, done) = end(transaction, done, plan).await?;
    Ok(Plan { run_id: (!plan).then_some(run_id), ..done })
}

/// A new run, and what it does.
type Started = Result<(Uuid, Plan), Error>;

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
) -> Pin<Box<dyn Future<Output = Started> + Send + 's>> {
    Box::pin(start_over(session, wanted, Some(parent)))
}

async fn start_over(session: &mut Session<'_>, wanted: &Rerun, parent: Option<Awaits>) -> Started {
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
    let mut past = Past::read(session, of, &place.within).await?;
    let input = wanted.input.as_ref().map_or(run.input.as_str(), Payload::as_str);
    let new_id: Uuid = sqlx::query_scalar(include_str!("../../sql/rerun/new_id.sql")).fetch_one(&mut *session).await?;
    let new_id = parent.map_or(new_id, |parent| after(parent.run_id, new_id));
    let values = values(session, of, &run, version, input, new_id).await?;
    version.graph.check_input(&values.run.input).map_err(Error::Input)?;
    let mut renumbered = newer.is_some().then(|| past.renumbered(new_number));
    let decided = renumbered.as_mut().unwrap_or(&mut past);
    decided.read_then(session, of, version).await?;
    let plotter = Plotter { graph: &version.graph, past: renumbered.as_ref().unwrap_or(&past), anew: true };
    let mut course = plot(plotter, &values, Some(From::place(&place)))?;
    sqlx::query(include_str!("../../sql/rerun/insert_run.sql"))
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
        let from = From::place(&place).first().and_then(old_number);
        let taken = Taken::new(&course, &past, &old.graph, new_number, from);
        changes::take_over(session, (new_id, of), taken).await?;
    }
    write::go_on(session, new_id, &run, version, &course).await?;
    let mut queues = write::queues(version, &course);
    for call in std::mem::take(&mut course.calls) {
        let from = place.child.clone().unwrap_or_default();
        let wanted = Rerun { run_id: call.run_id, from, input: None, version: None };
        let parent = Awaits { run_id: new_id, frame: call.frame, node: call.node };
        let (run_id, plan) = start_over_for_parent(session, &wanted, parent).await?;
        write::wait_again(session, new_id, &run, version, &Call { run_id, ..call.clone() }).await?;
        queues.extend(plan.queues.iter().cloned());
        course.told.add(of_child(&call.prefix, plan));
    }
    Ok((new_id, told(None, version, course.told, queues)))
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
