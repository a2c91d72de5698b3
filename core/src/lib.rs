//! All state and all SQL of Longshore.

pub mod database;
pub mod migrate;
pub mod pacing;
