//! A step whose end joins a transaction of its handler: asked for, the lane moves the step to a private baton, and the handler's transaction consumes
//! that. Either the handler's own writes and the step's completion are committed together, or neither is.

use std::sync::Arc;
use std::time::Instant;

use longshore_core::complete::{PrivateStep, complete_in};
use longshore_core::payload::Payload;
use longshore_core::session::{Route, Session};
use serde::Serialize;
use sqlx::{Postgres, Transaction};
use tokio::sync::oneshot;

use crate::execute::{Report, Token};
use crate::failure::Failure;
use crate::mailbox::Mailbox;
use crate::step::Step;

/// What the lane answers when it has moved the step: where the private baton's lane listens.
pub(crate) type Moved = Arc<Mailbox<Report>>;

/// Where a step's lane listens.
#[derive(Clone)]
pub(crate) struct LaneLink {
    pub(crate) token: Token,
    pub(crate) mailbox: Arc<Mailbox<Report>>,
    pub(crate) output_limit: usize,
    pub(crate) route: Route,
}

/// A step on a baton of its own, which a transaction can consume. From [`Step::transaction`].
///
/// Dropped without [`StepTransaction::complete_in`], the step ends with what the handler returns, as any other.
pub struct StepTransaction {
    step: Step,
    link: LaneLink,
    moved: Moved,
    began: Instant,
}

impl Step {
    /// Move this step to a baton of its own, so that its completion can join a transaction. Takes one cycle of its lane. Fails (return the failure)
    /// when the lease was lost.
    ///
    /// ```no_run
    /// # use longshore_worker::{Failure, Step};
    /// # use sqlx::PgPool;
    /// async fn book(pool: PgPool, step: Step, amount: i64) -> Result<i64, Failure> {
    ///     let completion = step.transaction().await?;
    ///     let mut tx = pool.begin().await?;
    ///     sqlx::query("insert into bookings (amount) values ($1)").bind(amount).execute(&mut *tx).await?;
    ///     completion.complete_in(tx, &amount).await?;
    ///     Ok(amount)
    /// }
    /// ```
    pub async fn transaction(&self) -> Result<StepTransaction, Failure> {
        let began = Instant::now();
        let Some(link) = self.link() else {
            return Err(Failure::permanent("this step has no lane"));
        };
        let (answer, moved) = oneshot::channel();
        link.mailbox.put(Report::Private { token: link.token, answer });
        match moved.await {
            Ok(moved) => Ok(StepTransaction { step: self.clone(), link, moved, began }),
            Err(_) => Err(lease_lost()),
        }
    }
}

impl StepTransaction {
    /// Record the step as completed with `output`, in this transaction, and commit it. Return the same output from the handler; it is not recorded
    /// twice. On failure nothing was committed (or it is unclear whether: then the step is reclaimed, unless it was): return the failure. A step that
    /// changed its run's context ([`Step::context`]) is refused: that is a row which others of the run wait for.
    pub async fn complete_in<T: Serialize>(
        self,
        mut transaction: Transaction<'_, Postgres>,
        output: &T,
    ) -> Result<(), Failure> {
        if self.step.changes().is_some_and(|changes| !changes.is_empty()) {
            let text =
                "changes of the run's context cannot be part of a handler's transaction: let another node make them";
            return Err(Failure::permanent(text).named(longshore_core::error::CONTEXT_INVALID));
        }
        let output = Payload::of(output)
            .map_err(|error| Failure::permanent(error).named(longshore_core::error::OUTPUT_INVALID))?;
        if output.len() > self.link.output_limit {
            let text = format!("the output has {} bytes, at most {} are allowed", output.len(), self.link.output_limit);
            return Err(Failure::permanent(text).named(longshore_core::error::OUTPUT_TOO_LARGE));
        }
        // the lane stops its heartbeat: the baton's value must not change under the transaction
        let (answer, held) = oneshot::channel();
        self.moved.put(Report::Suspend { answer });
        let step: PrivateStep = held.await.map_err(|_| lease_lost())?;
        let mut session = Session::within(&mut transaction, self.link.route);
        let duration = self.began.elapsed();
        if !complete_in(&mut session, &step, duration, &output).await? {
            return Err(lease_lost());
        }
        transaction.commit().await?;
        self.moved.put(Report::Committed { duration });
        Ok(())
    }
}

fn lease_lost() -> Failure {
    Failure::canceled("the lease of this step was lost: another worker has it")
}
