//! Random programs, nested of all kinds of blocks, waits and policies, run on a fleet of worker processes of which some are killed, and an interpreter
//! that says what must have come of each: `longshore-model`, and `tests/programs.rs` for a few of them.

pub mod bulk;
pub mod interpreter;
pub mod program;
pub mod random;
pub mod record;
pub mod script;
pub mod shrink;
