//! Every figure a worker exports (DESIGN §10), as handles that are registered once per label set and then only counted.
//! Each `Metrics` has its own registry: two workers in one process, or an application's own recorder, never mix.
//! Labels are bounded: after 200 label sets a new one counts as `other`. A run id is never a label.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use longshore_core::state::{Outcome, RunState};
use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// Most label sets of one metric; later ones are counted together as `other`.
const LABEL_SETS: usize = 200;
/// A sampled figure older than this reads NaN: another worker samples now.
const SAMPLE_LIFETIME: Duration = Duration::from_secs(90);
/// The same for the look for stuck runs, which some worker takes every 10 to 16 minutes.
const STUCK_LIFETIME: Duration = Duration::from_secs(20 * 60);
/// Histogram samples wait at most so long in memory while there are cycles.
const UPKEEP_AT_LATEST: Duration = Duration::from_secs(5);

const STEP_WAIT: &str = "longshore_step_wait_seconds";
const STEP_DURATION: &str = "longshore_step_duration_seconds";
const STEP_ATTEMPTS: &str = "longshore_step_attempts_total";
const RUN_DURATION: &str = "longshore_run_duration_seconds";
const RUNS: &str = "longshore_runs_total";
const CYCLE_DURATION: &str = "longshore_cycle_duration_seconds";
const CYCLE_BATCH: &str = "longshore_cycle_batch_size";
const FENCED: &str = "longshore_fenced_total";
const LEASES_LOST: &str = "longshore_leases_lost_total";
const SLOTS: &str = "longshore_slots";
const POOL_WAIT: &str = "longshore_db_pool_wait_seconds";
const OLDEST_READY: &str = "longshore_queue_oldest_ready_seconds";
const QUEUE_DEPTH: &str = "longshore_queue_depth";
const OLDEST_SNAPSHOT: &str = "longshore_db_oldest_snapshot_age_seconds";
const DEAD_ROWS: &str = "longshore_db_dead_rows";
const STUCK_RUNS: &str = "longshore_stuck_runs";
const BUILD_INFO: &str = "longshore_build_info";

/// From a handler that answers from memory to one that works for an hour.
const STEP_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0];
/// From a run of one step to one that waits for days.
const RUN_BUCKETS: &[f64] =
    &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0, 86400.0, 604800.0];
/// One round trip to Postgres: from a chain hop on a local socket to a stall.
const CYCLE_BUCKETS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0];
/// Rows a cycle ends, claims or enqueues.
const BATCH_BUCKETS: &[f64] = &[0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// A worker's figures. Clones count into the same registry.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Arc<Registry>,
    steps: Mutex<HashMap<[String; 3], Arc<StepMetrics>>>,
    runs: RwLock<HashMap<String, Arc<RunMetrics>>>,
    queues: Mutex<HashMap<String, Arc<QueueMetrics>>>,
    dead_rows: Mutex<HashMap<String, Arc<Sampled>>>,
    oldest_snapshot: Arc<Sampled>,
    stuck_runs: Arc<Sampled>,
    cycle_duration: Histogram,
    cycle_ended: Histogram,
    cycle_claimed: Histogram,
    cycle_enqueued: Histogram,
    fenced: Counter,
    leases_lost: Counter,
    slots_held: Gauge,
    slots_free: Gauge,
    pool_wait: Histogram,
}

/// The figures of one task node's handler on one queue; keep it beside the compiled node and count without a lookup.
pub struct StepMetrics {
    wait: Histogram,
    duration: Histogram,
    attempts: [Counter; OUTCOMES.len()],
}

struct RunMetrics {
    duration: Histogram,
    ended: [Counter; RUN_ENDS.len()],
}

struct QueueMetrics {
    oldest_ready: Arc<Sampled>,
    ready: Arc<Sampled>,
    delayed: Arc<Sampled>,
}

/// A gauge that only the fleet's present sampler may show.
struct Sampled {
    gauge: Gauge,
    lifetime: Duration,
    set_at: Mutex<Instant>,
}

const OUTCOMES: [Outcome; 6] =
    [Outcome::Completed, Outcome::Failed, Outcome::Lost, Outcome::Canceled, Outcome::Skipped, Outcome::Released];
const RUN_ENDS: [RunState; 3] = [RunState::Completed, RunState::Failed, RunState::Canceled];

/// Renders the registry of one [`Metrics`] as Prometheus text. Clones render the same registry.
#[derive(Clone)]
pub struct Scrape(Arc<Registry>);

struct Registry {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    sampled: Mutex<Vec<Arc<Sampled>>>,
    born: Instant,
    /// Milliseconds after `born` at which histogram samples were last counted into buckets.
    upkept_at: AtomicU64,
}

impl Metrics {
    /// A fresh registry and what renders it. Nothing global is touched, so it is safe to call again. Histograms keep their
    /// samples until [`Scrape::upkeep`] or a scrape counts them into buckets; [`crate::http::serve`] sees to that, and where
    /// nothing is served, [`Metrics::cycle`] does so every 5 s.
    pub fn install() -> Result<(Metrics, Scrape), BuildError> {
        let recorder = recorder()?;
        let registry = Arc::new(Registry {
            handle: recorder.handle(),
            recorder,
            sampled: Mutex::default(),
            born: Instant::now(),
            upkept_at: AtomicU64::new(0),
        });
        registry.describe();
        registry.gauge(BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION"))]).set(1.0);
        let metrics = Metrics(Arc::new(Inner {
            steps: Mutex::default(),
            runs: RwLock::default(),
            queues: Mutex::default(),
            dead_rows: Mutex::default(),
            oldest_snapshot: registry.sampled(OLDEST_SNAPSHOT, &[]),
            stuck_runs: registry.sampled_for(STUCK_LIFETIME, STUCK_RUNS, &[]),
            cycle_duration: registry.histogram(CYCLE_DURATION, &[]),
            cycle_ended: registry.histogram(CYCLE_BATCH, &[("kind", "ended")]),
            cycle_claimed: registry.histogram(CYCLE_BATCH, &[("kind", "claimed")]),
            cycle_enqueued: registry.histogram(CYCLE_BATCH, &[("kind", "enqueued")]),
            fenced: registry.counter(FENCED, &[]),
            leases_lost: registry.counter(LEASES_LOST, &[]),
            slots_held: registry.gauge(SLOTS, &[("state", "held")]),
            slots_free: registry.gauge(SLOTS, &[("state", "free")]),
            pool_wait: registry.histogram(POOL_WAIT, &[]),
            registry: Arc::clone(&registry),
        }));
        Ok((metrics, Scrape(registry)))
    }

    /// The figures of one handler on one queue, made on first use. Beyond 200 different ones, all new ones share `other`.
    pub fn step(&self, queue: &str, workflow: &str, handler: &str) -> Arc<StepMetrics> {
        let labels = [queue, workflow, handler].map(str::to_owned);
        let mut steps = locked(&self.0.steps);
        let labels = within_limit(&steps, labels, || ["other"; 3].map(str::to_owned));
        let registry = &self.0.registry;
        let made = steps.entry(labels).or_insert_with_key(|[queue, workflow, handler]| {
            let labels = [("queue", queue.as_str()), ("workflow", workflow.as_str()), ("handler", handler.as_str())];
            Arc::new(StepMetrics::new(registry, labels))
        });
        Arc::clone(made)
    }

    /// A run ended in `state`; `duration` runs from its start, where the worker knows it. States that are no end are ignored.
    pub fn run_ended(&self, workflow: &str, state: RunState, duration: Option<Duration>) {
        let runs = self.run(workflow);
        if let Some(at) = RUN_ENDS.iter().position(|end| *end == state) {
            runs.ended[at].increment(1);
            if let Some(duration) = duration {
                runs.duration.record(duration.as_secs_f64());
            }
        }
    }

    /// A cycle was committed: how long the call took, and how many attempts it ended, step jobs it claimed and enqueued.
    pub fn cycle(&self, duration: Duration, ended: usize, claimed: usize, enqueued: usize) {
        self.0.cycle_duration.record(duration.as_secs_f64());
        self.0.cycle_ended.record(ended as f64);
        self.0.cycle_claimed.record(claimed as f64);
        self.0.cycle_enqueued.record(enqueued as f64);
        self.0.registry.upkeep_if_older(UPKEEP_AT_LATEST);
    }

    /// A lane of this worker found its baton gone and dropped what it held.
    pub fn fenced(&self) {
        self.0.fenced.increment(1);
    }

    /// This worker's reaper took `steps` step jobs back from lanes whose lease ran out.
    pub fn leases_lost(&self, steps: u64) {
        self.0.leases_lost.increment(steps);
    }

    /// Slots of this whole process, over all lanes: busy with held step jobs, and free.
    pub fn slots(&self, held: usize, free: usize) {
        self.0.slots_held.set(held as f64);
        self.0.slots_free.set(free as f64);
    }

    /// How long a task waited for a database connection.
    pub fn pool_wait(&self, wait: Duration) {
        self.0.pool_wait.record(wait.as_secs_f64());
    }

    /// What the fleet's sampler saw of a queue. A worker that stops sampling shows NaN after 90 s.
    pub fn queue_sample(&self, queue: &str, oldest_ready: Duration, ready: u64, delayed: u64) {
        let mut queues = locked(&self.0.queues);
        let queue = within_limit(&queues, queue.to_owned(), || "other".to_owned());
        let registry = &self.0.registry;
        let gauges = queues.entry(queue).or_insert_with_key(|queue| {
            Arc::new(QueueMetrics {
                oldest_ready: registry.sampled(OLDEST_READY, &[("queue", queue)]),
                ready: registry.sampled(QUEUE_DEPTH, &[("queue", queue), ("state", "ready")]),
                delayed: registry.sampled(QUEUE_DEPTH, &[("queue", queue), ("state", "delayed")]),
            })
        });
        gauges.oldest_ready.set(oldest_ready.as_secs_f64());
        gauges.ready.set(ready as f64);
        gauges.delayed.set(delayed as f64);
    }

    /// What the fleet's sampler saw of the whole database: the age of the oldest snapshot that keeps dead rows alive, and dead
    /// rows per table. NaN after 90 s, as above.
    pub fn database_sample(&self, oldest_snapshot_age: Duration, dead_rows: &[(&str, u64)]) {
        self.0.oldest_snapshot.set(oldest_snapshot_age.as_secs_f64());
        let mut tables = locked(&self.0.dead_rows);
        let registry = &self.0.registry;
        for (table, rows) in dead_rows {
            let table = within_limit(&tables, (*table).to_owned(), || "other".to_owned());
            tables
                .entry(table)
                .or_insert_with_key(|table| registry.sampled(DEAD_ROWS, &[("table", table)]))
                .set(*rows as f64);
        }
    }

    /// How many live runs nothing will ever move again, as the system lane found; more than 0 is a broken promise. NaN after
    /// 20 minutes, as above.
    pub fn stuck_runs(&self, runs: u64) {
        self.0.stuck_runs.set(runs as f64);
    }

    fn run(&self, workflow: &str) -> Arc<RunMetrics> {
        let known = self.0.runs.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(run) = known.get(workflow) {
            return Arc::clone(run);
        }
        drop(known);
        let mut runs = self.0.runs.write().unwrap_or_else(PoisonError::into_inner);
        let workflow = within_limit(&runs, workflow.to_owned(), || "other".to_owned());
        let registry = &self.0.registry;
        let made = runs.entry(workflow).or_insert_with_key(|workflow| Arc::new(RunMetrics::new(registry, workflow)));
        Arc::clone(made)
    }
}

impl StepMetrics {
    /// An attempt ended: how long its step job waited (enqueued to claimed, by the database's clock) and how long the
    /// handler ran, if it did (by this worker's monotonic clock).
    pub fn attempt(&self, outcome: Outcome, wait: Duration, duration: Option<Duration>) {
        if let Some(at) = OUTCOMES.iter().position(|known| *known == outcome) {
            self.attempts[at].increment(1);
        }
        self.wait.record(wait.as_secs_f64());
        if let Some(duration) = duration {
            self.duration.record(duration.as_secs_f64());
        }
    }

    fn new(registry: &Registry, labels: [(&str, &str); 3]) -> Self {
        let [queue, workflow, handler] = labels;
        Self {
            wait: registry.histogram(STEP_WAIT, &labels),
            duration: registry.histogram(STEP_DURATION, &labels),
            attempts: OUTCOMES.map(|outcome| {
                let outcome = ("outcome", outcome.as_str());
                registry.counter(STEP_ATTEMPTS, &[queue, workflow, handler, outcome])
            }),
        }
    }
}

impl RunMetrics {
    fn new(registry: &Registry, workflow: &str) -> Self {
        let workflow = ("workflow", workflow);
        Self {
            duration: registry.histogram(RUN_DURATION, &[workflow]),
            ended: RUN_ENDS.map(|state| registry.counter(RUNS, &[workflow, ("state", state.as_str())])),
        }
    }
}

impl Sampled {
    fn set(&self, value: f64) {
        *locked(&self.set_at) = Instant::now();
        self.gauge.set(value);
    }

    /// Show nothing any more if the figure is too old by then.
    fn expire(&self, in_so_long: Duration) {
        if locked(&self.set_at).elapsed() + in_so_long > self.lifetime {
            self.gauge.set(f64::NAN);
        }
    }
}

impl Scrape {
    /// All figures now, in the Prometheus text format.
    pub fn render(&self) -> String {
        self.0.expire_samples(Duration::ZERO);
        self.0.upkeep();
        self.0.handle.render()
    }

    /// Count collected histogram samples into their buckets, so that memory stays small between scrapes.
    pub fn upkeep(&self) {
        self.0.upkeep();
    }
}

impl Registry {
    fn counter(&self, name: &'static str, labels: &[(&str, &str)]) -> Counter {
        self.recorder.register_counter(&key(name, labels), &METADATA)
    }

    fn gauge(&self, name: &'static str, labels: &[(&str, &str)]) -> Gauge {
        self.recorder.register_gauge(&key(name, labels), &METADATA)
    }

    fn histogram(&self, name: &'static str, labels: &[(&str, &str)]) -> Histogram {
        self.recorder.register_histogram(&key(name, labels), &METADATA)
    }

    fn sampled(&self, name: &'static str, labels: &[(&str, &str)]) -> Arc<Sampled> {
        self.sampled_for(SAMPLE_LIFETIME, name, labels)
    }

    fn sampled_for(&self, lifetime: Duration, name: &'static str, labels: &[(&str, &str)]) -> Arc<Sampled> {
        let (gauge, set_at) = (self.gauge(name, labels), Mutex::new(Instant::now()));
        let sampled = Arc::new(Sampled { gauge, lifetime, set_at });
        sampled.gauge.set(f64::NAN);
        locked(&self.sampled).push(Arc::clone(&sampled));
        sampled
    }

    fn upkeep(&self) {
        self.upkept_at.store(self.age(), Ordering::Relaxed);
        self.handle.run_upkeep();
    }

    /// Whether this call did it: of several callers in the same instant, one does.
    fn upkeep_if_older(&self, age: Duration) -> bool {
        let last = self.upkept_at.load(Ordering::Relaxed);
        let old = self.age().saturating_sub(last) >= millis(age);
        let due =
            old && self.upkept_at.compare_exchange(last, self.age(), Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if due {
            self.handle.run_upkeep();
        }
        due
    }

    fn age(&self) -> u64 {
        millis(self.born.elapsed())
    }

    fn expire_samples(&self, in_so_long: Duration) {
        for sampled in locked(&self.sampled).iter() {
            sampled.expire(in_so_long);
        }
    }

    fn describe(&self) {
        for (name, help) in [
            (STEP_ATTEMPTS, "Ended attempts of step jobs, by outcome."),
            (RUNS, "Runs ended by this worker, by state."),
            (FENCED, "Times a lane found its baton gone and dropped what it held."),
            (LEASES_LOST, "Step jobs that this worker took back from expired leases."),
        ] {
            self.recorder.describe_counter(name.into(), None, help.into());
        }
        for (name, help) in [
            (SLOTS, "Slots of this worker: holding a step job, or free."),
            (OLDEST_READY, "Age of the oldest step job that could be claimed; NaN where another worker samples."),
            (QUEUE_DEPTH, "Step jobs of a queue, capped or estimated; NaN where another worker samples."),
            (
                OLDEST_SNAPSHOT,
                "Age of the oldest snapshot that keeps dead rows alive; NaN where another worker samples.",
            ),
            (DEAD_ROWS, "Dead rows of a table, as Postgres estimates them; NaN where another worker samples."),
            (STUCK_RUNS, "Live runs that nothing will move again; always 0 unless a promise is broken."),
            (BUILD_INFO, "1, labelled with the version of this worker."),
        ] {
            self.recorder.describe_gauge(name.into(), None, help.into());
        }
        for (name, help) in [
            (STEP_WAIT, "Time from enqueue to claim of a step job, by the database clock."),
            (STEP_DURATION, "Time a handler ran in one attempt."),
            (RUN_DURATION, "Time from start to end of a run."),
            (CYCLE_DURATION, "Time of one committed cycle call of a lane."),
            (CYCLE_BATCH, "Rows of one cycle: attempts ended, step jobs claimed or enqueued."),
            (POOL_WAIT, "Time a task waited for a database connection."),
        ] {
            self.recorder.describe_histogram(name.into(), None, help.into());
        }
    }
}

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

fn recorder() -> Result<PrometheusRecorder, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for (name, buckets) in [
        (STEP_WAIT, STEP_BUCKETS),
        (STEP_DURATION, STEP_BUCKETS),
        (RUN_DURATION, RUN_BUCKETS),
        (CYCLE_DURATION, CYCLE_BUCKETS),
        (CYCLE_BATCH, BATCH_BUCKETS),
        (POOL_WAIT, CYCLE_BUCKETS),
    ] {
        builder = builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets)?;
    }
    Ok(builder.build_recorder())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn key(name: &'static str, labels: &[(&str, &str)]) -> Key {
    let labels: Vec<Label> =
        labels.iter().map(|(label, value)| Label::new((*label).to_owned(), (*value).to_owned())).collect();
    Key::from_parts(name, labels)
}

/// `labels` while it is known or there is room, the `other` set after that.
fn within_limit<K: Eq + std::hash::Hash, V>(known: &HashMap<K, V>, labels: K, other: impl FnOnce() -> K) -> K {
    if known.len() < LABEL_SETS || known.contains_key(&labels) { labels } else { other() }
}

/// A panic elsewhere while counting leaves nothing half done here, so a poisoned lock is taken all the same.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A registry in which every metric has been counted.
    fn used() -> (Metrics, Scrape) {
        let (metrics, scrape) = Metrics::install().unwrap();
        metrics.step("orders", "order", "charge").attempt(Outcome::Completed, MS, Some(20 * MS));
        metrics.run_ended("order", RunState::Completed, Some(90 * MS));
        metrics.cycle(MS, 1, 2, 3);
        metrics.fenced();
        metrics.leases_lost(4);
        metrics.slots(3, 97);
        metrics.pool_wait(MS);
        metrics.queue_sample("orders", 1500 * MS, 12, 5);
        metrics.database_sample(250 * MS, &[("step_ready", 9)]);
        metrics.stuck_runs(0);
        (metrics, scrape)
    }

    #[test]
    fn every_figure_is_in_the_scrape() {
        let (_metrics, scrape) = used();
        let text = scrape.render();
        for line in [
            "longshore_step_attempts_total{queue=\"orders\",workflow=\"order\",handler=\"charge\",outcome=\"completed\"} 1",
            "longshore_step_attempts_total{queue=\"orders\",workflow=\"order\",handler=\"charge\",outcome=\"lost\"} 0",
            "longshore_step_wait_seconds_bucket{queue=\"orders\",workflow=\"order\",handler=\"charge\",le=\"0.001\"} 1",
            "longshore_step_duration_seconds_count{queue=\"orders\",workflow=\"order\",handler=\"charge\"} 1",
            "longshore_runs_total{workflow=\"order\",state=\"completed\"} 1",
            "longshore_run_duration_seconds_bucket{workflow=\"order\",le=\"0.1\"} 1",
            "longshore_cycle_duration_seconds_count 1",
            "longshore_cycle_batch_size_sum{kind=\"enqueued\"} 3",
            "longshore_fenced_total 1",
            "longshore_leases_lost_total 4",
            "longshore_slots{state=\"free\"} 97",
            "longshore_db_pool_wait_seconds_count 1",
            "longshore_queue_oldest_ready_seconds{queue=\"orders\"} 1.5",
            "longshore_queue_depth{queue=\"orders\",state=\"delayed\"} 5",
            "longshore_db_oldest_snapshot_age_seconds 0.25",
            "longshore_db_dead_rows{table=\"step_ready\"} 9",
            "longshore_stuck_runs 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn promtool_accepts_a_scrape() {
        let (_metrics, scrape) = used();
        let promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut promtool) = promtool else {
            eprintln!("skipped: promtool not found");
            return;
        };
        let text = scrape.render();
        promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let said = promtool.wait_with_output().unwrap();
        assert!(said.status.success(), "{}\n{text}", String::from_utf8_lossy(&said.stderr));
    }

    #[test]
    fn label_sets_are_bounded() {
        let (metrics, scrape) = Metrics::install().unwrap();
        for n in 0..300 {
            let name = format!("w{n}");
            metrics.step("q", &name, "h").attempt(Outcome::Failed, MS, Some(MS));
            metrics.run_ended(&name, RunState::Failed, None);
            metrics.queue_sample(&name, MS, 1, 1);
        }
        metrics.step("q", "w0", "h").attempt(Outcome::Failed, MS, Some(MS));
        let text = scrape.render();
        let other = "queue=\"other\",workflow=\"other\",handler=\"other\",outcome=\"failed\"} 100";
        assert!(text.contains(other), "{text}");
        assert!(text.contains("workflow=\"w0\",handler=\"h\",outcome=\"failed\"} 2"));
        assert!(text.contains("longshore_runs_total{workflow=\"other\",state=\"failed\"} 100"));
        let depths = text.lines().filter(|line| line.starts_with("longshore_queue_oldest_ready_seconds{"));
        assert_eq!(depths.count(), LABEL_SETS + 1);
    }

    #[test]
    fn a_worker_that_stopped_sampling_shows_no_stale_figures() {
        let (metrics, scrape) = used();
        scrape.0.expire_samples(SAMPLE_LIFETIME);
        let text = scrape.0.handle.render();
        assert!(text.contains("longshore_queue_depth{queue=\"orders\",state=\"ready\"} NaN"), "{text}");
        assert!(text.contains("longshore_stuck_runs 0"), "that look is taken less often: {text}");
        scrape.0.expire_samples(STUCK_LIFETIME);
        assert!(scrape.0.handle.render().contains("longshore_stuck_runs NaN"));
        metrics.queue_sample("orders", MS, 7, 0);
        assert!(scrape.render().contains("longshore_queue_depth{queue=\"orders\",state=\"ready\"} 7"));
    }

    #[test]
    fn samples_are_counted_when_nobody_did_for_a_while() {
        let (_metrics, scrape) = used();
        assert!(!scrape.0.upkeep_if_older(Duration::from_secs(3600)));
        assert!(scrape.0.upkeep_if_older(Duration::ZERO));
        assert!(scrape.render().contains("longshore_cycle_duration_seconds_count 1"));
    }

    #[test]
    fn two_workers_in_one_process_do_not_mix() {
        let (_used, _) = used();
        let (_metrics, scrape) = Metrics::install().unwrap();
        assert!(!scrape.render().contains("workflow=\"order\""));
    }
}
