//! The worker processes under test: started, signalled and started again as a supervisor of services would, with their logs kept.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use chrono::Utc;
use longshore_tests::http;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use crate::faults::Fault;
use crate::ledger::{Entry, Ledger};

/// How the process of one place is started.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// Words before the program, such as those that enter a network namespace.
    pub(crate) prefix: Vec<String>,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    /// The faults that are how it is started.
    pub(crate) bears: Vec<Fault>,
}

/// One place of the fleet; always filled again.
#[derive(Debug)]
struct Place {
    launch: Launch,
    child: Option<Child>,
    /// Told to leave: its end is no surprise.
    leaving: bool,
    frozen: bool,
    addresses: Vec<PathBuf>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Fleet {
    places: Mutex<Vec<Place>>,
    folder: PathBuf,
    ledger: Arc<Ledger>,
    spawned: AtomicU32,
    closed: AtomicBool,
    /// The processes that ever ran, and the faults that each bore.
    bearers: std::sync::Mutex<Vec<(u32, Vec<Fault>)>>,
    /// Processes that ended by themselves.
    pub(crate) crashes: AtomicU32,
    /// Graceful leaves, and those of them that did not end well.
    pub(crate) leaves: AtomicU32,
    pub(crate) bad_leaves: AtomicU32,
}

impl Fleet {
    /// A fleet with these places, all filled.
    pub(crate) async fn start(launches: Vec<Launch>, folder: &Path, ledger: Arc<Ledger>) -> Result<Arc<Self>> {
        let places = launches
            .into_iter()
            .map(|launch| Place { launch, child: None, leaving: false, frozen: false, addresses: Vec::new() })
            .collect();
        let fleet = Arc::new(Self {
            places: Mutex::new(places),
            folder: folder.to_owned(),
            ledger,
            spawned: AtomicU32::new(0),
            closed: AtomicBool::new(false),
            bearers: std::sync::Mutex::default(),
            crashes: AtomicU32::new(0),
            leaves: AtomicU32::new(0),
            bad_leaves: AtomicU32::new(0),
        });
        fleet.fill().await?;
        Ok(fleet)
    }

    /// Keep every place filled until the fleet is closed.
    pub(crate) async fn supervise(self: Arc<Self>) -> Result<()> {
        while !self.closed.load(Ordering::SeqCst) {
            self.fill().await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn fill(&self) -> Result<()> {
        let mut places = self.places.lock().await;
        if self.closed.load(Ordering::SeqCst) {
            return Ok(());
        }
        for place in places.iter_mut() {
            if let Some(child) = &mut place.child {
                let Some(status) = child.try_wait()? else { continue };
                match (place.leaving, status.success()) {
                    (true, true) => {}
                    (true, false) => _ = self.bad_leaves.fetch_add(1, Ordering::Relaxed),
                    (false, _) => _ = self.crashes.fetch_add(1, Ordering::Relaxed),
                }
            }
            self.spawn(place)?;
        }
        Ok(())
    }

    fn spawn(&self, place: &mut Place) -> Result<()> {
        let number = self.spawned.fetch_add(1, Ordering::Relaxed) + 1;
        let address = self.folder.join(format!("worker-{number}.address"));
        let log =
            File::create(self.folder.join(format!("worker-{number}.log"))).context("cannot write a worker's log")?;
        let launch = &place.launch;
        let program = launch.program.to_string_lossy().into_owned();
        let mut words = launch.prefix.iter().chain([&program]).chain(&launch.arguments);
        let mut command = Command::new(words.next().context("no program")?);
        command
            .args(words)
            .arg("--address-file")
            .arg(&address)
            .envs(launch.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        let mut bearers = self.bearers.lock().map_err(|_| anyhow::anyhow!("a part of the harness panicked"))?;
        bearers.extend(child.id().map(|pid| (pid, place.launch.bears.clone())));
        place.addresses.push(address);
        (place.child, place.leaving, place.frozen) = (Some(child), false, false);
        Ok(())
    }

    /// The processes that ever bore this fault.
    pub(crate) fn bearers(&self, fault: Fault) -> Result<BTreeSet<i64>> {
        let bearers = self.bearers.lock().map_err(|_| anyhow::anyhow!("a part of the harness panicked"))?;
        Ok(bearers.iter().filter(|(_, bears)| bears.contains(&fault)).map(|(pid, _)| i64::from(*pid)).collect())
    }

    /// Kill a random worker without a word.
    pub(crate) async fn kill_one(&self, random: &mut StdRng) -> Result<bool> {
        let mut places = self.places.lock().await;
        // a frozen one is to wake again: that is another fault
        let living = places.iter_mut().filter(|place| !place.leaving && !place.frozen && pid(place).is_some());
        let Some(place) = living.choose(random) else { return Ok(false) };
        self.kill(place).await?;
        Ok(true)
    }

    async fn kill(&self, place: &mut Place) -> Result<()> {
        let (Some(id), Some(child)) = (pid(place), &mut place.child) else { return Ok(()) };
        kill(id, Signal::SIGKILL)?;
        child.wait().await?;
        self.ledger.append(&Entry::Killed { pid: id.as_raw().unsigned_abs(), at: Utc::now() })?;
        place.child = None;
        Ok(())
    }

    /// Freeze a random worker for this long, then let it wake.
    pub(crate) async fn freeze_one(&self, random: &mut StdRng, time: Duration) -> Result<bool> {
        let chosen = {
            let mut places = self.places.lock().await;
            // one place at least goes on
            if places.iter().filter(|place| place.frozen).count() + 1 >= places.len() {
                return Ok(false);
            }
            let living = places.iter_mut().filter(|place| !place.leaving && !place.frozen && pid(place).is_some());
            let Some(place) = living.choose(random) else { return Ok(false) };
            place.frozen = true;
            pid(place)
        };
        let Some(chosen) = chosen else { return Ok(false) };
        kill(chosen, Signal::SIGSTOP)?;
        tokio::time::sleep(time).await;
        let mut places = self.places.lock().await;
        // killed meanwhile, it is another process's place
        let Some(place) = places.iter_mut().find(|place| pid(place) == Some(chosen)) else { return Ok(false) };
        place.frozen = false;
        kill(chosen, Signal::SIGCONT)?;
        Ok(true)
    }

    /// Ask a random worker to leave; its place is filled again when it has.
    pub(crate) async fn restart_one(&self, random: &mut StdRng) -> Result<bool> {
        let mut places = self.places.lock().await;
        let living = places.iter_mut().filter(|place| !place.leaving && !place.frozen && pid(place).is_some());
        let Some(place) = living.choose(random) else { return Ok(false) };
        let Some(id) = pid(place) else { return Ok(false) };
        kill(id, Signal::SIGTERM)?;
        place.leaving = true;
        self.leaves.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// Kill those whose probe of liveness says that they no longer work, as whoever runs them would. Returns how many.
    pub(crate) async fn kill_the_dead(&self) -> Result<u32> {
        let mut killed = 0;
        let mut places = self.places.lock().await;
        for place in places.iter_mut().filter(|place| !place.frozen && !place.leaving) {
            let Some(address) = place.addresses.last().and_then(|file| fs::read_to_string(file).ok()) else { continue };
            let Ok(address) = address.parse() else { continue };
            let probe = tokio::time::timeout(Duration::from_secs(1), http::get(address, "/health/live"));
            if matches!(probe.await, Ok(Ok((status, _))) if status != 200) {
                self.kill(place).await?;
                killed += 1;
            }
        }
        Ok(killed)
    }

    /// Let all leave and wait until they have. Returns how many did not end well.
    pub(crate) async fn stop(&self, within: Duration) -> Result<u32> {
        self.closed.store(true, Ordering::SeqCst);
        let mut places = self.places.lock().await;
        for place in places.iter_mut() {
            if let Some(id) = pid(place) {
                kill(id, Signal::SIGCONT)?;
                kill(id, Signal::SIGTERM)?;
            }
        }
        let until = tokio::time::Instant::now() + within;
        let mut bad = 0;
        for place in places.iter_mut() {
            let Some(mut child) = place.child.take() else { continue };
            match tokio::time::timeout_at(until, child.wait()).await {
                Ok(status) => bad += u32::from(!status?.success()),
                Err(_) => {
                    child.kill().await?;
                    bad += 1;
                }
            }
        }
        Ok(bad)
    }

    /// Where each process that ever ran serves its metrics; empty for one that has not said so yet.
    pub(crate) async fn addresses(&self) -> Vec<String> {
        let places = self.places.lock().await;
        let files = places.iter().flat_map(|place| &place.addresses);
        files.filter_map(|file| fs::read_to_string(file).ok()).collect()
    }
}

/// The process of a place that has not ended.
fn pid(place: &Place) -> Option<Pid> {
    let id = place.child.as_ref()?.id()?;
    i32::try_from(id).ok().map(Pid::from_raw)
}

/// A random duration between two.
pub(crate) fn between(random: &mut StdRng, from: Duration, to: Duration) -> Duration {
    random.random_range(from..=to)
}
