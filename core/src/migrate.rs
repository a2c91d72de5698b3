//! The schema: made, taken back and inspected.
//!
//! Tables come from the numbered files of `migrations/`, each with its down; the functions of [`FUNCTIONS`] are
//! installed after them, whole, on every `up`. Both happen under the migrator's session lock, so that any number of
//! processes may migrate at once. Give these functions a direct connection of their own and close it afterwards:
//! they set its `search_path`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::{Connection, Executor, PgConnection, PgExecutor};

use crate::database;
use crate::session::Session;

/// A function of the schema: its text is one file of `core/sql`, named as the function.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    /// Its name in the schema `longshore`.
    pub name: &'static str,
    /// The whole `create or replace function` statement.
    pub text: &'static str,
}

impl Function {
    /// What Postgres keeps of the text: between the dollar quotes.
    fn body(&self) -> &'static str {
        let Some((_, quoted)) = self.text.split_once("\nas $") else {
            return "";
        };
        let Some((tag, rest)) = quoted.split_once('$') else {
            return "";
        };
        rest.rsplit_once(&format!("${tag}$")).map_or("", |(body, _)| body)
    }
}

macro_rules! function {
    ($folder:literal, $name:literal) => {
        Function { name: $name, text: include_str!(concat!("../sql/", $folder, "/", $name, ".sql")) }
    };
}

/// Every function that is installed beside the tables. What a function means never changes under its name: a new
/// meaning gets a new name, so that workers of the version before go on during a deploy.
pub const FUNCTIONS: &[Function] = &[
    function!("run", "start_runs"),
    function!("run", "start_run"),
    function!("run", "close_run"),
    function!("run", "pause_run"),
    function!("run", "resume_run"),
    function!("run", "query"),
    function!("prune", "prune_runs"),
    function!("cycle", "cycle_2"),
    function!("cycle", "cycle"),
    function!("cycle", "recover"),
    function!("cycle", "promote"),
    function!("cycle", "reap"),
    function!("cycle", "settle_begin"),
    function!("cycle", "clean_up"),
    function!("cycle", "settle"),
    function!("cycle", "upkeep_2"),
    function!("cycle", "upkeep"),
    function!("cycle", "complete_in"),
    function!("results", "read_inputs"),
    function!("results", "step_results"),
    function!("results", "read_frames"),
    function!("results", "read_instances"),
    function!("results", "read_iterations"),
    function!("child", "ask_child"),
    function!("child", "close_children"),
    function!("child", "read_children"),
    function!("signal", "signal"),
    function!("signal", "read_waiters"),
    function!("signal", "read_candidates"),
    function!("signal", "read_woken"),
    function!("inspect", "node_name"),
    function!("context", "merge_patch"),
    function!("context", "change_context"),
    function!("context", "read_contexts"),
];

/// The oldest Postgres that has all we use.
const MIN_SERVER: i32 = 150_000;

static MIGRATIONS: Migrator = Migrator { ignore_missing: true, ..sqlx::migrate!("../migrations") };

/// Why the schema is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no schema in this database.
    #[error("this database has no longshore schema: run `longshore migrate up`")]
    SchemaMissing,
    /// The schema is older than this binary, or a function of it is missing.
    #[error("the longshore schema is older than this binary ({missing} missing): run `longshore migrate up`")]
    SchemaOld {
        /// What it lacks, for people.
        missing: String,
    },
    /// The schema has a migration this binary does not know, so it cannot undo it.
    #[error(
        "the schema has migration {version}, which this binary does not know: migrate down with the newer binary that made it"
    )]
    SchemaNewer {
        /// The newest migration of the schema.
        version: i64,
    },
    /// The server is too old.
    #[error("Postgres 15 or newer is needed, this server says {version}")]
    ServerOld {
        /// `server_version_num`.
        version: i32,
    },
    /// A table that a migration changes stayed locked. Nothing of that migration was done; it is safe to try again.
    #[error(
        "a table stayed locked for 5 s, and whoever waits longer for it stops the workers behind: a dump, a report or a session idle in its transaction \
         holds it (see pg_stat_activity). Nothing of this migration was done: run it again"
    )]
    Busy,
    /// A migration failed or was edited after it had been applied. What came before it stays applied.
    #[error("migration failed: {0}")]
    Migration(#[from] MigrateError),
    /// Postgres refused a statement or could not be reached.
    #[error("{0}")]
    Database(#[from] sqlx::Error),
}

/// What `up` did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Up {
    /// The migrations it applied, oldest first; empty if there was nothing to do.
    pub applied: Vec<i64>,
    /// The monthly partitions it made ahead.
    pub partitions: i32,
}

/// What is there, against what this binary knows.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The migrations this binary knows, oldest first.
    pub migrations: Vec<MigrationStatus>,
    /// Applied migrations it does not know: the schema is newer.
    pub unknown: Vec<i64>,
    /// The functions, in the order of [`FUNCTIONS`].
    pub functions: Vec<FunctionStatus>,
}

/// One migration.
#[derive(Clone, Debug)]
pub struct MigrationStatus {
    /// The number its file begins with.
    pub version: i64,
    /// The words of its file name.
    pub description: String,
    /// When it was applied, by Postgres' clock; none if it was not.
    pub applied_at: Option<DateTime<Utc>>,
}

/// One function.
#[derive(Clone, Debug)]
pub struct FunctionStatus {
    /// Its name.
    pub name: &'static str,
    /// How it is there.
    pub state: FunctionState,
}

/// How a function is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionState {
    /// As in this binary.
    Installed,
    /// Not there.
    Missing,
    /// There with another body.
    Differs,
}

impl Status {
    /// True if nothing is missing or differs; a newer schema is current too.
    pub fn is_current(&self) -> bool {
        self.migrations.iter().all(|migration| migration.applied_at.is_some())
            && self.functions.iter().all(|function| function.state == FunctionState::Installed)
    }
}

/// Brings the schema up to this binary: migrations, functions, the next months' partitions. Safe to repeat, from
/// any number of processes at once. A schema that is newer keeps its tables; functions become those of this binary.
pub async fn up(conn: &mut PgConnection) -> Result<Up, Error> {
    let version = server_version(conn).await?;
    if version < MIN_SERVER {
        return Err(Error::ServerOld { version });
    }
    conn.lock().await?;
    let result = up_alone(conn).await.map_err(or_busy);
    unlock(conn, result).await
}

/// Takes the schema back to migration `to`, newest first, and returns the migrations undone. 0 leaves nothing
/// behind. **All data of the tables undone is lost.** The functions go first; `up` brings them back.
pub async fn down(conn: &mut PgConnection, to: i64) -> Result<Vec<i64>, Error> {
    conn.lock().await?;
    let result = down_alone(conn, to).await.map_err(or_busy);
    unlock(conn, result).await
}

/// What is applied and installed. Changes nothing.
pub async fn status(conn: &mut PgConnection) -> Result<Status, Error> {
    let mut session = Session::direct(conn);
    let applied = applied(&mut session).await?;
    let known: BTreeSet<i64> = versions().collect();
    let installed = installed(&mut session).await?;
    Ok(Status {
        migrations: MIGRATIONS
            .iter()
            .filter(|migration| migration.migration_type.is_up_migration())
            .map(|migration| MigrationStatus {
                version: migration.version,
                description: migration.description.to_string(),
                applied_at: applied.get(&migration.version).copied(),
            })
            .collect(),
        unknown: applied.keys().filter(|version| !known.contains(version)).copied().collect(),
        functions: FUNCTIONS
            .iter()
            .map(|function| FunctionStatus { name: function.name, state: state_of(function, &installed) })
            .collect(),
    })
}

/// Refuses a database whose schema is missing or older than this binary needs. A newer schema is fine: tables only
/// grow and functions keep their meaning. Workers and enqueuers call it when they start.
pub async fn check(session: &mut Session<'_>) -> Result<(), Error> {
    let applied = applied(session).await?;
    if applied.is_empty() {
        return Err(Error::SchemaMissing);
    }
    if let Some(version) = versions().find(|version| !applied.contains_key(version)) {
        return Err(Error::SchemaOld { missing: format!("migration {version}") });
    }
    let installed = installed(session).await?;
    match FUNCTIONS.iter().find(|function| !installed.contains_key(function.name)) {
        Some(function) => Err(Error::SchemaOld { missing: format!("function {}", function.name) }),
        None => Ok(()),
    }
}

/// The whole schema as one script for `psql`, for databases where only an administrator may create things. A later
/// `up` finds its migrations applied.
pub fn sql() -> String {
    let mut script = String::from("-- The schema of Longshore, for an empty database.\nbegin;\n");
    for part in [include_str!("../sql/migrate/create_schema.sql"), include_str!("../sql/migrate/history.sql")] {
        let _ = writeln!(script, "{};\n", part.trim_end().trim_end_matches(';'));
    }
    for migration in MIGRATIONS.iter().filter(|migration| migration.migration_type.is_up_migration()) {
        let checksum = migration.checksum.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        let _ = writeln!(
            script,
            "{}\ninsert into longshore._sqlx_migrations (version, description, success, checksum, execution_time)\n\
             values ({}, '{}', true, '\\x{checksum}', 0);\n",
            migration.sql.trim_end(),
            migration.version,
            migration.description.replace('\'', "''"),
        );
    }
    for function in FUNCTIONS {
        let _ = writeln!(script, "{}\n", function.text.trim_end());
    }
    let _ = writeln!(script, "{};\ncommit;", include_str!("../sql/migrate/make_partitions.sql").trim_end());
    script
}

async fn up_alone(conn: &mut PgConnection) -> Result<Up, Error> {
    let before = applied(&mut Session::direct(conn)).await?;
    execute(&mut *conn, include_str!("../sql/migrate/create_schema.sql")).await?;
    execute(&mut *conn, include_str!("../sql/migrate/use_schema.sql")).await?;
    execute(&mut *conn, include_str!("../sql/migrate/lock_timeout.sql")).await?;
    run_migrations(conn).await?;
    install_functions(conn).await?;
    let partitions =
        sqlx::query_scalar(include_str!("../sql/migrate/make_partitions.sql")).fetch_one(&mut *conn).await?;
    Ok(Up { applied: versions().filter(|version| !before.contains_key(version)).collect(), partitions })
}

async fn down_alone(conn: &mut PgConnection, to: i64) -> Result<Vec<i64>, Error> {
    let before = applied(&mut Session::direct(conn)).await?;
    if before.is_empty() {
        return Ok(Vec::new());
    }
    let known: BTreeSet<i64> = versions().collect();
    if let Some(&version) = before.keys().rev().find(|version| !known.contains(version)) {
        return Err(Error::SchemaNewer { version });
    }
    let undone: Vec<i64> = before.keys().rev().filter(|version| **version > to).copied().collect();
    if undone.is_empty() {
        return Ok(undone);
    }
    execute(&mut *conn, include_str!("../sql/migrate/use_schema.sql")).await?;
    execute(&mut *conn, include_str!("../sql/migrate/lock_timeout.sql")).await?;
    drop_functions(conn, &names(), None).await?;
    for version in &undone {
        for migration in MIGRATIONS.iter().filter(|m| m.version == *version && m.migration_type.is_down_migration()) {
            conn.revert(migration).await?;
        }
    }
    if to <= 0 {
        // Someone may keep a table of their own in our schema: then the empty schema stays, which is no error.
        let mut tx = conn.begin().await?;
        match execute(&mut tx, include_str!("../sql/migrate/drop_schema.sql")).await {
            Ok(_) => tx.commit().await?,
            Err(_) => tx.rollback().await?,
        }
    }
    Ok(undone)
}

// Boxed, because the compiler cannot see through the migrator's generics that this future is `Send`.
fn run_migrations(conn: &mut PgConnection) -> BoxFuture<'_, Result<(), MigrateError>> {
    Box::pin(MIGRATIONS.run_direct(conn))
}

async fn install_functions(conn: &mut PgConnection) -> Result<(), Error> {
    let mut tx = conn.begin().await?;
    let before: Vec<String> =
        sqlx::query_scalar(include_str!("../sql/migrate/standing.sql")).bind(names()).fetch_all(&mut *tx).await?;
    for function in FUNCTIONS {
        let mut attempt = tx.begin().await?;
        match execute(&mut attempt, function.text).await {
            Ok(()) => attempt.commit().await?,
            // it returns other columns than it did, which needs a new function; unseen by others before all are there
            Err(error) if database::code(&error) == Some("42P13") => {
                attempt.rollback().await?;
                drop_functions(&mut tx, &[function.name], None).await?;
                execute(&mut tx, function.text).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    drop_functions(&mut tx, &names(), Some(before)).await?;
    tx.commit().await?;
    Ok(())
}

fn or_busy(error: Error) -> Error {
    let refused = match &error {
        Error::Database(refused)
        | Error::Migration(MigrateError::Execute(refused) | MigrateError::ExecuteMigration(refused, _)) => refused,
        _ => return error,
    };
    if database::code(refused) == Some("55P03") { Error::Busy } else { error }
}

/// Those of `standing` that are as they were then; all where none is given.
async fn drop_functions(conn: &mut PgConnection, names: &[&str], standing: Option<Vec<String>>) -> Result<(), Error> {
    let statements: Vec<String> = sqlx::query_scalar(include_str!("../sql/migrate/leftovers.sql"))
        .bind(names)
        .bind(standing)
        .fetch_all(&mut *conn)
        .await?;
    for statement in statements {
        execute(&mut *conn, &statement).await?;
    }
    Ok(())
}

/// One statement or a script, in the simple protocol.
async fn execute(conn: &mut PgConnection, text: &str) -> Result<(), sqlx::Error> {
    conn.execute(text).await.map(drop)
}

/// The migrator keeps its lock when it fails; the connection may live on.
async fn unlock<T>(conn: &mut PgConnection, result: Result<T, Error>) -> Result<T, Error> {
    let reset = execute(&mut *conn, include_str!("../sql/migrate/reset_lock_timeout.sql")).await;
    let unlocked = sqlx::query(include_str!("../sql/migrate/unlock.sql")).execute(conn).await;
    let value = result?;
    reset?;
    unlocked?;
    Ok(value)
}

async fn server_version(conn: &mut PgConnection) -> Result<i32, Error> {
    Ok(sqlx::query_scalar(include_str!("../sql/migrate/server_version.sql")).fetch_one(conn).await?)
}

async fn applied(session: &mut Session<'_>) -> Result<BTreeMap<i64, DateTime<Utc>>, Error> {
    let has_history: bool =
        sqlx::query_scalar(include_str!("../sql/migrate/has_history.sql")).fetch_one(&mut *session).await?;
    if !has_history {
        return Ok(BTreeMap::new());
    }
    let rows: Vec<(i64, DateTime<Utc>)> =
        sqlx::query_as(include_str!("../sql/migrate/applied.sql")).fetch_all(session).await?;
    Ok(rows.into_iter().collect())
}

async fn installed(db: impl PgExecutor<'_>) -> Result<BTreeMap<String, String>, Error> {
    let rows: Vec<(String, String)> =
        sqlx::query_as(include_str!("../sql/migrate/functions.sql")).bind(names()).fetch_all(db).await?;
    Ok(rows.into_iter().collect())
}

fn state_of(function: &Function, installed: &BTreeMap<String, String>) -> FunctionState {
    match installed.get(function.name) {
        None => FunctionState::Missing,
        Some(body) if body == function.body() => FunctionState::Installed,
        Some(_) => FunctionState::Differs,
    }
}

fn versions() -> impl Iterator<Item = i64> {
    MIGRATIONS.iter().filter(|migration| migration.migration_type.is_up_migration()).map(|migration| migration.version)
}

fn names() -> Vec<&'static str> {
    FUNCTIONS.iter().map(|function| function.name).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::path::{Path, PathBuf};

    use super::*;

    fn sql_files(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sql_files(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "sql") {
                found.push(path);
            }
        }
    }

    #[test]
    fn every_function_file_is_installed() {
        let mut files = Vec::new();
        sql_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("sql"), &mut files);
        let on_disk: BTreeSet<String> = files
            .iter()
            .filter(|path| std::fs::read_to_string(path).unwrap().contains("create or replace function"))
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        let listed: BTreeSet<String> = FUNCTIONS.iter().map(|function| function.name.to_owned()).collect();
        assert_eq!(on_disk, listed);
        assert_eq!(listed.len(), FUNCTIONS.len(), "two functions of one name");
    }

    #[test]
    fn a_function_file_holds_one_function_of_its_name() {
        for function in FUNCTIONS {
            let begins = format!("create or replace function longshore.{}(", function.name);
            assert_eq!(function.text.matches("create or replace function").count(), 1, "{}", function.name);
            assert!(function.text.contains(&begins), "{}", function.name);
            assert!(function.text.contains("set search_path = longshore, pg_temp"), "{}", function.name);
            assert!(function.body().contains("begin"), "{} has no body between dollar quotes", function.name);
        }
    }

    #[test]
    fn every_migration_has_its_down() {
        let downs: BTreeSet<i64> = MIGRATIONS
            .iter()
            .filter(|migration| migration.migration_type.is_down_migration())
            .map(|migration| migration.version)
            .collect();
        assert_eq!(versions().collect::<BTreeSet<_>>(), downs);
        assert!(!downs.is_empty());
    }

    #[test]
    fn the_script_holds_every_migration_and_function() {
        let script = sql();
        for version in versions() {
            assert!(script.contains(&format!("values ({version}, ")));
        }
        for function in FUNCTIONS {
            assert!(script.contains(function.text.trim_end()));
        }
    }
}
