//! All state and all SQL of Longshore.
//!
//! The pure modules say what a workflow is and what follows from an ended step; they do no I/O. The storage
//! modules run the SQL of `core/sql`. Everything a worker or an application does to Postgres goes through here.

// Pure: no I/O, no clock, no randomness of their own.
mod check;
pub mod definition;
pub mod duration;
pub mod error;
pub mod expression;
pub mod graph;
pub mod payload;
pub mod retry;
pub mod state;
pub mod successor;

// Storage: each owns the SQL of its folder in core/sql.
pub mod database;
pub mod migrate;
pub mod pacing;
pub mod run;

// What operators ask: reads only, each by its own SQL.
pub mod doctor;
pub mod explain;
pub mod inspect;
