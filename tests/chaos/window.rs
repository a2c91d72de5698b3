//! One window: set everything up, do the faults, let the fleet settle, drain it, and check.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use longshore::postgres::{Cluster, Listen};
use longshore_core::definition::Definition;
use longshore_core::{database, migrate, workflow};
use sqlx::ConnectOptions;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::bouncer::Bouncer;
use crate::check::{self, Violations};
use crate::disk::Disk;
use crate::faults::{self, Fault, POISON, World};
use crate::fleet::{Fleet, Launch};
use crate::ledger::{self, Entry, Ledger};
use crate::link::{self, Trouble};
use crate::load::{self, Load};
use crate::partition::Partition;
use crate::prometheus::Prometheus;
use crate::report::Outcome;
use crate::rules;
use crate::workload::{self, Kind, PLAIN, QUEUE};

/// The worker that lives in a network namespace, for the fault `partition`.
const APART: u32 = 1;

/// Slots of each worker.
const SLOTS: u32 = 40;

/// A fleet that has recorded nothing for this long, beyond four leases, will not settle.
const NO_PROGRESS: Duration = Duration::from_secs(10);

/// How long a look at the waits may take.
const LOOK: Duration = Duration::from_secs(2);

/// Where Debian puts the library that fakes a process's clock.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// What a window is to be.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) seconds: u64,
    pub(crate) seed: u64,
    pub(crate) workers: u32,
    pub(crate) faults: Vec<Fault>,
    pub(crate) load: i64,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) lease: Duration,
    pub(crate) backlog: usize,
    pub(crate) old_worker: Option<PathBuf>,
    pub(crate) keep: bool,
    #[cfg(feature = "broken")]
    pub(crate) broken: Option<crate::broken::Broken>,
}

impl Settings {
    fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }
}

/// The faults that this machine can do, and what is missing for the others.
pub(crate) fn able(old_worker: Option<&Path>) -> (Vec<Fault>, Vec<(Fault, String)>) {
    let root = nix::unistd::geteuid().is_root();
    let has = |program: &str| {
        Command::new("sh")
            .args(["-c", "command -v \"$0\" > /dev/null", program])
            .status()
            .is_ok_and(|found| found.success())
    };
    let needs = |fault: Fault| match fault {
        Fault::Partition if !root || !has("ip") => Some("needs root and ip (iproute2) for a network namespace"),
        Fault::Partition if Partition::make().is_err() => Some("needs the right to make network namespaces"),
        Fault::Disk if !root => Some("needs root to mount a tmpfs"),
        Fault::Clock if !Path::new(FAKETIME).exists() => Some("needs libfaketime"),
        Fault::Poison if !has("prlimit") => Some("needs prlimit (util-linux), which keeps the memory hog in bounds"),
        Fault::Pgbouncer if longshore_tests::bouncer::program().is_none() => Some("needs pgbouncer"),
        Fault::Old if old_worker.is_none() => Some("needs --old-worker, a longshore-worker built from an older commit"),
        _ => None,
    };
    let (mut able, mut unable) = (Vec::new(), Vec::new());
    for fault in Fault::value_variants() {
        match needs(*fault) {
            None => able.push(*fault),
            Some(missing) => unable.push((*fault, missing.to_owned())),
        }
    }
    (able, unable)
}

/// Do it.
pub(crate) async fn run(settings: &Settings) -> Result<Outcome> {
    let folder = tempfile::Builder::new().prefix("longshore-chaos-").tempdir()?;
    // Postgres runs as another user when we are root; what is private in there is closed
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let postgres = folder.path().join("postgres");
    let disk = if settings.has(Fault::Disk) { Some(Arc::new(Disk::mount(&postgres)?)) } else { None };
    let cluster = Arc::new(Cluster::at(&if disk.is_some() { postgres.join("cluster") } else { postgres })?);
    // whatever ends it, no process and no folder stays
    let mut term = signal(SignalKind::terminate())?;
    let result = tokio::select! {
        result = in_folder(settings, folder.path(), cluster.clone(), disk.clone()) => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        _ = term.recv() => Err(anyhow::anyhow!("told to stop")),
    };
    if settings.keep {
        cluster.stop()?;
        eprintln!("kept: {}", folder.keep().display());
    } else {
        cluster.remove()?;
    }
    // not before its cluster was stopped
    drop(disk);
    result
}

async fn in_folder(
    settings: &Settings,
    folder: &Path,
    cluster: Arc<Cluster>,
    disk: Option<Arc<Disk>>,
) -> Result<Outcome> {
    let url = cluster.start(Listen::Socket).await?.url;
    let direct = faults::direct(&url)?;
    prepare(&direct).await?;
    #[cfg(feature = "broken")]
    if let Some(broken) = settings.broken {
        broken.install(&mut direct.connect().await?).await?;
    }
    let socket = direct.get_socket().context("the cluster has no socket")?;
    let socket = socket.join(format!(".s.PGSQL.{}", direct.get_port()));
    let partition = if settings.has(Fault::Partition) { Some(Partition::make()?) } else { None };
    // the last is that of the enqueuers; the worker in a namespace reaches this side's address of its link
    let (mut ways, mut addresses) = (Vec::new(), Vec::new());
    for number in 0..=settings.workers {
        let here =
            partition.as_ref().filter(|_| number == APART).map_or([127, 0, 0, 1].into(), |partition| partition.here);
        let way = Arc::new(Trouble::default());
        addresses.push(link::listen(SocketAddr::new(here, 0), socket.clone(), way.clone())?);
        ways.push(way);
    }
    let through = |address: SocketAddr| {
        let (user, database) = (direct.get_username(), direct.get_database().unwrap_or("postgres"));
        format!("postgres://{user}@{address}/{database}?sslmode=disable")
    };
    let books = folder.join("ledger");
    std::fs::create_dir(&books)?;
    let ledger = Arc::new(Ledger::open(&books)?);
    let urls: Vec<String> = addresses.into_iter().map(through).collect();
    let own = urls.last().context("no way for the enqueuers")?;
    let bouncer = if settings.has(Fault::Pgbouncer) { Some(Bouncer::start(folder, &direct)?) } else { None };
    let pooled = bouncer.as_ref().map(|bouncer| through(bouncer.address));
    let launches = launches(settings, &books, &urls, pooled.as_deref(), partition.as_ref())?;
    let fleet = Fleet::start(launches, folder, ledger.clone()).await?;
    let prometheus = Prometheus::start(folder)?;
    if prometheus.is_none() {
        eprintln!("skipped: the sum of the metrics: needs prometheus");
    }
    let world = Arc::new(World {
        cluster,
        direct: direct.clone(),
        ways,
        fleet: fleet.clone(),
        ledger: ledger.clone(),
        lease: settings.lease,
        disk,
        partition,
        over: AtomicBool::new(false),
        postgres: Mutex::new(()),
    });
    let (asking, asked) = tokio::sync::mpsc::unbounded_channel();
    let load = Arc::new(Load {
        pool: database::pool(own, 8).await?,
        kinds: settings.kinds.clone(),
        ledger,
        runs: settings.load,
        over: AtomicBool::new(false),
        live: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        pauses: AtomicU64::new(0),
        asking,
    });
    let mut side = JoinSet::new();
    side.spawn(fleet.clone().supervise());
    side.spawn(load::enqueue(load.clone(), settings.seed, Mutex::new(asked)));
    load::fill(&load, settings.backlog).await?;
    let began = chrono::Utc::now();
    let (mut hits, lanes, settled_after, mut violations) =
        trouble_and_settle(settings, &world, &load, prometheus.as_ref()).await?;
    if settled_after.is_none() {
        violations.push("the fleet did not settle".to_owned());
    }
    let scraped = match &prometheus {
        Some(prometheus) => Some(prometheus.attempts().await?),
        None => None,
    };
    load.pool.close().await;
    let bad = fleet.stop(Duration::from_secs(60)).await?;
    while let Some(ended) = side.join_next().await {
        ended.context("a part of the harness panicked")??;
    }
    if bad > 0 {
        violations.push(format!("{bad} workers did not drain well"));
    }
    if let Some(prometheus) = prometheus {
        prometheus.stop().await?;
    }
    if let Some(bouncer) = bouncer {
        bouncer.stop().await?;
    }
    let session = &mut world.session().await?;
    if let Some(scraped) = scraped {
        let killed = fleet.crashes.load(Ordering::Relaxed) > 0 || hits.keys().any(|fault| disturbs(fault));
        violations.extend(check::metrics(session, &scraped, !killed).await?);
    }
    if settled_after.is_some() {
        violations.extend(priorities(settings, folder, &books, own, session).await?);
    }
    let entries = ledger::read(&books)?;
    check::load(session, &entries).await?;
    violations.extend(check::violations(session).await?);
    rules::load(session).await?;
    let (broken, damages) = rules::violations(session).await?;
    violations.extend(broken);
    borne(settings, &fleet, &lanes, &entries, session, &mut hits).await?;
    violations.extend(nothing_hit(settings, &hits));
    let report = longshore_core::doctor::examine(session).await?;
    if !report.is_clean() {
        violations.push(format!("the doctor: {report}"));
    }
    let figures = check::figures(session).await?;
    let bad = fleet.bad_leaves.load(Ordering::Relaxed);
    if settings.faults == [Fault::Restart] && (bad > 0 || figures.lost > 0) {
        violations.push(format!(
            "of workers that were told to leave {bad} did not end well, {} attempts were lost",
            figures.lost
        ));
    }
    let steps_per_s = check::rate(session, began, settings.seconds).await?;
    Ok(Outcome {
        faults: settings.faults.iter().map(|fault| fault.name()).collect(),
        seed: settings.seed,
        seconds: settings.seconds,
        workers: settings.workers,
        hits,
        steps_per_s,
        restarts: check::restarts(session, &entries).await?,
        figures,
        settled_after: settled_after.unwrap_or(f64::INFINITY),
        refused: load.refused.load(Ordering::Relaxed),
        pauses: load.pauses.load(Ordering::Relaxed),
        damages,
        violations,
    })
}

/// The schema, and every workflow of the load.
async fn prepare(direct: &sqlx::postgres::PgConnectOptions) -> Result<()> {
    let mut session = direct.connect().await?;
    migrate::up(&mut session).await?;
    let definitions = workload::kinds().into_iter().map(|kind| kind.definition);
    let definitions = workload::children()
        .into_iter()
        .chain(definitions)
        .chain(POISON.map(workload::poison))
        .chain([workload::probe()]);
    for definition in definitions {
        let definition = Definition::from_json(&definition).map_err(|problems| anyhow::anyhow!("{problems}"))?;
        workflow::publish(&mut session, &definition).await?;
    }
    Ok(())
}

/// Runs of every priority on a queue of their own, then one worker with one slot: it must take them in their order.
async fn priorities(
    settings: &Settings,
    folder: &Path,
    books: &Path,
    url: &str,
    session: &mut sqlx::PgConnection,
) -> Result<Vec<String>> {
    for number in 0..40_u64 {
        let priority = settings.seed.wrapping_mul(0x9e37_79b9).wrapping_add(number.wrapping_mul(7)) % 4;
        let start = "select longshore.start_run('probe', priority => $1)";
        sqlx::query(start).bind(i16::try_from(priority)?).execute(&mut *session).await?;
    }
    let words = ["member", "--ledger", &books.to_string_lossy(), "--queue", "probe=1", "--no-system-lane"];
    let launch = Launch {
        prefix: Vec::new(),
        program: std::env::current_exe()?,
        arguments: words.map(str::to_owned).to_vec(),
        environment: vec![("LONGSHORE_DATABASE_URL".to_owned(), url.to_owned())],
        bears: Vec::new(),
    };
    // a fleet numbers its workers: the logs of the other stay
    let own = folder.join("priorities");
    std::fs::create_dir(&own)?;
    let one = Fleet::start(vec![launch], &own, Arc::new(Ledger::open(books)?)).await?;
    let until = Instant::now() + Duration::from_secs(60);
    while check::left(session).await?.0 > 0 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    one.stop(Duration::from_secs(30)).await?;
    check::priorities(session).await
}

/// How each worker is started; some faults are how one of them is.
fn launches(
    settings: &Settings,
    books: &Path,
    urls: &[String],
    pooled: Option<&str>,
    partition: Option<&Partition>,
) -> Result<Vec<Launch>> {
    let me = std::env::current_exe()?;
    let lease = format!("{}ms", settings.lease.as_millis());
    let mut launches = Vec::new();
    for (number, url) in (0..settings.workers).zip(urls) {
        let mut environment = vec![
            ("LONGSHORE_DATABASE_URL".to_owned(), url.clone()),
            ("LONGSHORE_LOG".to_owned(), "info,sqlx=error".to_owned()),
        ];
        #[cfg(feature = "broken")]
        environment.extend(settings.broken.map(|broken| (longshore_core::broken::VARIABLE.to_owned(), broken.name())));
        let plain = format!("{PLAIN}={SLOTS}");
        let mut arguments: Vec<String> =
            ["--queue", &plain, "--lease", &lease, "--grace", "5s"].map(str::to_owned).to_vec();
        if number > 0 {
            arguments.push("--no-system-lane".to_owned());
        }
        let mut prefix = Vec::new();
        let (mut program, mut bears) = (me.clone(), Vec::new());
        match number {
            0 if settings.has(Fault::Clock) => environment.extend([
                ("LD_PRELOAD".to_owned(), FAKETIME.to_owned()),
                ("FAKETIME".to_owned(), "+1h".to_owned()),
                ("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()),
            ]),
            APART if partition.is_some() => {
                prefix = partition.map(Partition::prefix).unwrap_or_default();
                let there = partition.map(|partition| format!("{}:0", partition.there));
                arguments.extend(there.into_iter().flat_map(|there| ["--listen".to_owned(), there]));
            }
            // alone, the fault is everybody's
            _ if settings.faults == [Fault::Pgbouncer] || number == 3 % settings.workers && pooled.is_some() => {
                pooled.unwrap_or_default().clone_into(&mut environment[0].1);
                arguments.push("--pooled".to_owned());
                bears.push(Fault::Pgbouncer);
            }
            2 | 3 if settings.has(Fault::Pool) => {
                arguments.extend(["--connections".to_owned(), (number - 1).to_string()]);
                bears.push(Fault::Pool);
            }
            _ => {}
        }
        let old = settings.old_worker.as_ref().filter(|_| settings.has(Fault::Old) && number == 4 % settings.workers);
        if let Some(old) = old {
            program.clone_from(old);
            bears.push(Fault::Old);
        } else {
            let (books, queue) = (books.to_string_lossy().into_owned(), format!("{QUEUE}={SLOTS}"));
            let words = ["member".to_owned(), "--ledger".to_owned(), books, "--queue".to_owned(), queue];
            arguments.splice(0..0, words);
        }
        if settings.has(Fault::Poison) {
            let words = ["prlimit".to_owned(), format!("--as={}", 3_u64 << 30)];
            prefix.extend(words);
        }
        launches.push(Launch { prefix, program, arguments, environment, bears });
    }
    Ok(launches)
}

/// The faults, and then the quiet after them. Returns what each hit, the lanes that were seen with their processes, how long the fleet took to settle (none when
/// it did not), and what a look meanwhile found that no moment may show.
async fn trouble_and_settle(
    settings: &Settings,
    world: &Arc<World>,
    load: &Arc<Load>,
    prometheus: Option<&Prometheus>,
) -> Result<(BTreeMap<String, u32>, BTreeSet<(i64, i64)>, Option<f64>, Violations)> {
    let faults = futures::future::try_join_all(settings.faults.iter().map(|fault| async move {
        Ok::<_, anyhow::Error>((fault.name(), faults::run(*fault, world, settings.seed).await?))
    }));
    let watch = async || match prometheus {
        Some(prometheus) => prometheus.watch(&world.fleet.addresses().await),
        None => Ok(()),
    };
    let window = async {
        let until = Instant::now() + Duration::from_secs(settings.seconds);
        let (mut missed, mut lanes) = (Violations::new(), BTreeSet::new());
        while Instant::now() < until {
            watch().await?;
            // whatever Postgres says in time; it may be stopped
            let look = async {
                let session = &mut world.session().await?;
                let unheard = check::unheard(session).await?;
                let found = [unheard, rules::parked(session).await?].concat();
                Ok::<_, sqlx::Error>((found, check::lanes(session).await?))
            };
            if let Ok(Ok((found, seen))) = tokio::time::timeout(LOOK, look).await {
                missed.extend(found);
                lanes.extend(seen);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        load.over.store(true, Ordering::SeqCst);
        world.over.store(true, Ordering::SeqCst);
        Ok((missed, lanes))
    };
    let (hits, (mut missed, lanes)) = tokio::try_join!(faults, window)?;
    let mut hits: BTreeMap<String, u32> = hits.into_iter().collect();
    world.start_postgres().await?;
    let quiet = Instant::now();
    // what a partition kept from arriving is sent again after as long as that lasted, with the locks of its statement held meanwhile
    let parted = if settings.has(Fault::Partition) { faults::LONGEST_PARTITION } else { Duration::ZERO };
    let patience = NO_PROGRESS + settings.lease * 4 + parted;
    let (mut settled, mut recorded, mut progress) = (None, 0, Instant::now());
    while settled.is_none() && progress.elapsed() < patience {
        watch().await?;
        if settings.has(Fault::Poison) {
            world.fleet.kill_the_dead().await?;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        let Ok(mut session) = world.session().await else { continue };
        let (left, now_recorded) = check::left(&mut session).await?;
        settled = (left == 0).then(|| quiet.elapsed().as_secs_f64());
        if now_recorded > recorded {
            (recorded, progress) = (now_recorded, Instant::now());
        }
    }
    if settled.is_none() {
        let found = check::unsettled(&mut world.session().await?).await?;
        missed.extend(found.into_iter().map(|found| format!("the fleet did not settle: {found}")));
    }
    // two scrapes more, so that the last figures are told
    tokio::time::sleep(Duration::from_millis(2500)).await;
    if settings.has(Fault::Restart) {
        hits.insert(Fault::Restart.name(), world.fleet.leaves.load(Ordering::Relaxed));
    }
    Ok((hits, lanes, settled, missed))
}

/// What the faults hit that are how workers are started: the attempts of these; of a clock that is off, those whose handlers began by it.
async fn borne(
    settings: &Settings,
    fleet: &Fleet,
    lanes: &BTreeSet<(i64, i64)>,
    entries: &[Entry],
    session: &mut sqlx::PgConnection,
    hits: &mut BTreeMap<String, u32>,
) -> Result<()> {
    for fault in [Fault::Pool, Fault::Pgbouncer, Fault::Old].into_iter().filter(|fault| settings.has(*fault)) {
        let bearers = fleet.bearers(fault)?;
        let theirs: Vec<i64> = lanes.iter().filter(|(pid, _)| bearers.contains(pid)).map(|(_, lane)| *lane).collect();
        let attempts = check::attempts_in(session, &theirs).await?;
        hits.insert(fault.name(), u32::try_from(attempts).unwrap_or(u32::MAX));
    }
    if settings.has(Fault::Clock) {
        hits.insert(Fault::Clock.name(), u32::try_from(check::began_ahead(entries)).unwrap_or(u32::MAX));
    }
    Ok(())
}

/// Whether figures of a process may be missing from what Prometheus last saw.
fn disturbs(fault: &str) -> bool {
    !["clock", "pool", "snapshot", "listen", "errors", "pgbouncer"].contains(&fault)
}

/// Faults that hit nothing: they prove nothing.
fn nothing_hit(settings: &Settings, hits: &BTreeMap<String, u32>) -> Vec<String> {
    let hit = |fault: &&Fault| hits.get(&fault.name()).is_none_or(|hits| *hits == 0);
    settings.faults.iter().filter(hit).map(|fault| format!("the fault {} hit nothing", fault.name())).collect()
}
