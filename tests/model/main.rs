//! Random programs on a real fleet against an interpreter of their own: `longshore-model --cases 10000`. Without a database of its own in
//! `LONGSHORE_TEST_DATABASE_URL` it starts a private Postgres.
#![allow(clippy::print_stdout, clippy::print_stderr)] // it is a command line

use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use clap::{Args, Parser, Subcommand};
use longshore::postgres::{Cluster, Listen};
use longshore_tests::database::URL_VARIABLE;
use longshore_tests::programs::{bulk, script};
use longshore_worker::args::WorkerArgs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// Run random programs on a fleet of workers that are killed, and compare what comes of them with what they mean.
#[derive(Debug, Parser)]
#[command(name = "longshore-model", version, max_term_width = 100, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    member: Option<Member>,
    /// Runs to make
    #[arg(long, default_value_t = 1000)]
    cases: u64,
    /// What they follow from; a random one, which is printed, where none is given
    #[arg(long)]
    seed: Option<u64>,
    /// The first of them, to repeat what a disagreement names
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// A worker is killed under this share of the runs
    #[arg(long, default_value_t = 0.1)]
    kill_share: f64,
    /// Runs at a time
    #[arg(long, default_value_t = 120)]
    in_flight: usize,
    /// Worker processes
    #[arg(long, default_value_t = 4)]
    workers: usize,
}

#[derive(Debug, Subcommand)]
enum Member {
    /// A worker of the fleet
    #[command(hide = true)]
    Member(Box<MemberArgs>),
}

#[derive(Args, Debug)]
struct MemberArgs {
    #[command(flatten)]
    worker: WorkerArgs,
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
    if let Some(Member::Member(member)) = arguments.member {
        let url = std::env::var("LONGSHORE_DATABASE_URL").context("a member needs LONGSHORE_DATABASE_URL")?;
        return longshore_worker::run(member.worker, script::handlers(&url), std::future::pending());
    }
    if std::env::var_os(URL_VARIABLE).is_none() {
        return on_own_cluster();
    }
    let seed = arguments.seed.unwrap_or_else(|| rand::random::<u32>().into());
    println!("seed {seed}");
    let settings = bulk::Settings {
        cases: arguments.cases,
        seed,
        first: arguments.first,
        kill_share: arguments.kill_share,
        in_flight: arguments.in_flight,
        workers: arguments.workers,
        program: std::env::current_exe()?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let figures = runtime.block_on(unless_told(bulk::run(settings)))?;
    println!("{figures}");
    Ok(ExitCode::SUCCESS)
}

/// The same on a private Postgres that is gone afterwards.
fn on_own_cluster() -> Result<ExitCode> {
    let folder = tempfile::Builder::new().prefix("longshore-model-").tempdir()?;
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let cluster = Cluster::at(&folder.path().join("postgres"))?;
    let runtime = tokio::runtime::Runtime::new()?;
    let status = runtime.block_on(async {
        let url = unless_told(async { Ok(cluster.start(Listen::Socket).await?.url) }).await?;
        let mut again = Command::new(std::env::current_exe()?);
        let mut again = again.args(std::env::args_os().skip(1)).env(URL_VARIABLE, url).spawn()?;
        let told = match unless_told(async { Ok(again.wait().await?) }).await {
            Err(told) => told,
            status => return status,
        };
        // its workers go with it, but not where it is killed
        if let Some(id) = again.id().and_then(|id| i32::try_from(id).ok()) {
            kill(Pid::from_raw(id), Signal::SIGTERM).ok();
        }
        again.wait().await?;
        Err(told)
    });
    // whatever ended it, the cluster does not stay
    cluster.remove()?;
    Ok(if status?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// This, unless a signal comes first.
async fn unless_told<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut term = signal(SignalKind::terminate())?;
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
        _ = term.recv() => Err(anyhow!("told to stop")),
    }
}
