//! Going on with a run that failed or was canceled, and with the runs that it waited for: all in one transaction, the parent's row locked before its children's.

use std::pin::Pin;

use uuid::Uuid;

use super::course::Plotter;
use super::past::Past;
use super::{Error, Plan, end, load, of_child, plot, run_row, told, values, write};
use crate::queue::SHARD;
use crate::session::Session;
use crate::state::RunState;

/// Goes on with a run that failed or was canceled, from there: the same run, whose attempts go on counting. `plan`: only say what that would be.
pub async fn retry(session: &mut Session<'_>, run_id: Uuid, plan: bool) -> Result<Plan, Error> {
    let route = session.route();
    let mut transaction = session.begin().await?;
    let done = {
        let mut session = Session::within(&mut transaction, route);
        go_on(&mut session, run_id, false).await
    };
    end(transaction, done, plan).await
}

/// `awaited`: for a step of its parent, which goes on in the same transaction and waits for it again.
async fn go_on(session: &mut Session<'_>, run_id: Uuid, awaited: bool) -> Result<Plan, Error> {
    sqlx::query(include_str!("../../sql/rerun/clear_pause.sql"))
        .bind(SHARD)
        .bind(run_id)
        .execute(&mut *session)
        .await?;
    sqlx::query(include_str!("../../sql/rerun/lock.sql")).bind(SHARD).bind(run_id).execute(&mut *session).await?;
    let run = run_row(session, run_id).await?;
    let state = RunState::from_code(run.state).map_err(|error| sqlx::Error::Decode(error.into()))?;
    if !matches!(state, RunState::Failed | RunState::Canceled) {
        return Err(Error::NotFailed { run_id, state });
    }
    if let Some(parent) = run.parent.filter(|_| run.bound_to_parent && !awaited) {
        return Err(Error::OfParent { run_id, parent });
    }
    for sql in [
        include_str!("../../sql/rerun/clear_ready.sql"),
        include_str!("../../sql/rerun/clear_delayed.sql"),
        include_str!("../../sql/rerun/clear_joins.sql"),
    ] {
        sqlx::query(sql).bind(SHARD).bind(run_id).execute(&mut *session).await?;
    }
    // a lane that claimed one of them meanwhile is seen now
    if run_row(session, run_id).await?.settling {
        return Err(Error::Settling { run_id });
    }
    let version = load(session, run.version_id, &run.workflow).await?;
    let mut past = Past::read(session, run_id, &[]).await?;
    past.read_then(session, run_id, &version).await?;
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
    sqlx::query(include_str!("../../sql/rerun/reopen.sql")).bind(SHARD).bind(run_id).execute(&mut *session).await?;
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
