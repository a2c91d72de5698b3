//! The Longshore fleet member: claims step jobs, runs handlers, ends attempts.
//!
//! An application registers typed handlers and starts a worker; the `longshore-worker` binary does so with [`builtin`] handlers.

pub mod args;
pub mod builtin;
mod context;
mod execute;
mod failure;
mod handler;
pub mod http;
mod lane;
mod mailbox;
pub mod metrics;
mod prepare;
mod process;
mod shared;
mod stall;
mod step;
mod sweep;
mod system;
pub mod telemetry;
pub mod testing;
mod transaction;
mod upkeep;
mod versions;
mod worker;

pub use context::StepContext;
pub use failure::{Failure, HANDLER_FAILED};
pub use handler::{DEFAULT_OUTPUT_LIMIT, Handler, Handlers};
pub use process::run;
pub use step::Step;
pub use transaction::StepTransaction;
pub use worker::{Slots, StartError, Worker, WorkerBuilder};
