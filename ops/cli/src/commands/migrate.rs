//! `longshore migrate`: the schema in the database, brought up, taken down, looked at, or printed for `psql`.

use anyhow::Result;
use clap::Subcommand;
use longshore_core::migrate::{self, FunctionState};
use serde::Serialize;

use super::table::{table, time};
use crate::{Global, output};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring the schema up to this program; safe to repeat
    Up,
    /// Undo the newest migration, with all data of its tables
    Down {
        /// Undo every migration after this one; 0 leaves nothing behind
        #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(i64).range(0..))]
        to: Option<i64>,
    },
    /// What is applied
    Status,
    /// Print the whole schema as one script
    Sql,
}

#[derive(Serialize)]
struct Up {
    applied: Vec<i64>,
    partitions: i32,
}

#[derive(Serialize)]
struct Down {
    undone: Vec<i64>,
}

#[derive(Serialize)]
struct Status {
    current: bool,
    migrations: Vec<Migration>,
    unknown: Vec<i64>,
    functions: Vec<Function>,
}

#[derive(Serialize)]
struct Migration {
    version: i64,
    description: String,
    applied_at: Option<chrono::DateTime<chrono::Utc>>,
}

#[derive(Serialize)]
struct Function {
    name: &'static str,
    state: &'static str,
}

#[derive(Serialize)]
struct Script {
    sql: String,
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        match self {
            Self::Up => {
                global.refuse_pooler().await?;
                let up = migrate::up(&mut global.connect().await?).await?;
                let up = Up { applied: up.applied, partitions: up.partitions };
                global.output.print(&up, |up| match &up.applied[..] {
                    [] => "the schema is up to date".to_owned(),
                    applied => format!("applied {}", list(applied)),
                })
            }
            Self::Down { to } => {
                global.refuse_pooler().await?;
                let mut connection = global.connect().await?;
                let to = match to {
                    Some(to) => to,
                    None => before_newest(&migrate::status(&mut connection).await?),
                };
                let down = Down { undone: migrate::down(&mut connection, to).await? };
                global.output.print(&down, |down| match &down.undone[..] {
                    [] => "there was nothing to undo".to_owned(),
                    undone => format!("undone {}", list(undone)),
                })
            }
            Self::Status => {
                let status = Status::of(migrate::status(&mut global.connect().await?).await?);
                global.output.print(&status, Status::text)
            }
            Self::Sql => match global.output {
                output::Format::Text => output::line(migrate::sql().trim_end()),
                json => json.print(&Script { sql: migrate::sql() }, |script| script.sql.clone()),
            },
        }
    }
}

impl Status {
    fn of(status: migrate::Status) -> Self {
        Self {
            current: status.is_current(),
            migrations: status
                .migrations
                .into_iter()
                .map(|migration| Migration {
                    version: migration.version,
                    description: migration.description,
                    applied_at: migration.applied_at,
                })
                .collect(),
            unknown: status.unknown,
            functions: status
                .functions
                .into_iter()
                .map(|function| Function {
                    name: function.name,
                    state: match function.state {
                        FunctionState::Installed => "installed",
                        FunctionState::Missing => "missing",
                        FunctionState::Differs => "differs",
                    },
                })
                .collect(),
        }
    }

    fn text(&self) -> String {
        let row = |migration: &Migration| {
            let applied = migration.applied_at.map_or_else(|| "no".to_owned(), time);
            [migration.version.to_string(), migration.description.clone(), applied]
        };
        let mut text = table(["version", "description", "applied"], &[0], self.migrations.iter().map(row).collect());
        for version in &self.unknown {
            text += &format!("\nmigration {version} is of a newer program");
        }
        for function in self.functions.iter().filter(|function| function.state != "installed") {
            text += &format!("\nfunction {} {}", function.name, function.state);
        }
        text + match self.current {
            true => "\nthe schema is up to date",
            false => "\nthe schema is not up to date: run `longshore migrate up`",
        }
    }
}

/// The migration before the newest applied one; 0 when there is none.
fn before_newest(status: &migrate::Status) -> i64 {
    let applied = status.migrations.iter().filter(|migration| migration.applied_at.is_some());
    let mut versions: Vec<i64> = applied.map(|migration| migration.version).chain(status.unknown.clone()).collect();
    versions.sort_unstable();
    versions.iter().rev().nth(1).copied().unwrap_or(0)
}

fn list(versions: &[i64]) -> String {
    versions.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")
}
