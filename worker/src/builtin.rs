//! Handlers that need no Rust of the user's own: `echo`, `sleep`, `flaky` and `crash`, for trying out a fleet.
//! Each reads only the fields it knows, so a run's own input can be passed straight to it.

use std::time::Duration;

use longshore_core::error::INPUT_INVALID;
use serde::Deserialize;
use serde_json::Value;

use crate::failure::Failure;
use crate::handler::Handlers;
use crate::step::Step;

/// The status a `crash` ends its process with: what a shell shows for a process killed by SIGKILL.
const KILLED: i32 = 137;

/// `echo`, `sleep`, `flaky` and `crash`.
pub fn builtin() -> Handlers {
    let mut handlers = Handlers::new();
    handlers.add("echo", echo);
    handlers.add("sleep", sleep);
    handlers.add("flaky", flaky);
    handlers.add("crash", crash);
    handlers
}

/// Return the input.
async fn echo(_: Step, input: Value) -> Result<Value, Failure> {
    Ok(input)
}

#[derive(Deserialize)]
struct Sleep {
    seconds: f64,
    #[serde(default)]
    output: Value,
}

/// Return `output` (null without one) after `seconds`, or stop at once when canceled.
async fn sleep(step: Step, input: Sleep) -> Result<Value, Failure> {
    let pause = Duration::try_from_secs_f64(input.seconds)
        .map_err(|error| Failure::permanent(format!("seconds {}: {error}", input.seconds)).named(INPUT_INVALID))?;
    tokio::select! {
        () = tokio::time::sleep(pause) => Ok(input.output),
        () = step.cancellation().cancelled() => Err(Failure::canceled("canceled while asleep")),
    }
}

#[derive(Deserialize)]
struct Flaky {
    fail: u32,
    #[serde(default)]
    output: Value,
    #[serde(default)]
    permanent: bool,
    name: Option<String>,
}

/// Fail the first `fail` attempts (for good when `permanent`), under `name`; then return `output`.
async fn flaky(step: Step, input: Flaky) -> Result<Value, Failure> {
    if i64::from(step.attempt()) > i64::from(input.fail) {
        return Ok(input.output);
    }
    let message = format!("attempt {} of {} that fail", step.attempt(), input.fail);
    let failure = if input.permanent { Failure::permanent(message) } else { Failure::retryable(message) };
    Err(failure.named(input.name.as_deref().unwrap_or("flaky")))
}

#[derive(Deserialize)]
struct Crash {
    times: u32,
    #[serde(default)]
    output: Value,
}

/// End the whole process in the first `times` attempts, without a word to the database; then return `output`. A step
/// that is lost too often while alone in its lane fails (five times by default).
async fn crash(step: Step, input: Crash) -> Result<Value, Failure> {
    if i64::from(step.attempt()) > i64::from(input.times) {
        return Ok(input.output);
    }
    tracing::warn!(
        run_id = %step.run_id(), node = step.node(), frame = step.frame(), attempt = step.attempt(),
        "ending this process, as the step asks"
    );
    std::process::exit(KILLED)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use longshore_core::error::ErrorKind;
    use serde_json::json;

    use super::*;
    use crate::handler::tests::run;
    use crate::step::tests::{a_step, an_attempt};

    #[tokio::test]
    async fn echo_returns_its_input() {
        let input = json!({ "order": 7 });
        assert_eq!(run(&builtin(), "echo", a_step(), &input).await.unwrap(), input);
    }

    #[tokio::test]
    async fn sleep_wakes_when_canceled() {
        let step = a_step();
        step.cancellation().cancel();
        let failure = run(&builtin(), "sleep", step, &json!({ "seconds": 3600 })).await.unwrap_err();
        assert_eq!(failure.into_error("nap", 1).0.kind, ErrorKind::Canceled);
    }

    #[tokio::test]
    async fn sleep_returns_its_output_and_refuses_a_time_that_is_none() {
        let input = json!({ "seconds": 0.001, "output": { "ok": true }, "order": 7 });
        assert_eq!(run(&builtin(), "sleep", a_step(), &input).await.unwrap(), json!({ "ok": true }));
        let failure = run(&builtin(), "sleep", a_step(), &json!({ "seconds": -1 })).await.unwrap_err();
        let (error, _) = failure.into_error("nap", 1);
        assert_eq!((error.name.as_str(), error.kind), ("input_invalid", ErrorKind::Permanent));
    }

    #[tokio::test]
    async fn flaky_fails_as_often_as_asked() {
        let input = json!({ "fail": 2, "output": 5, "name": "timeout_upstream" });
        for attempt in [1, 2] {
            let failure = run(&builtin(), "flaky", an_attempt(attempt), &input).await.unwrap_err();
            let (error, after) = failure.into_error("charge", attempt);
            assert_eq!((error.name.as_str(), error.kind, after), ("timeout_upstream", ErrorKind::Retryable, None));
        }
        assert_eq!(run(&builtin(), "flaky", an_attempt(3), &input).await.unwrap(), json!(5));
    }

    #[tokio::test]
    async fn flaky_can_fail_for_good() {
        let input = json!({ "fail": 1, "permanent": true });
        let failure = run(&builtin(), "flaky", a_step(), &input).await.unwrap_err();
        assert_eq!(failure.into_error("charge", 1).0.kind, ErrorKind::Permanent);
    }

    #[tokio::test]
    async fn crash_ends_after_its_attempts() {
        let input = json!({ "times": 2, "output": "alive" });
        assert_eq!(run(&builtin(), "crash", an_attempt(3), &input).await.unwrap(), json!("alive"));
    }
}
