//! The fault harness: a private Postgres, a fleet of worker processes, enqueuers, a seeded schedule of faults, and a checker that compares the
//! database with
//! a ledger kept outside of it. `longshore chaos` is this program.
#![allow(clippy::print_stdout, clippy::print_stderr)] // it is a command line

mod bouncer;
#[cfg(feature = "broken")]
mod broken;
mod check;
mod disk;
mod faults;
mod fleet;
mod ledger;
mod link;
mod load;
mod member;
mod operator;
mod partition;
mod prometheus;
mod report;
mod rules;
mod signals;
mod window;
mod workload;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

use crate::faults::Fault;
use crate::window::Settings;

/// Break everything a fleet stands on, then prove that nothing was lost.
#[derive(Debug, Parser)]
#[command(name = "longshore chaos", version, max_term_width = 100, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    member: Option<Member>,
    /// How long faults are done
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// What the schedule follows from; a random one, which is printed, where none is given. Several windows with several seeds
    #[arg(long, value_delimiter = ',')]
    seed: Vec<u64>,
    /// Worker processes
    #[arg(long, default_value_t = 8)]
    workers: u32,
    /// Faults to do, all at once; every one that this machine can do where none is named, but kill-each-second, which is kill again. `none` for the load alone
    #[arg(long, value_delimiter = ',')]
    faults: Option<Vec<String>>,
    /// Runs that wait or run at any moment
    #[arg(long, default_value_t = 200)]
    load: i64,
    /// Workflows of the load; all of them where none is named
    #[arg(long, value_delimiter = ',')]
    kinds: Option<Vec<String>>,
    /// Runs that are enqueued before the window
    #[arg(long, default_value_t = 0)]
    backlog: usize,
    /// The lease of the workers
    #[arg(long, default_value = "15s", value_parser = duration)]
    lease: Duration,
    /// Each fault alone, then all of them together, as without --faults; prints a table
    #[arg(long)]
    table: bool,
    /// Workers built from an older commit, for the fault `old`: their binary `longshore-worker`
    #[arg(long, value_name = "FILE", env = "LONGSHORE_OLD_WORKER")]
    old_worker: Option<std::path::PathBuf>,
    /// Keep the folder with all logs, the ledger and the cluster's data
    #[arg(long)]
    keep: bool,
    /// Leave out a rule of the engine, to see whether the checker finds out
    #[cfg(feature = "broken")]
    #[arg(long)]
    broken: Option<broken::Broken>,
    /// How results are printed
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Member {
    /// A worker of the fleet under test
    #[command(hide = true)]
    Member(Box<member::MemberArgs>),
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Lines and a table
    Text,
    /// One JSON object a window
    Json,
}

fn duration(text: &str) -> Result<Duration, String> {
    longshore_core::duration::parse(text).map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    if let Some(Member::Member(arguments)) = arguments.member {
        return member::run(*arguments);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let kept = runtime.block_on(windows(&arguments))?;
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One window after the other. True when every promise held in all of them.
async fn windows(arguments: &Arguments) -> Result<bool> {
    let (able, unable) = window::able(arguments.old_worker.as_deref());
    for (fault, missing) in &unable {
        eprintln!("skipped: {}: {missing}", fault.name());
    }
    let together: Vec<Fault> = able.iter().copied().filter(|fault| *fault != Fault::KillEachSecond).collect();
    let chosen = match &arguments.faults {
        None => together.clone(),
        Some(names) => named(names, &able, &unable)?,
    };
    let sets: Vec<Vec<Fault>> = match (arguments.table, &arguments.faults) {
        (false, _) => vec![chosen],
        (true, None) => able.iter().map(|fault| vec![*fault]).chain([together]).collect(),
        (true, Some(_)) => chosen.iter().map(|fault| vec![*fault]).collect(),
    };
    let kinds = workload::chosen(arguments.kinds.as_deref())?;
    let seeds = if arguments.seed.is_empty() { vec![rand::random::<u32>().into()] } else { arguments.seed.clone() };
    eprintln!("seeds: {seeds:?}");
    let mut results = Vec::new();
    for faults in sets {
        for seed in &seeds {
            let settings = Settings {
                seconds: arguments.seconds,
                seed: *seed,
                workers: arguments.workers,
                faults: faults.clone(),
                load: arguments.load,
                kinds: kinds.clone(),
                lease: arguments.lease,
                backlog: arguments.backlog,
                old_worker: arguments.old_worker.clone(),
                keep: arguments.keep,
                #[cfg(feature = "broken")]
                broken: arguments.broken,
            };
            let result = window::run(&settings).await?;
            match arguments.output {
                Format::Text => print!("{}", report::text(&result)),
                Format::Json => println!("{}", serde_json::to_string(&result)?),
            }
            results.push(result);
        }
    }
    if arguments.table && arguments.output == Format::Text {
        print!("\n{}", report::table(&results));
    }
    Ok(results.iter().all(|result| result.violations.is_empty()))
}

/// The faults of these names. One that this machine cannot do counts as not run.
fn named(names: &[String], able: &[Fault], unable: &[(Fault, String)]) -> Result<Vec<Fault>> {
    let mut faults = Vec::new();
    for name in names.iter().filter(|name| *name != "none") {
        let fault = Fault::from_str(name, true).map_err(|_| {
            let known: Vec<String> = Fault::value_variants().iter().map(|fault| fault.name()).collect();
            anyhow::anyhow!("there is no fault {name}: name some of {}", known.join(", "))
        })?;
        if able.contains(&fault) {
            faults.push(fault);
        } else if !unable.iter().any(|(other, _)| *other == fault) {
            anyhow::bail!("the fault {name} is not known here");
        }
    }
    Ok(faults)
}
