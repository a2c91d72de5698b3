//! Measuring the engine as it is used: a real worker process, typed handlers, every record written, on a database of its own.
//! A measurement is worth nothing if work was lost or done twice, so the books are checked by SQL before a figure is given.

mod database;
mod fleet;
mod member;
mod usage;
mod workload;

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use longshore_core::definition::Definition;
use longshore_core::workflow;
use longshore_enqueuer::{Enqueuer, NewRun};
use serde::Serialize;
use sqlx::PgConnection;
use tokio::time::sleep;

use crate::exit::Exit;
use database::{Percentiles, Scratch};
use fleet::{Fleet, Spawn};
use usage::{Processes, Usage};
use workload::RunInput;

pub use member::work;
pub use workload::Scenario;

/// Runs handed to the library at once.
const START_AT_ONCE: u64 = 10_000;
/// The first hops of a measurement warm connections and plans.
const WARM_UP_HOPS: u64 = 200;
/// Between two starts: more than the notifier's 50 ms, and not in step with it.
const START_EVERY: Duration = Duration::from_millis(97);

/// How to measure.
#[derive(Clone, Debug)]
pub struct Bench {
    /// What to measure.
    pub scenario: Scenario,
    /// Worker processes.
    pub workers: u32,
    /// Slots of each.
    pub slots: u32,
    /// From then on until the end another session holds a snapshot open.
    pub pin_snapshot_after: Option<Duration>,
    /// Leave the database of the measurement on the cluster.
    pub keep: bool,
}

/// What was measured. The names are those of `-o json`.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// chain, fan, single, hop, foreach, while or start.
    pub scenario: &'static str,
    /// Runs measured.
    pub runs: u64,
    /// Steps measured.
    pub steps: u64,
    /// From the first claim (hop, while, start: from the first start) to the end of the last step, by Postgres' clock.
    pub seconds: f64,
    /// Steps ended per second.
    pub steps_per_s: f64,
    /// WAL written per step.
    pub wal_bytes_per_step: f64,
    /// CPU time of all of Postgres' processes per step; none when it runs on another machine.
    pub postgres_cpu_us_per_step: Option<f64>,
    /// CPU time of the worker processes per step.
    pub worker_cpu_us_per_step: f64,
    /// Half of the latencies were at most this. Which latency: chain, fan, single, foreach: from a step's claim to its recorded end; hop, while: between the
    /// ends of consecutive steps; start: from the call of the library to the first line of the handler.
    pub p50_ms: f64,
    /// 99 of 100 latencies were at most this.
    pub p99_ms: f64,
    /// Worker processes.
    pub workers: u32,
    /// Slots of each.
    pub slots: u32,
    /// Runs that were enqueued before.
    pub backlog: u64,
    /// When a snapshot was pinned, in seconds.
    pub snapshot_pinned_after_s: Option<f64>,
    /// The machine's load over the last minute, before the window and at its end.
    pub load_average: [Option<f64>; 2],
    /// The database that was left, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
}

impl Figures {
    /// To what a reader can use: whole steps and bytes, tenths of microseconds, microseconds of latency.
    fn rounded(self) -> Self {
        let to = |places: i32, value: f64| (value * 10_f64.powi(places)).round() / 10_f64.powi(places);
        Self {
            seconds: to(3, self.seconds),
            steps_per_s: to(0, self.steps_per_s),
            wal_bytes_per_step: to(0, self.wal_bytes_per_step),
            postgres_cpu_us_per_step: self.postgres_cpu_us_per_step.map(|cpu| to(1, cpu)),
            worker_cpu_us_per_step: to(1, self.worker_cpu_us_per_step),
            p50_ms: to(3, self.p50_ms),
            p99_ms: to(3, self.p99_ms),
            ..self
        }
    }
}

/// The window of a measurement.
struct Window {
    from: DateTime<Utc>,
    before: Usage,
    after: Usage,
    /// What only the clients saw.
    latencies: Option<Percentiles>,
}

impl Bench {
    /// Measure on the cluster that `url` leads to, in a database that is made for it. `longshore` is the operator's binary, which the workers
    /// are processes of; `logs` is a folder for theirs.
    ///
    /// # Errors
    /// When the database cannot be made, a worker ends, nothing happens for a minute, or the books do not balance.
    pub async fn run(&self, url: &str, longshore: &Path, logs: &Path) -> Result<Figures> {
        let scratch = Scratch::create(url).await?;
        let measured = self.measure(&scratch, longshore, logs).await;
        let database = self.keep.then(|| scratch.name().to_owned());
        if !self.keep {
            scratch.drop().await?;
        }
        Ok(Figures { database, ..measured?.rounded() })
    }

    async fn measure(&self, scratch: &Scratch, longshore: &Path, logs: &Path) -> Result<Figures> {
        let mut session = scratch.connect().await?;
        workflow::publish(&mut session, &Definition::from_json(&self.scenario.definition())?).await?;
        let enqueuer = Enqueuer::new(scratch.pool().await?);
        let spawn = Spawn { longshore, url: scratch.url(), workers: self.workers, slots: self.slots, logs };
        let load_before = usage::load_average();
        let window = match self.scenario {
            scenario if scenario.one_by_one() => self.one_by_one(&spawn, &enqueuer, &mut session).await?,
            _ => self.drain(&spawn, &enqueuer, scratch, &mut session).await?,
        };
        let load_after = usage::load_average();
        let problems = database::check_books(&mut session, self.scenario).await?;
        if !problems.is_empty() {
            return Err(Exit::Failed.error(format!("the books do not balance: {}", problems.join("; "))));
        }
        let figures = self.figures(&window, &mut session).await?;
        Ok(Figures { load_average: [load_before, load_after], ..figures })
    }

    /// Enqueue everything, let the workers claim, and wait for the end.
    async fn drain(
        &self,
        spawn: &Spawn<'_>,
        enqueuer: &Enqueuer,
        scratch: &Scratch,
        session: &mut PgConnection,
    ) -> Result<Window> {
        enqueue(enqueuer, self.scenario).await?;
        database::settle(session).await?;
        let mut fleet = Fleet::spawn(spawn)?;
        let processes = Processes::of(session, fleet.pids()).await?;
        let before = processes.usage(session).await?;
        fleet.open_gate().await?;

        let mut pinned = scratch.connect().await?;
        let pin = async {
            if let Some(after) = self.pin_snapshot_after {
                sleep(after).await;
                database::pin_snapshot(&mut pinned).await?;
            }
            std::future::pending::<Result<()>>().await
        };
        let end = async {
            fleet.ended(self.scenario.runs() * self.scenario.steps_per_run()).await?;
            if self.scenario.started() == self.scenario.runs() {
                database::all_ended(session).await?;
            }
            processes.usage(session).await
        };
        let after = tokio::select! {
            after = end => after?,
            failed = pin => return failed.and(Err(anyhow::anyhow!("the snapshot was not held"))),
        };
        fleet.stop().await?;
        let from = database::first_claim(session).await?;
        Ok(Window { from, before, after, latencies: None })
    }

    /// Start one run at a time, the next when the one before has ended.
    async fn one_by_one(&self, spawn: &Spawn<'_>, enqueuer: &Enqueuer, session: &mut PgConnection) -> Result<Window> {
        let mut fleet = Fleet::spawn(spawn)?;
        fleet.open_gate().await?;
        fleet.ready().await?;
        let processes = Processes::of(session, fleet.pids()).await?;
        let before = processes.usage(session).await?;
        let timed = matches!(self.scenario, Scenario::Start { .. });
        let mut latencies = Vec::new();
        for number in 1..=self.scenario.runs() {
            if timed {
                sleep(START_EVERY).await;
            }
            let called = SystemTime::now();
            let run = enqueuer.start(&self.scenario.workflow(), &RunInput::new(number)).await?;
            if timed {
                let (run_id, began) = fleet.began().await?;
                anyhow::ensure!(run_id == run.id, "another run began than was started");
                latencies.push(began.duration_since(called).unwrap_or_default().as_secs_f64() * 1000.0);
            }
            fleet.ended(number * self.scenario.steps_per_run()).await?;
            database::all_ended(session).await?;
        }
        let after = processes.usage(session).await?;
        fleet.stop().await?;
        Ok(Window { from: before.at, before, after, latencies: percentiles(latencies) })
    }

    async fn figures(&self, window: &Window, session: &mut PgConnection) -> Result<Figures> {
        let scenario = self.scenario;
        let steps = scenario.runs() * scenario.steps_per_run();
        let end = database::nth_finish(session, scenario.runs() * scenario.attempts_per_run()).await?;
        let seconds = (end - window.from).to_std().context("the steps ended before they were claimed")?.as_secs_f64();
        let Percentiles { p50, p99 } = match (window.latencies, scenario) {
            (Some(latencies), _) => latencies,
            (None, Scenario::Hop { .. } | Scenario::While { .. }) => {
                database::hops(session, WARM_UP_HOPS.min(steps / 2)).await?
            }
            (None, _) => database::held(session).await?,
        };
        // a backlog goes on a little after the last measured step: what it cost belongs to all that ended by then
        let counted = database::finished_by(session, window.after.at).await? as f64;
        let (before, after) = (&window.before, &window.after);
        let micros = |from: f64, to: f64| (to - from) * 1e6 / counted;
        Ok(Figures {
            scenario: scenario.name(),
            runs: scenario.runs(),
            steps,
            seconds,
            steps_per_s: steps as f64 / seconds,
            wal_bytes_per_step: (after.wal_bytes - before.wal_bytes) as f64 / counted,
            postgres_cpu_us_per_step: before.postgres_seconds.zip(after.postgres_seconds).map(|(a, b)| micros(a, b)),
            worker_cpu_us_per_step: micros(before.worker_seconds, after.worker_seconds),
            p50_ms: p50,
            p99_ms: p99,
            workers: self.workers,
            slots: self.slots,
            backlog: scenario.started(),
            snapshot_pinned_after_s: self.pin_snapshot_after.map(|after| after.as_secs_f64()),
            load_average: [None, None],
            database: None,
        })
    }
}

async fn enqueue(enqueuer: &Enqueuer, scenario: Scenario) -> Result<()> {
    let workflow = scenario.workflow();
    let mut next = 1;
    while next <= scenario.started() {
        let until = scenario.started().min(next + START_AT_ONCE - 1);
        let runs: Vec<NewRun> = (next..=until).map(|number| NewRun::new(&workflow, &RunInput::new(number))).collect();
        enqueuer.start_many(&runs).await?;
        next = until + 1;
    }
    Ok(())
}

fn percentiles(mut values: Vec<f64>) -> Option<Percentiles> {
    values.sort_by(f64::total_cmp);
    let at = |part: usize| values.get(values.len() * part / 100).copied();
    Some(Percentiles { p50: at(50)?, p99: at(99)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_come_from_the_sorted_values() {
        let values = (1..=200).rev().map(f64::from).collect();
        assert_eq!(percentiles(values), Some(Percentiles { p50: 101.0, p99: 199.0 }));
        assert_eq!(percentiles(Vec::new()), None);
    }
}
