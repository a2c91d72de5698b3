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
pub mod frame;
pub mod graph;
mod pattern;
pub mod payload;
pub mod retry;
pub mod signal;
pub mod state;
pub mod successor;

// Deciding what a lane does: pure, too.
pub mod attempt;
pub mod child;
pub mod query;
pub mod queue;

#[cfg(feature = "broken")]
pub mod broken;
#[cfg(all(feature = "broken", not(debug_assertions)))]
compile_error!(
    "the feature `broken` leaves out what keeps runs from being lost: it is for tests of the checker, in debug builds"
);

// Storage: each owns the SQL of its folder in core/sql.
pub mod complete;
pub mod context;
pub mod cycle;
pub mod database;
pub mod fleet;
pub mod migrate;
pub mod mock;
pub mod notify;
pub mod pacing;
pub mod prune;
pub mod rerun;
pub mod results;
pub mod run;
pub mod sample;
pub mod session;
pub mod testing;
pub mod upkeep;
pub mod workflow;

// What operators ask: reads only, each by its own SQL.
pub mod doctor;
pub mod explain;
pub mod inspect;
