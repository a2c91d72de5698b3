//! Running one step: its handler under a deadline, told when it is canceled, its panic caught.
//! No connection is held while a handler runs, and nothing here touches Postgres: what became of the step is left for the lane that holds it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use longshore_core::attempt::Ending;
use longshore_core::complete::PrivateStep;
use longshore_core::context::Change;
use longshore_core::error::{self, ErrorKind, StepError};
use longshore_core::payload::Payload;
use tokio::sync::oneshot;

use crate::context::Changes;
use crate::handler::ErasedHandler;
use crate::mailbox::Mailbox;
use crate::step::Step;
use crate::transaction::Moved;

/// Names a step within its lane, from when the lane got it until it ended.
pub(crate) type Token = u64;

/// What a handler tells the lane that holds its step.
#[expect(clippy::large_enum_variant, reason = "nearly every report is of that variant")]
pub(crate) enum Report {
    /// It is over.
    Ended { token: Token, ending: Ending, duration: Duration, changes: Vec<Change> },
    /// It wants a baton of its own.
    Private { token: Token, answer: oneshot::Sender<Moved> },
    /// To the lane of such a baton: pass it no more, a transaction is about to consume it.
    Suspend { answer: oneshot::Sender<PrivateStep> },
    /// To the lane of such a baton: it was consumed, so long after the handler asked for it.
    Committed { duration: Duration },
}

/// A step that is about to run.
pub(crate) struct Execution {
    pub(crate) token: Token,
    pub(crate) step: Step,
    pub(crate) input: Payload,
    pub(crate) timeout: Duration,
    pub(crate) handler: ErasedHandler,
}

/// Run the handler to its end and leave the report. Never panics, whatever the handler does.
pub(crate) async fn execute(execution: Execution, mailbox: Arc<Mailbox<Report>>) {
    let Execution { token, step, input, timeout, handler } = execution;
    let began = Instant::now();
    // the call itself may panic before there is a future
    let call = AssertUnwindSafe(async { handler(step.clone(), input).await }).catch_unwind();
    let ending = match tokio::time::timeout(timeout, call).await {
        Ok(Ok(Ok(output))) => Ending::Completed(output),
        Ok(Ok(Err(failure))) => {
            let (error, retry_after) = failure.into_error(step.node(), step.attempt());
            Ending::Failed { error, retry_after }
        }
        Ok(Err(panic)) => {
            let text = panic_text(panic.as_ref());
            Ending::Failed { error: StepError::new(error::PANIC, ErrorKind::Panic, &text), retry_after: None }
        }
        Err(_) => {
            step.cancellation().cancel();
            let text = format!("the handler did not finish within {timeout:?}");
            Ending::Failed { error: StepError::new(error::TIMEOUT, ErrorKind::Timeout, &text), retry_after: None }
        }
    };
    let changes = step.changes().filter(|_| matches!(ending, Ending::Completed(_))).map(Changes::take);
    mailbox.put(Report::Ended { token, ending, duration: began.elapsed(), changes: changes.unwrap_or_default() });
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the handler panicked: {}", text.unwrap_or("with a value that is no text"))
}
