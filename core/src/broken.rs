//! What the engine would be without one of its rules, so that the fault harness can show that its checker finds out. Compiled with the feature `broken` alone,
//! which release builds refuse. The variants that differ in SQL only are the harness's own.

use std::time::Duration;

use crate::queue::{HeldStep, SHARD};
use crate::session::Session;

/// The variable that names the variant.
pub const VARIABLE: &str = "LONGSHORE_BROKEN";

/// The variant that writes successors in a second transaction, after the one that completes their step.
pub const SECOND_TRANSACTION: &str = "second-transaction";

/// A busy server takes as long between two transactions.
const BETWEEN: Duration = Duration::from_millis(10);

/// Successors are written in a second transaction.
pub(crate) fn second_transaction() -> bool {
    std::env::var(VARIABLE).is_ok_and(|variant| variant == SECOND_TRANSACTION)
}

/// The second transaction.
pub(crate) async fn enqueue(session: &mut Session<'_>, ready: &[HeldStep]) -> Result<(), sqlx::Error> {
    if ready.is_empty() || !second_transaction() {
        return Ok(());
    }
    tokio::time::sleep(BETWEEN).await;
    for step in ready {
        sqlx::query(include_str!("../sql/broken/enqueue.sql"))
            .bind(SHARD)
            .bind(step.queue_id)
            .bind(step.queue_priority())
            .bind(step.run_id)
            .bind(step.version_id)
            .bind(step.frame)
            .bind(step.node)
            .bind(step.kind.code())
            .bind(step.attempt)
            .bind(step.failed)
            .bind(step.lost)
            .execute(&mut *session)
            .await?;
    }
    Ok(())
}
