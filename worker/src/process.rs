//! A worker as a whole process: telemetry, signals, and an end that comes even if a handler never yields. Both binaries are this and no more.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::{DEFAULT_SLOTS, WorkerArgs};
use crate::handler::Handlers;
use crate::telemetry;
use crate::worker::{Slots, Worker, WorkerBuilder};

/// Beyond the grace, how long the process may take to leave before it is ended.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);

/// Run a worker with these handlers until SIGTERM or SIGINT (a second one ends the grace) or until `leave` ends; then end the process when the
/// grace is over, whatever handlers do. Blocks the calling thread. The exit code is 0 after an orderly leave.
pub fn run(
    args: WorkerArgs,
    handlers: Handlers,
    leave: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<ExitCode> {
    telemetry::init(args.log_format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start threads for handlers")?;
    let grace = args.grace;
    let address_file = args.address_file.clone();
    let result = runtime.block_on(async move {
        let (mut first, mut second) = (Leave::new()?, Leave::new()?);
        let worker = builder(args, handlers).start().await?;
        if let Some(address) = worker.address() {
            tracing::info!(%address, "metrics at http://{address}/metrics");
            if let Some(file) = address_file {
                tell(&file, address).with_context(|| format!("cannot write {}", file.display()))?;
            }
        }
        let told = async move {
            tokio::select! {
                () = first.signal() => {}
                () = leave => {}
            }
            end_after(grace + LEAVE_WITHIN);
        };
        let again = async move {
            second.signal().await;
            second.signal().await;
        };
        worker.until_or_now(told, again).await;
        Ok(ExitCode::SUCCESS)
    });
    // handlers that never yield must not keep the process
    runtime.shutdown_background();
    result
}

/// The file appears whole: a reader sees no half of an address.
fn tell(file: &Path, address: SocketAddr) -> std::io::Result<()> {
    let half = file.with_added_extension("new");
    std::fs::write(&half, address.to_string())?;
    std::fs::rename(&half, file)
}

fn builder(args: WorkerArgs, handlers: Handlers) -> WorkerBuilder {
    let mut builder =
        Worker::builder(&args.database_url).handlers(handlers).lease(args.lease).grace(args.grace).listen(args.listen);
    if args.pooled {
        builder = builder.pooled();
    }
    if let Some(url) = args.direct_url.as_deref().filter(|url| !url.is_empty()) {
        builder = builder.direct_url(url);
    }
    if args.all_queues {
        builder = builder.all_queues(Slots(DEFAULT_SLOTS));
    } else {
        for queue in &args.queues {
            builder = builder.queue(&queue.name, Slots(queue.slots));
        }
    }
    if let Some(connections) = args.connections {
        builder = builder.connections(connections);
    }
    if args.no_system_lane {
        builder = builder.without_system_lane();
    }
    if let Some(age) = args.prune_older_than {
        builder = builder.prune_older_than(age);
    }
    if let Some(name) = &args.name {
        builder = builder.name(name);
    }
    builder
}

/// SIGTERM or SIGINT, whichever comes.
struct Leave {
    term: Signal,
    interrupt: Signal,
}

impl Leave {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { term: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn signal(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// End the process after this time from a thread of its own, which no handler can hold up.
fn end_after(time: Duration) {
    let ended = std::thread::Builder::new().name("deadline".to_owned()).spawn(move || {
        std::thread::sleep(time);
        tracing::error!("the deadline for leaving is over: ending the process");
        std::process::exit(1);
    });
    if let Err(error) = ended {
        tracing::warn!(%error, "no thread for the deadline");
    }
}
