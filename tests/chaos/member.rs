//! A worker of the fleet under test: the worker library as anyone uses it, with handlers that write all they do to the ledger.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use longshore_worker::args::WorkerArgs;
use longshore_worker::builtin::builtin;
use longshore_worker::{Failure, Handlers, Step};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::ledger::{Entry, Ledger};
use crate::workload;

/// What a worker of the fleet is told.
#[derive(Args, Debug)]
pub(crate) struct MemberArgs {
    #[command(flatten)]
    worker: WorkerArgs,
    /// The folder of the ledger.
    #[arg(long)]
    ledger: PathBuf,
}

/// Be a worker until told to leave.
pub(crate) fn run(args: MemberArgs) -> Result<ExitCode> {
    let ledger = Arc::new(Ledger::open(&args.ledger)?);
    longshore_worker::run(args.worker, handlers(ledger), std::future::pending())
}

fn handlers(ledger: Arc<Ledger>) -> Handlers {
    let mut handlers = builtin();
    for (name, handler) in [
        ("ok", Does::Well),
        ("slow", Does::Slowly),
        ("retried", Does::WellAtLast),
        ("doomed", Does::Badly),
        ("odd", Does::BadlyAtTimes),
        ("coin", Does::WellPerhaps),
        ("moody", Does::WellPerhapsNext),
        ("stubborn", Does::WellWhenTriedAgain),
        ("pays", Does::Pay),
        ("panic", Does::Panic),
        ("abort", Does::Abort),
        ("hang", Does::Hang),
        ("hog", Does::Hog),
        ("huge", Does::Huge),
        ("nul", Does::Nul),
    ] {
        let ledger = ledger.clone();
        handlers.add(name, move |step: Step, input: Value| {
            let ledger = ledger.clone();
            async move { work(&ledger, handler, &step, &input).await }
        });
    }
    handlers
}

/// What a handler does between its two lines.
#[derive(Clone, Copy, Debug)]
enum Does {
    Well,
    Slowly,
    /// Fails a step's first attempt, of some steps the second too.
    WellAtLast,
    /// Fails for good.
    Badly,
    /// Fails for good where the item says so.
    BadlyAtTimes,
    /// Fails for good in half of all cases.
    WellPerhaps,
    /// Fails in half of all cases, and may do better when it is tried again.
    WellPerhapsNext,
    /// Fails more often than the policy allows.
    WellWhenTriedAgain,
    /// Changes the context, and fails some first attempts after that.
    Pay,
    Panic,
    /// Ends the process.
    Abort,
    /// Never yields and heeds no cancellation.
    Hang,
    /// Takes memory until there is none.
    Hog,
    /// Gives 8 MiB.
    Huge,
    /// Gives what Postgres cannot store.
    Nul,
}

async fn work(ledger: &Ledger, does: Does, step: &Step, input: &Value) -> Result<Value, Failure> {
    let mark = Uuid::new_v4();
    let (run, frame, node, attempt) = (step.run_id(), step.frame(), step.node().to_owned(), step.attempt());
    let mut inputs = Vec::new();
    marks(input, &mut inputs);
    let (pid, at) = (std::process::id(), chrono::Utc::now());
    let began = Entry::Began { run, frame, node: node.clone(), attempt, mark, inputs, pid, at };
    ledger.append(&began).map_err(|error| Failure::retryable(error.to_string()))?;
    let mut output = json!({ "mark": mark });
    // what tells the iterations of a block apart goes on, and its passes are counted
    if let Some(item) = input.get("item") {
        output["item"] = item.clone();
    }
    if let Some(passes) = input.get("n").and_then(Value::as_i64) {
        output["n"] = json!(passes + 1);
    }
    match does {
        Does::Well => {}
        Does::Slowly => {
            let pause = Duration::from_millis(100 + u64::from(mark.as_bytes()[0]));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = step.cancellation().cancelled() => return Err(Failure::canceled("canceled while at work")),
            }
        }
        Does::WellAtLast => {
            // of a policy of three failures, which losses and releases do not count toward
            let fails = 1 + i32::from(run.as_bytes()[15] % 2);
            if attempt <= fails {
                return Err(Failure::retryable("not yet"));
            }
        }
        Does::WellWhenTriedAgain => {
            if attempt <= 3 + i32::from(run.as_bytes()[15] % 3) {
                return Err(Failure::retryable("not before someone tries again"));
            }
        }
        Does::Pay => {
            let item = input["item"].as_i64().ok_or_else(|| Failure::permanent("no item"))?;
            let (amount, entry) = workload::paid(item);
            step.context().increment("sum", amount)?;
            step.context().append("list", &entry)?;
            if attempt == 1 && mark.as_bytes()[0].is_multiple_of(3) {
                return Err(Failure::retryable("not yet"));
            }
        }
        Does::Badly => return Err(Failure::permanent("never")),
        Does::BadlyAtTimes if input["item"].as_i64().is_some_and(workload::is_bad) => {
            return Err(Failure::permanent("never for this one"));
        }
        Does::WellPerhaps if mark.as_bytes()[0].is_multiple_of(2) => return Err(Failure::permanent("not this time")),
        Does::WellPerhapsNext if mark.as_bytes()[0].is_multiple_of(2) => {
            return Err(Failure::retryable("not this time"));
        }
        Does::BadlyAtTimes | Does::WellPerhaps | Does::WellPerhapsNext => {}
        #[allow(clippy::panic)]
        Does::Panic => panic!("a handler that panics"),
        Does::Abort => std::process::abort(),
        Does::Hang => loop {
            std::thread::sleep(Duration::from_millis(50));
        },
        Does::Hog => {
            let mut hoard: Vec<Vec<u8>> = Vec::new();
            loop {
                hoard.push(vec![1; 16 << 20]);
                tokio::task::yield_now().await;
            }
        }
        Does::Huge => output["huge"] = json!("x".repeat(8 << 20)),
        Does::Nul => output["nul"] = json!("a\u{0}b"),
    }
    let gave = Entry::Gave { run, frame, node, attempt, mark };
    ledger.append(&gave).map_err(|error| Failure::retryable(error.to_string()))?;
    Ok(output)
}

/// The marks that an input carries: those of the outputs it was made of.
fn marks(input: &Value, found: &mut Vec<Uuid>) {
    if let Value::Array(values) = input {
        values.iter().for_each(|value| marks(value, found));
    }
    let Value::Object(fields) = input else { return };
    for (name, value) in fields {
        match value.as_str().map(Uuid::try_parse) {
            Some(Ok(mark)) if name == "mark" => found.push(mark),
            _ => marks(value, found),
        }
    }
}
