//! `longshore bench`: how fast the engine is here, and what a step costs.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Subcommand;
use longshore::{
    bench::{self, Bench, Figures, Scenario},
    exit::Exit,
    postgres::{Embedded, Listen},
};

use crate::Global;

/// Measure what the engine does and what a step costs, with worker processes, typed handlers and all records, on a
/// database made for it: on a private Postgres of its own, or on the cluster of --database-url. Afterwards the books
/// are checked by SQL; exit code 1 if they do not balance.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Slots of each worker
    #[arg(long, global = true, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    slots: u32,
    /// Worker processes
    #[arg(long, global = true, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// From then on another session holds a snapshot open, so that nothing dead can be cleaned up
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration)]
    pin_snapshot_after: Option<Duration>,
    /// Leave the database of the measurement on the cluster of --database-url, and print its name
    #[arg(long, global = true)]
    keep: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Steps one after another; p50 and p99: from a step's claim to its recorded end
    Chain {
        /// Runs, all enqueued before the window
        #[arg(long, default_value_t = 20_000, value_name = "N", value_parser = positive())]
        runs: u64,
        /// Steps of each run
        #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        steps: u32,
    },
    /// One step, many beside each other, one that joins them; p50 and p99: from a step's claim to its recorded end
    Fan {
        /// Runs, all enqueued before the window
        #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = positive())]
        runs: u64,
        /// Steps beside each other
        #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        width: u32,
    },
    /// Runs of a single step; p50 and p99: from a step's claim to its recorded end
    Single {
        /// Runs; the window ends when so many have ended
        #[arg(long, default_value_t = 100_000, value_name = "N", value_parser = positive())]
        runs: u64,
        /// Runs enqueued before the window, if more than are measured
        #[arg(long, default_value_t = 0, value_name = "N")]
        backlog: u64,
    },
    /// One run at a time; p50 and p99: from a step's recorded end to that of the next, without the first 200
    Hop {
        /// Runs, one after another
        #[arg(long, default_value_t = 3, value_name = "N", value_parser = positive())]
        runs: u64,
        /// Steps of each run
        #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=10_000))]
        steps: u32,
    },
    /// One foreach over many items, a step for each; p50 and p99: from a step's claim to its recorded end
    Foreach {
        /// Runs, all enqueued before the window
        #[arg(long, default_value_t = 10, value_name = "N", value_parser = positive())]
        runs: u64,
        /// Items of each run
        #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
        items: u32,
    },
    /// One run of a while at a time; p50 and p99: from a pass's recorded end to that of the next, without the first 200
    While {
        /// Runs, one after another
        #[arg(long, default_value_t = 3, value_name = "N", value_parser = positive())]
        runs: u64,
        /// Passes of each run
        #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
        passes: u32,
    },
    /// Runs started through the library, ten a second; p50 and p99: from the call to the first line of the handler
    Start {
        /// Runs, one after another
        #[arg(long, default_value_t = 200, value_name = "N", value_parser = positive())]
        runs: u64,
    },
}

impl Arguments {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let scenario = self.what.scenario();
        if self.pin_snapshot_after.is_some() && scenario.one_by_one() {
            return Err(Exit::Usage
                .error(format!("--pin-snapshot-after is for chain, fan, foreach and single, not for {scenario}")));
        }
        if self.keep && global.database_url.is_none() {
            return Err(Exit::Usage.error("--keep needs --database-url: a private Postgres goes with the bench"));
        }
        let bench = Bench {
            scenario,
            workers: self.workers,
            slots: self.slots,
            pin_snapshot_after: self.pin_snapshot_after,
            keep: self.keep,
        };
        let longshore = std::env::current_exe()?;
        let logs = Logs::make()?;
        let figures = match &global.database_url {
            Some(url) => bench.run(url, &longshore, &logs.0).await?,
            None => {
                let embedded = Embedded::start(None, Listen::Socket, &longshore).await?;
                bench.run(embedded.url(), &longshore, &logs.0).await?
            }
        };
        global.output.print(&figures, text)
    }
}

impl What {
    fn scenario(&self) -> Scenario {
        match *self {
            Self::Chain { runs, steps } => Scenario::Chain { runs, steps },
            Self::Fan { runs, width } => Scenario::Fan { runs, width },
            Self::Single { runs, backlog } => Scenario::Single { runs, backlog: backlog.max(runs) },
            Self::Hop { runs, steps } => Scenario::Hop { runs, steps },
            Self::Foreach { runs, items } => Scenario::Foreach { runs, items },
            Self::While { runs, passes } => Scenario::While { runs, passes },
            Self::Start { runs } => Scenario::Start { runs },
        }
    }
}

/// A worker process of a bench
#[derive(Debug, clap::Args)]
pub(crate) struct Worker {
    #[arg(long)]
    slots: u32,
}

impl Worker {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        match &global.database_url {
            Some(url) => bench::work(url, self.slots).map(|()| ExitCode::SUCCESS),
            None => Err(Exit::Usage.error("a worker of a bench is started by `longshore bench`")),
        }
    }
}

/// A folder for the workers' logs, gone with the bench.
struct Logs(std::path::PathBuf);

impl Logs {
    fn make() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("longshore-bench-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0); // nothing of worth is in it
    }
}

fn positive() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=100_000_000)
}

fn duration(text: &str) -> Result<Duration, String> {
    longshore_core::duration::parse(text).map_err(|error| error.to_string())
}

fn text(figures: &Figures) -> String {
    let Figures { scenario, runs, steps, seconds, workers, slots, .. } = figures;
    let load = |place: usize| figures.load_average[place].map_or("unknown".to_owned(), |load| format!("{load:.2}"));
    let mut lines = vec![
        format!("{scenario}: {runs} runs, {steps} steps in {seconds:.3} s, {workers} x {slots} slots, books balanced"),
        format!("  steps/s            {:>12.0}", figures.steps_per_s),
        format!("  WAL per step       {:>12.0} B", figures.wal_bytes_per_step),
    ];
    if let Some(cpu) = figures.postgres_cpu_us_per_step {
        lines.push(format!("  Postgres per step  {cpu:>12.1} us of CPU"));
    }
    lines.extend([
        format!("  workers per step   {:>12.1} us of CPU", figures.worker_cpu_us_per_step),
        format!("  p50                {:>12.3} ms", figures.p50_ms),
        format!("  p99                {:>12.3} ms", figures.p99_ms),
        format!("  load before, after {:>12}", format!("{} {}", load(0), load(1))),
    ]);
    if figures.backlog > *runs {
        lines.push(format!("  enqueued before    {:>12}", figures.backlog));
    }
    if let Some(after) = figures.snapshot_pinned_after_s {
        lines.push(format!("  snapshot pinned    {after:>12.1} s after the start"));
    }
    if let Some(database) = &figures.database {
        lines.push(format!("  left the database  {database}"));
    }
    lines.join("\n")
}
