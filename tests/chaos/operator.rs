//! Who looks after the runs: it pauses some at random moments, resumes all that are paused, itself or by a step that gave up, tries those of one
//! workflow again some seconds after they failed, and runs parts of some that ended anew. In the end nothing stays paused, and nothing of that workflow
//! failed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use longshore_core::run::Switched;
use longshore_enqueuer::{Enqueuer, RerunError};
use rand::Rng;
use rand::rngs::StdRng;
use uuid::Uuid;

use crate::ledger::Entry;
use crate::load::Load;
use crate::signals::Asking;
use crate::workload::{self, STUBBORN};

/// How long it rests between two looks.
const REST: Duration = Duration::from_millis(100);

/// Every so many looks it tries again what failed.
const EVERY: u64 = 10;

/// Some of the runs that have steps somewhere, child runs as well.
const SOME: &str = "
    select run_id from (
        select run_id from longshore.step_ready
        union select run_id from longshore.step_delayed where not parked
        union select run_id from longshore.step_waiting
        union select run_id from longshore.step_leases) live
    order by random() limit 2";

/// The runs that are paused.
const PAUSED: &str = "select run_id from longshore.pauses";

/// The runs of the workflow that are to be tried again, some seconds after they failed unless the load is over ($2).
const FAILED: &str = "
    select r.run_id from longshore.workflow_runs r join longshore.workflows w using (workflow_id)
    where r.shard = 0 and r.state = 4 and w.name = $1 and ($2 or r.finished_at < now() - interval '2 seconds')";

/// A run of these workflows that ended of late and is settled, reruns as well, and a node of its own graph.
const ENDED: &str = "
    select r.run_id, w.name, (r.input ->> 'x')::bigint, n.id
    from longshore.workflow_runs r
    join longshore.workflows w on w.workflow_id = r.workflow_id and w.name = any ($1)
    join longshore.workflow_nodes n on n.version_id = r.version_id and n.body = 0
    where r.shard = 0 and r.parent_run_id is null and r.state > 2 and r.finished_at between now() - interval '20 seconds' and now() - interval '2 seconds'
        and not exists (select from longshore.closed c where c.shard = 0 and c.run_id = r.run_id)
    order by random() limit 1";

/// Look after them until the database is left.
pub(crate) async fn operate(load: Arc<Load>, mut random: StdRng) -> Result<()> {
    let enqueuer = Enqueuer::new(load.pool.clone());
    let mut looks = 0_u64;
    while !load.pool.is_closed() {
        let over = load.over.load(Ordering::Relaxed);
        if !over {
            for run in runs(&load, SOME).await {
                load.ledger.append(&Entry::Pausing { run })?;
                if enqueuer
                    .pause(run, "the operator of the harness")
                    .await
                    .is_ok_and(|done| matches!(done, Switched::Changed))
                {
                    load.pauses.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        // an answer that got lost is asked for again at the next look
        for run in runs(&load, PAUSED).await {
            if over || random.random_bool(0.2) {
                enqueuer.resume(run).await.ok();
            }
        }
        looks += 1;
        if looks.is_multiple_of(EVERY) {
            let failed = sqlx::query_scalar::<_, Uuid>(FAILED).bind(STUBBORN).bind(over).fetch_all(&load.pool).await;
            for run in failed.unwrap_or_default() {
                enqueuer.retry(run).await.ok();
            }
        }
        tokio::time::sleep(REST).await;
    }
    Ok(())
}

/// Run parts of runs anew until the load is over.
pub(crate) async fn start_over(load: Arc<Load>) -> Result<()> {
    let enqueuer = Enqueuer::new(load.pool.clone());
    while !load.over.load(Ordering::Relaxed) {
        rerun(&load, &enqueuer).await?;
        tokio::time::sleep(REST).await;
    }
    Ok(())
}

/// One of them. Where the answer gets lost it may be there, too.
async fn rerun(load: &Load, enqueuer: &Enqueuer) -> Result<()> {
    let names: Vec<&str> = load.kinds.iter().map(|kind| kind.name).collect();
    let ended = sqlx::query_as::<_, (Uuid, String, i64, String)>(ENDED).bind(names).fetch_optional(&load.pool).await;
    let Ok(Some((of, name, x, from))) = ended else { return Ok(()) };
    let run = match enqueuer.rerun(of, &from).await {
        Ok(plan) => plan.run_id,
        // the node was skipped, or Postgres is away
        Err(RerunError::NothingToDo | RerunError::Database(_) | RerunError::Version(_)) => None,
        Err(error) => return Err(error).with_context(|| format!("run {of} cannot be run anew from {from}")),
    };
    let Some(run) = run else { return Ok(()) };
    load.ledger.append(&Entry::Rerun { run, of, from })?;
    if let Some(kind) = load.kinds.iter().find(|kind| kind.name == name && !workload::signals(kind.name, x).is_empty())
    {
        load.asking.send(Asking { run, kind: kind.name, x }).ok();
    }
    Ok(())
}

/// What Postgres says; nothing while it is away.
async fn runs(load: &Load, sql: &str) -> Vec<Uuid> {
    sqlx::query_scalar(sql).fetch_all(&load.pool).await.unwrap_or_default()
}
