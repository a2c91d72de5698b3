//! The Longshore fleet member: claims step jobs, runs handlers, ends attempts.
//!
//! An application registers typed handlers and starts a worker; the `longshore-worker` binary does so with [`builtin`] handlers.

pub mod args;
pub mod builtin;
mod failure;
mod handler;
pub mod http;
pub mod metrics;
mod step;
mod system;
pub mod telemetry;

pub use failure::{Failure, HANDLER_FAILED};
pub use handler::{DEFAULT_OUTPUT_LIMIT, Handler, Handlers};
pub use step::Step;
