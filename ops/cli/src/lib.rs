//! What stands behind the operator's binary, as a library so that its parts are tested and used by the
//! project's own tests: the embedded Postgres, the fleet of worker processes, the sample workflows and
//! the WfCommons import. It prints nothing; the commands in `main.rs` do.

pub mod asl;
pub mod bench;
pub mod cases;
pub mod exit;
pub mod postgres;
pub mod process;
pub mod samples;
pub mod stage;
pub mod wfcommons;
