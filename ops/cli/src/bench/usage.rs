//! What a measurement has cost so far: CPU time of the workers and of Postgres from `/proc`, WAL from Postgres.

use std::collections::HashMap;
use std::fs;

use anyhow::Result;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// Clock ticks of `/proc/<pid>/stat` per second; the same on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// The processes to look at.
#[derive(Clone, Debug)]
pub(super) struct Processes {
    /// Postgres' first process; none when it runs elsewhere.
    postmaster: Option<u32>,
    /// The session that samples, whose cost is not the workers'.
    sampler: u32,
    workers: Vec<u32>,
}

/// Everything so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// By Postgres' clock.
    pub(super) at: DateTime<Utc>,
    pub(super) wal_bytes: i64,
    /// None when Postgres runs elsewhere.
    pub(super) postgres_seconds: Option<f64>,
    pub(super) worker_seconds: f64,
}

struct Stat {
    name: String,
    parent: u32,
    own: u64,
    /// Of children that have ended.
    ended_children: u64,
}

impl Processes {
    /// Those of the cluster that `session` is connected to, and these workers.
    pub(super) async fn of(session: &mut PgConnection, workers: Vec<u32>) -> Result<Self> {
        let (pid, near): (i32, bool) =
            sqlx::query_as(include_str!("../../../../core/sql/bench/session.sql")).fetch_one(session).await?;
        let sampler = u32::try_from(pid)?;
        let here = stat(sampler).filter(|stat| near && stat.name.starts_with("postgres"));
        Ok(Self { postmaster: here.map(|stat| stat.parent), sampler, workers })
    }

    /// What has been used until now.
    pub(super) async fn usage(&self, session: &mut PgConnection) -> Result<Usage> {
        let (at, wal_bytes) =
            sqlx::query_as(include_str!("../../../../core/sql/bench/sample.sql")).fetch_one(session).await?;
        let all: HashMap<u32, Stat> = pids().filter_map(|pid| Some((pid, stat(pid)?))).collect();
        let ticks = |stat: &Stat| stat.own + stat.ended_children;
        let workers: u64 = self.workers.iter().filter_map(|pid| all.get(pid)).map(ticks).sum();
        let postgres = self.postmaster.map(|postmaster| {
            let children = all.iter().filter(|(pid, stat)| stat.parent == postmaster && **pid != self.sampler);
            let first = all.get(&postmaster).map_or(0, ticks);
            seconds(first + children.map(|(_, stat)| stat.own).sum::<u64>())
        });
        Ok(Usage { at, wal_bytes, postgres_seconds: postgres, worker_seconds: seconds(workers) })
    }
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / TICKS_PER_SECOND
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn stat(pid: u32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// A line of `/proc/<pid>/stat`; the name is in parentheses and may hold anything.
fn parse(text: &str) -> Option<Stat> {
    let (before, after) = text.rsplit_once(')')?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
    Some(Stat {
        name: before.split_once('(')?.1.to_owned(),
        parent: fields.get(1)?.parse().ok()?,
        own: number(11)? + number(12)?,
        ended_children: number(13)? + number(14)?,
    })
}

/// The machine's load over the last minute; none where the system does not say.
pub(super) fn load_average() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_stat_line_is_read_even_if_its_name_has_parentheses() {
        let stat = parse("42 (postgres) x (a b)) S 7 42 42 0 -1 4194560 1 2 3 4 50 6 70 8 20 0 1 0 99 1 1").unwrap();
        assert_eq!((stat.parent, stat.own, stat.ended_children), (7, 56, 78));
        assert_eq!(stat.name, "postgres) x (a b)");
        assert!(parse("42 nothing").is_none());
    }

    #[test]
    fn this_process_is_found() {
        assert!(stat(std::process::id()).is_some());
        assert!(pids().any(|pid| pid == std::process::id()));
    }
}
