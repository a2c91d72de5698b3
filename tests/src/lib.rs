//! What the tests of Longshore share: a database of its own for each test, a fleet of in-process workers, and SQL that asks Postgres directly
//! and shares no code with the engine. `ops/test` starts a private cluster and hands its URL over in `LONGSHORE_TEST_DATABASE_URL`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

pub mod bouncer;
pub mod checks;
pub mod dags;
pub mod database;
pub mod fleet;
pub mod fuzz;
pub mod http;
pub mod lane;
pub mod pooler;
pub mod process;
pub mod programs;
pub mod proxy;
pub mod wire;

pub use database::TestDatabase;
pub use fleet::TestFleet;
pub use lane::ManualLane;
