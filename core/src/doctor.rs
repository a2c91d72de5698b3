//! Proves the promises over the whole database.
//!
//! Each check is one SQL file that shares no code with the engine: it looks for rows that must not be there. All
//! checks read one snapshot in a read-only transaction. What is broken and what is only left over never mix:
//! leftovers are notes.

use std::fmt;

use serde::Serialize;
use sqlx::{Connection, PgConnection, Row};

use crate::migrate::{self, FunctionState, Status};

mod versions;

/// At most this many examples are given for a check.
pub const MAX_EXAMPLES: usize = 5;

/// Why nothing could be examined.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The schema is missing or older than this program: migrate first.
    #[error(transparent)]
    Schema(#[from] migrate::Error),
    /// Postgres refused or could not be reached.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// What a finding means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A promise is broken.
    Broken,
    /// Worth knowing; every promise holds.
    Note,
}

/// One check and what it found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// A short name that never changes.
    pub name: &'static str,
    /// The number of the promise it proves; none for a note.
    pub promise: Option<u8>,
    /// What a finding means.
    pub severity: Severity,
    /// What is the case when nothing is found.
    pub says: &'static str,
    /// How many findings there are.
    pub found: i64,
    /// Some of them, at most [`MAX_EXAMPLES`].
    pub examples: Vec<String>,
}

impl Check {
    /// True if it found a broken promise.
    pub const fn is_broken(&self) -> bool {
        matches!(self.severity, Severity::Broken) && self.found > 0
    }
}

/// What all checks found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Checks of promises first, notes last.
    pub checks: Vec<Check>,
}

impl Report {
    /// The checks that found a broken promise.
    pub fn broken(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.is_broken())
    }

    /// True if no promise is broken.
    pub fn is_clean(&self) -> bool {
        self.broken().next().is_none()
    }

    /// A check by name.
    pub fn check(&self, name: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            let found = match (check.found, check.severity) {
                (0, _) => "ok".to_owned(),
                (found, Severity::Broken) => format!("BROKEN {found}"),
                (found, Severity::Note) => format!("note {found}"),
            };
            writeln!(f, "{found:<10} {:<18} {}", check.name, check.says)?;
            for example in &check.examples {
                writeln!(f, "             {example}")?;
            }
        }
        let (checks, broken) = (self.checks.len(), self.broken().count());
        write!(f, "doctor: {checks} checks, {broken} promises broken")
    }
}

/// A check whose findings one statement returns: `found` and `examples`.
struct Query {
    name: &'static str,
    promise: Option<u8>,
    says: &'static str,
    sql: &'static str,
}

macro_rules! queries {
    ($($promise:expr, $name:literal, $says:literal;)+) => {
        &[$(Query {
            name: $name,
            promise: $promise,
            says: $says,
            sql: include_str!(concat!("../sql/doctor/", $name, ".sql")),
        }),+]
    };
}

const PROMISES: &[Query] = queries! {
    Some(8), "stuck_run", "every live run waits for something";
    Some(8), "stuck_frame", "every live instance of a block waits for something";
    Some(8), "lost_wake_up", "no wait and no signal miss each other";
    Some(8), "parked_step", "what is parked belongs to a paused run";
    Some(8), "lost_child", "no step waits for a run that has ended";
    Some(11), "orphan_child", "a child run ends with its parent, where that was asked for";
    Some(2), "accepted_once", "one attempt of a step is accepted, and none follows it";
    Some(3), "attempt_numbers", "attempts are numbered from 1 without gaps";
    Some(2), "one_home", "a step job is in one place";
    Some(6), "lease_overdue", "no lease is over for more than 60 s";
    Some(4), "join_counts", "a join counts each in-edge once, and is decided when it has all";
    Some(2), "lost_successor", "the successors of an ended step are decided";
    Some(1), "lost_retry", "a step whose attempt did not end it is tried again";
    Some(1), "undecided_node", "a completed run has every node decided";
    Some(4), "started_early", "no step started before its predecessors ended";
    Some(1), "orphan", "everything of a run belongs to a run that exists";
    Some(9), "unknown_place", "steps are of their run's version and go to queues that exist";
    Some(1), "lost_finally", "a try that was cut off comes to its finally";
    Some(11), "unsettled_step", "steps of ended runs are told to stop";
    Some(1), "partitions", "attempts can be recorded for runs started in the next 7 days";
    Some(3), "max_attempts", "no step failed more often than its policy allows";
};

const NOTES: &[Query] = queries! {
    None, "residue", "no step jobs or joins are left of ended runs";
    None, "unsettled", "no ended run awaits settling";
    None, "silent_workers", "every registered worker gave a sign of life within 30 s";
    None, "unserved_queues", "a live worker serves every queue with step jobs";
    None, "vacuum_behind", "autovacuum keeps up";
    None, "invalid_indexes", "every index is valid";
    None, "old_snapshots", "no snapshot older than 5 minutes holds vacuum back";
};

/// Examines the whole database. Opens a transaction of its own, so `conn` must be in none; changes nothing.
/// Reads every table once or a few times, so the time grows with the history.
pub async fn examine(conn: &mut PgConnection) -> Result<Report, Error> {
    let mut tx = conn.begin_with(include_str!("../sql/inspect/snapshot.sql")).await?;
    let report = examine_within(&mut tx).await?;
    tx.rollback().await?;
    Ok(report)
}

/// The same within the caller's transaction, whose own changes are seen too. Until it ends, its settings are those
/// of the examination.
pub async fn examine_within(tx: &mut PgConnection) -> Result<Report, Error> {
    sqlx::query(include_str!("../sql/doctor/settings.sql")).persistent(false).execute(&mut *tx).await?;
    let schema = migrate::status(tx).await?;
    has_all_migrations(&schema)?;
    let mut checks = Vec::new();
    for query in PROMISES {
        checks.push(ask(tx, query).await?);
    }
    checks.push(versions::check(tx).await?);
    checks.push(functions(&schema));
    for query in NOTES {
        checks.push(ask(tx, query).await?);
    }
    Ok(Report { checks })
}

/// How many live runs nothing holds: the check `stuck_run` alone, for the fleet's gauge. Opens a transaction of its
/// own, so `conn` must be in none; changes nothing. Reads every run once, so call it minutes apart.
pub async fn stuck_runs(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    let mut tx = conn.begin_with(include_str!("../sql/inspect/snapshot.sql")).await?;
    sqlx::query(include_str!("../sql/doctor/settings.sql")).persistent(false).execute(&mut *tx).await?;
    let stuck = sqlx::query(include_str!("../sql/doctor/stuck_run.sql")).persistent(false).fetch_one(&mut *tx).await?;
    tx.rollback().await?;
    stuck.try_get("found")
}

async fn ask(conn: &mut PgConnection, query: &Query) -> Result<Check, sqlx::Error> {
    let row = sqlx::query(query.sql).persistent(false).fetch_one(conn).await?;
    Ok(Check {
        name: query.name,
        promise: query.promise,
        severity: query.promise.map_or(Severity::Note, |_| Severity::Broken),
        says: query.says,
        found: row.try_get("found")?,
        examples: row.try_get("examples")?,
    })
}

/// Checks of a schema that is not there would only fail with the database's words.
fn has_all_migrations(schema: &Status) -> Result<(), migrate::Error> {
    let missing = schema.migrations.iter().find(|migration| migration.applied_at.is_none());
    match missing {
        None => Ok(()),
        Some(_) if schema.migrations.iter().all(|migration| migration.applied_at.is_none()) => {
            Err(migrate::Error::SchemaMissing)
        }
        Some(migration) => Err(migrate::Error::SchemaOld { missing: format!("migration {}", migration.version) }),
    }
}

fn functions(schema: &Status) -> Check {
    let wrong: Vec<String> = schema
        .functions
        .iter()
        .filter_map(|function| match function.state {
            FunctionState::Installed => None,
            FunctionState::Missing => Some(format!("function {}: missing", function.name)),
            FunctionState::Differs => Some(format!("function {}: another text", function.name)),
        })
        .collect();
    found(7, "functions", "the functions are those of this program", wrong)
}

/// A check of a promise that Rust did.
fn found(promise: u8, name: &'static str, says: &'static str, mut findings: Vec<String>) -> Check {
    let found = i64::try_from(findings.len()).unwrap_or(i64::MAX);
    findings.truncate(MAX_EXAMPLES);
    Check { name, promise: Some(promise), severity: Severity::Broken, says, found, examples: findings }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_note_breaks_no_promise() {
        let mut report = Report { checks: vec![found(2, "one_home", "a step job is in one place", Vec::new())] };
        report.checks.push(Check {
            name: "residue",
            promise: None,
            severity: Severity::Note,
            says: "nothing is left",
            found: 3,
            examples: vec!["3 ready".to_owned()],
        });
        assert!(report.is_clean());
        assert_eq!(report.to_string().lines().last(), Some("doctor: 2 checks, 0 promises broken"));
        let findings: Vec<_> = (0..7).map(|n| format!("run {n}")).collect();
        report.checks.push(found(3, "attempt_numbers", "no gaps", findings));
        assert!(!report.is_clean());
        let text = report.to_string();
        assert!(text.contains("BROKEN 7   attempt_numbers    no gaps\n             run 0\n"), "{text}");
        assert!(text.ends_with("run 4\ndoctor: 3 checks, 1 promises broken"), "{text}");
    }

    #[test]
    fn check_names_are_unique() {
        let mut names: Vec<_> = PROMISES.iter().chain(NOTES).map(|query| query.name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
