//! Many programs at once on a fleet of worker processes: starts, signals and cancels at random moments, workers killed, each run compared with the
//! interpreter when it has ended.

mod figures;
mod fleet;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use longshore_core::definition::Definition;
use longshore_core::{doctor, workflow};
use longshore_enqueuer::Enqueuer;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::process::Child;
use tokio::sync::{Mutex, Semaphore, oneshot};
use tokio::task::JoinSet;
use uuid::Uuid;

pub use self::figures::Figures;
use super::program::{Body, Kind};
use super::record::{self, Record};
use super::shrink::smaller;
use super::{interpreter, random};
use crate::fleet::PATIENCE;
use crate::{TestDatabase, checks};

/// A program is run so often, each time with another input.
const RUNS: u64 = 2;

/// Shrinking ends then, however small the program is.
const SHRINKING: Duration = Duration::from_secs(90);

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Settings {
    /// So many runs.
    pub cases: u64,
    /// What they follow from.
    pub seed: u64,
    /// Begin with this one.
    pub first: u64,
    /// A worker is killed under this share of them.
    pub kill_share: f64,
    /// So many at a time.
    pub in_flight: usize,
    /// Worker processes.
    pub workers: usize,
    /// `longshore-model`, which is a worker when told to be a `member`.
    pub program: PathBuf,
}

/// A run to be made.
#[derive(Clone, Debug)]
struct Case {
    number: u64,
    seed: u64,
    body: Arc<Body>,
    workflow: String,
    input: Value,
}

struct Bench {
    settings: Settings,
    database: TestDatabase,
    enqueuer: Enqueuer,
    /// Who awaits the end of which run.
    waiting: Mutex<HashMap<Uuid, oneshot::Sender<Record>>>,
    fleet: Mutex<Vec<Child>>,
    over: AtomicBool,
    calm: AtomicBool,
    done: AtomicU64,
    refused: AtomicU64,
    kills: AtomicU64,
    hit: Mutex<HashSet<Uuid>>,
    ended: [AtomicU64; 3],
}

/// Run them all. The error is the first disagreement.
pub async fn run(settings: Settings) -> Result<Figures> {
    let began = Instant::now();
    let database = TestDatabase::new().await;
    let bench = Arc::new(Bench {
        enqueuer: Enqueuer::connect(&database.url).await?,
        settings,
        database,
        waiting: Mutex::default(),
        fleet: Mutex::default(),
        over: AtomicBool::new(false),
        calm: AtomicBool::new(false),
        done: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        kills: AtomicU64::new(0),
        hit: Mutex::default(),
        ended: Default::default(),
    });
    for _ in 0..bench.settings.workers {
        let worker = bench.spawn()?;
        bench.fleet.lock().await.push(worker);
    }
    let mut side = JoinSet::new();
    side.spawn(watch(bench.clone()));
    side.spawn(fleet::murder(bench.clone()));
    let agreed = cases(&bench).await;
    bench.over.store(true, Ordering::SeqCst);
    while let Some(ended) = side.join_next().await {
        ended??;
    }
    let figures = match agreed {
        Ok(()) => bench.figures(began).await,
        Err(error) => Err(error),
    };
    bench.stop().await;
    let figures = figures?;
    bench.examine().await?;
    if let Some(bench) = Arc::into_inner(bench) {
        drop(bench.enqueuer);
        bench.database.drop().await;
    }
    Ok(figures)
}

async fn cases(bench: &Arc<Bench>) -> Result<()> {
    let slots = Arc::new(Semaphore::new(bench.settings.in_flight));
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    let Settings { cases, seed, first, .. } = bench.settings;
    let mut shown = Instant::now();
    for program in first / RUNS..(first + cases).div_ceil(RUNS) {
        let runs: Vec<u64> =
            (program * RUNS..(program + 1) * RUNS).filter(|case| (first..first + cases).contains(case)).collect();
        let permits = slots.clone().acquire_many_owned(u32::try_from(runs.len())?).await?;
        while let Some(ended) = tasks.try_join_next() {
            ended??;
        }
        if bench.calm.load(Ordering::SeqCst) {
            break; // a disagreement was found
        }
        if shown.elapsed() > Duration::from_secs(10) {
            shown = Instant::now();
            let done = bench.done.load(Ordering::Relaxed);
            eprintln!(
                "{done} of {cases} cases, {} kills hit {}",
                bench.kills.load(Ordering::Relaxed),
                bench.hit.lock().await.len()
            );
        }
        let bench = bench.clone();
        tasks.spawn(async move {
            let (body, workflow) = bench.draw(seed, program).await?;
            let mut both = JoinSet::new();
            for number in runs {
                let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number.wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let input = random::input(&mut StdRng::seed_from_u64(seed));
                let case = Case { number, seed, body: body.clone(), workflow: workflow.clone(), input };
                let bench = bench.clone();
                both.spawn(async move { bench.agrees(&case).await });
            }
            while let Some(ended) = both.join_next().await {
                ended??;
            }
            drop(permits);
            Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

impl Bench {
    fn pool(&self) -> &PgPool {
        &self.database.pool
    }

    /// The program of this number, published.
    async fn draw(&self, seed: u64, number: u64) -> Result<(Arc<Body>, String)> {
        let mut random = StdRng::seed_from_u64(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ number);
        let name = format!("w{number}");
        loop {
            let body = random::program(&mut random);
            match self.publish(&body, &name).await? {
                None => return Ok((Arc::new(body), name)),
                Some(problems) => {
                    if self.refused.fetch_add(1, Ordering::Relaxed) < 3 {
                        eprintln!("refused: {problems}");
                    }
                }
            }
        }
    }

    /// Publish a program; why it is refused, if it is.
    async fn publish(&self, body: &Body, name: &str) -> Result<Option<String>> {
        let definition = match Definition::from_json(&body.definition(name)) {
            Ok(definition) => definition,
            Err(problems) => return Ok(Some(problems.to_string())),
        };
        let mut connection = self.pool().acquire().await?;
        workflow::publish(&mut connection, &definition).await?;
        Ok(None)
    }

    /// Run a case and compare it; with a disagreement, look for a smaller program that shows it.
    async fn agrees(&self, case: &Case) -> Result<()> {
        let (record, canceled) = self.play(case).await?;
        let Err(wrong) = interpreter::check(&case.body, &case.input, canceled, &record) else {
            self.done.fetch_add(1, Ordering::Relaxed);
            if let Some(count) = usize::try_from(record.state - 3).ok().and_then(|at| self.ended.get(at)) {
                count.fetch_add(1, Ordering::Relaxed);
            }
            return Ok(());
        };
        if self.calm.swap(true, Ordering::SeqCst) {
            // one is enough, and all else ends with it
            std::future::pending::<()>().await;
        }
        let shown = |body: &Body, input: &Value, wrong: &str, record: &Record| {
            let definition = serde_json::to_string(&body.definition("w")).unwrap_or_default();
            format!("{wrong}\ndefinition: {definition}\ninput: {input}\nrecord:\n{}", record.lines())
        };
        let mut said = format!(
            "case {} of seed {} (--first {} --cases 1 --seed {}): {}",
            case.number,
            self.settings.seed,
            case.number,
            self.settings.seed,
            shown(&case.body, &case.input, &wrong, &record)
        );
        eprintln!("{said}\nlooking for a smaller program");
        if let Some((body, wrong, record)) = self.shrink(case).await? {
            said += &format!("\nsmaller: {}", shown(&body, &case.input, &wrong, &record));
        }
        bail!("{said}")
    }

    /// Start it, disturb it, await its end. Says whether its cancellation was asked for.
    async fn play(&self, case: &Case) -> Result<(Record, bool)> {
        let mut random = StdRng::seed_from_u64(case.seed ^ 1);
        let run = self.enqueuer.start(&case.workflow, &case.input).await?.id;
        let (tell, mut told) = oneshot::channel();
        self.waiting.lock().await.insert(run, tell);
        let began = Instant::now();
        let cancel_at = random.random_bool(0.08).then(|| Duration::from_millis(random.random_range(0..600)));
        let mut sends: Vec<(Duration, String)> = Vec::new();
        let (timed, untimed) = signals(&case.body);
        for name in timed.iter().chain(&untimed) {
            for _ in 0..random.random_range(0..3) {
                let at = if random.random_bool(0.3) { 0 } else { random.random_range(0..900) };
                sends.push((Duration::from_millis(at), name.clone()));
            }
        }
        sends.sort();
        let mut sends = sends.into_iter().peekable();
        let (mut canceled, mut sent, mut again) = (false, 0, Duration::from_millis(1200));
        let record = loop {
            if let Ok(Ok(record)) = tokio::time::timeout(Duration::from_millis(10), &mut told).await {
                break record;
            }
            let now = began.elapsed();
            if now > PATIENCE {
                let record = record::read(self.pool(), &[run]).await?.remove(&run).unwrap_or_default();
                bail!(
                    "case {} of seed {}: run {run} does not end: {}\n{}",
                    case.number,
                    self.settings.seed,
                    case.body.definition("w"),
                    record.lines()
                );
            }
            if cancel_at.is_some_and(|at| at <= now) && !canceled {
                canceled = true;
                longshore_core::run::cancel(self.pool(), run, "no longer wanted").await?;
            }
            let mut names: Vec<String> = Vec::new();
            while let Some((_, name)) = sends.next_if(|(at, _)| *at <= now) {
                names.push(name);
            }
            // what waits without a bound gets what it waits for in the end
            if now > again && !untimed.is_empty() {
                again = now + Duration::from_millis(300);
                names.extend(untimed.iter().cloned());
            }
            for name in names {
                // a run that ended meanwhile takes none
                let sending = self.enqueuer.signal(run, &name, &json!({"n": random.random_range(0..5)}));
                sent += u64::from(sending.await.is_ok());
            }
        };
        anyhow::ensure!(
            record.signals.len() as u64 == sent,
            "run {run} has {} signals of {sent} that were sent",
            record.signals.len()
        );
        Ok((record, canceled))
    }

    /// Remove what can be removed while there is still a disagreement.
    async fn shrink(&self, case: &Case) -> Result<Option<(Body, String, Record)>> {
        let until = Instant::now() + SHRINKING;
        let mut smallest: Option<(Body, String, Record)> = None;
        let mut tried = 0;
        loop {
            let body = smallest.as_ref().map_or(&*case.body, |(body, ..)| body).clone();
            let mut found = None;
            'candidates: for body in smaller(&body) {
                if Instant::now() > until {
                    return Ok(smallest);
                }
                tried += 1;
                let workflow = format!("smaller-{}-{tried}", case.number);
                if self.publish(&body, &workflow).await?.is_some() {
                    continue;
                }
                for _ in 0..4 {
                    let case = Case { body: Arc::new(body.clone()), workflow: workflow.clone(), ..case.clone() };
                    let (record, canceled) = self.play(&case).await?;
                    if let Err(wrong) = interpreter::check(&body, &case.input, canceled, &record) {
                        found = Some((body, wrong, record));
                        break 'candidates;
                    }
                }
            }
            if found.is_none() {
                return Ok(smallest);
            }
            smallest = found;
        }
    }

    /// What must be true of any database, and the doctor.
    async fn examine(&self) -> Result<()> {
        let broken = checks::broken(self.pool()).await;
        if !broken.is_empty() {
            bail!("{broken:#?}");
        }
        let report = doctor::examine(&mut *self.pool().acquire().await?).await?;
        if !report.is_clean() {
            bail!("{report}");
        }
        Ok(())
    }
}

/// Tell of the runs that have ended and been settled.
async fn watch(bench: Arc<Bench>) -> Result<()> {
    while !bench.over.load(Ordering::SeqCst) {
        let ids: Vec<Uuid> = bench.waiting.lock().await.keys().copied().collect();
        let sql = "select run_id from longshore.workflow_runs r where shard = 0 and run_id = any ($1) and state > 2
            and not exists (select from longshore.closed c where c.run_id = r.run_id)";
        let ended: Vec<Uuid> = sqlx::query_scalar(sql).bind(&ids).fetch_all(bench.pool()).await?;
        let records = record::read(bench.pool(), &ended).await?;
        let mut waiting = bench.waiting.lock().await;
        for (run, record) in records {
            if let Some(tell) = waiting.remove(&run) {
                tell.send(record).ok();
            }
        }
        drop(waiting);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// The names of the signals that a program may wait for: with a bound of time, and without.
fn signals(body: &Body) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut timed, mut untimed) = (BTreeSet::new(), BTreeSet::new());
    for node in body.all() {
        let Kind::Wait(names, _) = &node.kind else { continue };
        for name in names {
            let each = (0..4).map(|index| format!("{}-{index}", name.text));
            let all: Vec<String> = if name.of.is_some() { each.collect() } else { vec![name.text.clone()] };
            if node.timeout.is_some() { &mut timed } else { &mut untimed }.extend(all);
        }
    }
    (timed, untimed)
}
