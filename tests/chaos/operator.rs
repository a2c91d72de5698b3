//! Who looks after the runs: it pauses some at random moments, resumes all that are paused, itself or by a step that gave up, and tries those of one
//! workflow again some seconds after they failed. In the end nothing stays paused, and nothing of that workflow failed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use longshore_core::run::Switched;
use longshore_enqueuer::Enqueuer;
use rand::Rng;
use rand::rngs::StdRng;
use uuid::Uuid;

use crate::load::Load;
use crate::workload::STUBBORN;

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

/// Look after them until the database is left.
pub(crate) async fn operate(load: Arc<Load>, mut random: StdRng) -> Result<()> {
    let enqueuer = Enqueuer::new(load.pool.clone());
    let mut looks = 0_u64;
    while !load.pool.is_closed() {
        let over = load.over.load(Ordering::Relaxed);
        if !over {
            for run in runs(&load, SOME).await {
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

/// What Postgres says; nothing while it is away.
async fn runs(load: &Load, sql: &str) -> Vec<Uuid> {
    sqlx::query_scalar(sql).fetch_all(&load.pool).await.unwrap_or_default()
}
