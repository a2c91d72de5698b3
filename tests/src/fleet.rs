//! A fleet for one test: a database, in-process workers on it with a short lease, and an enqueuer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use longshore_core::definition::Definition;
use longshore_core::workflow;
use longshore_enqueuer::Enqueuer;
use longshore_worker::builtin::builtin;
use longshore_worker::{Failure, Slots, Step, Worker, WorkerBuilder};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

use crate::{TestDatabase, checks};

/// The lease of a test's in-process workers: long enough that a busy machine does not break it. Tests that break it have shorter ones.
pub const LEASE: Duration = Duration::from_secs(3);

/// Whatever a test awaits must have come by then.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// See the module.
pub struct TestFleet {
    /// The database.
    pub database: TestDatabase,
    /// An enqueuer on it.
    pub enqueuer: Enqueuer,
    workers: Vec<Worker>,
}

/// One attempt as Postgres has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Its number; 0 is the record of a skip.
    pub number: i32,
    /// `completed failed lost canceled skipped released`.
    pub outcome: String,
    /// The name of its error.
    pub error: Option<String>,
    /// A handler ran.
    pub ran: bool,
}

impl TestFleet {
    /// A database with these workflows published and no worker yet.
    pub async fn publish(definitions: impl IntoIterator<Item = Value>) -> Self {
        // LONGSHORE_LOG=info shows what the workers of a failing test say
        let filter = tracing_subscriber::EnvFilter::try_from_env("LONGSHORE_LOG").unwrap_or_else(|_| "off".into());
        tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init().ok();
        let database = TestDatabase::new().await;
        let enqueuer = Enqueuer::connect(&database.url).await.unwrap();
        let fleet = Self { database, enqueuer, workers: Vec::new() };
        for definition in definitions {
            fleet.apply(definition).await;
        }
        fleet
    }

    /// The same with one worker that has the built-in handlers.
    pub async fn working(definitions: impl IntoIterator<Item = Value>) -> Self {
        let mut fleet = Self::publish(definitions).await;
        fleet.work(16).await;
        fleet
    }

    /// Publish one more definition; the version it got.
    pub async fn apply(&self, definition: Value) -> i32 {
        let definition = Definition::from_json(&definition).unwrap_or_else(|problems| panic!("{problems}"));
        let mut connection = self.database.pool.acquire().await.unwrap();
        workflow::publish(&mut connection, &definition).await.unwrap().version
    }

    /// A worker to add handlers and queues to: the built-in handlers, a short lease, no system lane.
    pub fn worker(&self) -> WorkerBuilder {
        Worker::builder(&self.database.url)
            .handlers(builtin())
            .lease(LEASE)
            .grace(Duration::from_secs(10))
            .without_system_lane()
    }

    /// Start a worker with the built-in handlers and this many slots on `default`.
    pub async fn work(&mut self, slots: u32) {
        self.add(self.worker().queue("default", Slots(slots))).await;
    }

    /// Start this worker.
    pub async fn add(&mut self, worker: WorkerBuilder) -> &Worker {
        self.workers.push(worker.start().await.unwrap());
        &self.workers[self.workers.len() - 1]
    }

    /// Drain the worker that was started first.
    pub async fn leave_first(&mut self) {
        self.workers.remove(0).until(std::future::ready(())).await;
    }

    /// End the worker that holds a step of this run as a crash would, once one does: others take its steps back when the lease is over.
    pub async fn crash_holder(&mut self, run: Uuid) {
        self.until(&format!("select exists (select from longshore.step_leases where run_id = '{run}')")).await;
        let holder: Uuid = sqlx::query_scalar("select worker_id from longshore.step_leases where run_id = $1 limit 1")
            .bind(run)
            .fetch_one(&self.database.pool)
            .await
            .unwrap();
        let at = self.workers.iter().position(|worker| worker.id() == holder).expect("the holder is one of the fleet");
        drop(self.workers.remove(at));
    }

    /// End all workers as a crash would: what they held stays held until somebody takes it back. Returns when Postgres is quiet.
    pub async fn crash(&mut self) {
        self.workers.clear();
        let quiet = "select not exists (select from pg_stat_activity
            where datname = current_database() and state <> 'idle' and pid <> pg_backend_pid())";
        self.until(quiet).await;
    }

    /// Start a run.
    pub async fn start(&self, workflow: &str, input: Value) -> Uuid {
        self.enqueuer.start(workflow, &input).await.unwrap().id
    }

    /// Start a run and await its end: its state in words and its output or error.
    pub async fn run(&self, workflow: &str, input: Value) -> (String, Value) {
        let id = self.start(workflow, input).await;
        self.ended(id).await
    }

    /// Start a run that is to complete: its id and output.
    pub async fn complete(&self, workflow: &str, input: Value) -> (Uuid, Value) {
        let id = self.start(workflow, input).await;
        match self.ended(id).await {
            (state, output) if state == "completed" => (id, output),
            (state, error) => panic!("run {id} of {workflow} is {state}: {error}"),
        }
    }

    /// Await the end of a run.
    pub async fn ended(&self, id: Uuid) -> (String, Value) {
        let until = Instant::now() + PATIENCE;
        loop {
            let row: (i16, Option<Value>, Option<Value>) =
                sqlx::query_as("select state, output, error from longshore.workflow_runs where run_id = $1")
                    .bind(id)
                    .fetch_one(&self.database.pool)
                    .await
                    .unwrap();
            match row {
                (3, output, _) => return ("completed".to_owned(), output.unwrap_or(Value::Null)),
                (4, _, error) => return ("failed".to_owned(), error.unwrap_or(Value::Null)),
                (5, _, error) => return ("canceled".to_owned(), error.unwrap_or(Value::Null)),
                _ if Instant::now() > until => panic!("run {id} has not ended: {}", self.state(id).await),
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// Await the end of every run there is.
    pub async fn all_ended(&self) {
        self.until("select not exists (select from longshore.workflow_runs where state in (1, 2))").await;
    }

    /// Everything the database says of a run that did not end, for the message of a failed test.
    pub async fn state(&self, id: Uuid) -> Value {
        let sql = "select json_build_object(
            'ready', (select json_agg(r) from longshore.step_ready r where r.run_id = $1),
            'delayed', (select json_agg(r) from longshore.step_delayed r where r.run_id = $1),
            'waiting', (select json_agg(r) from longshore.step_waiting r where r.run_id = $1),
            'signals', (select json_agg(r) from longshore.signals r where r.run_id = $1),
            'joins', (select json_agg(r) from longshore.step_joins r where r.run_id = $1),
            'leases', (select json_agg(r) from longshore.step_leases r where r.run_id = $1),
            'attempts', (select json_agg(r) from (select node, attempt, outcome, error from longshore.execution_step_attempts where run_id = $1
                                                  order by finished_at desc limit 20) r))";
        sqlx::query_scalar(sql).bind(id).fetch_one(&self.database.pool).await.unwrap()
    }

    /// Await until no step job is ready or due later.
    pub async fn idle(&self) {
        self.until(
            "select not exists (select from longshore.step_ready) and not exists (select from longshore.step_delayed)",
        )
        .await;
    }

    /// Await until this SQL of the test's own returns true.
    pub async fn until(&self, sql: &str) {
        let until = Instant::now() + PATIENCE;
        while !sqlx::query_scalar::<_, bool>(sql)
            .fetch_one(&self.database.pool)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"))
        {
            assert!(Instant::now() < until, "never became true: {sql}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// One value that SQL of the test's own asks for, with the run as `$1`.
    pub async fn ask<T>(&self, sql: &str, run: Uuid) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        sqlx::query_scalar(sql).bind(run).fetch_one(&self.database.pool).await.unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// The nodes of a run by outcome of their last attempt, as `{"completed": ["a", ...], ...}` sorted by id.
    pub async fn outcomes(&self, id: Uuid) -> Value {
        let sql = "select coalesce(json_object_agg(state, ids), '{}') from (
            select s.state, json_agg(n.id order by n.id) as ids
            from longshore.execution_steps s
            join longshore.workflow_runs r on r.run_id = s.run_id
            join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = s.node
            where s.run_id = $1 group by s.state) x";
        self.ask(sql, id).await
    }

    /// The attempts of one node of a run, in order.
    pub async fn attempts(&self, id: Uuid, node: &str) -> Vec<Attempt> {
        let sql = "select a.attempt, (array['completed', 'failed', 'lost', 'canceled', 'skipped', 'released'])[a.outcome], a.error ->> 'name',
                a.duration_ms is not null
            from longshore.execution_step_attempts a
            join longshore.workflow_runs r on r.run_id = a.run_id
            join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node
            where a.run_id = $1 and n.id = $2 order by a.attempt";
        let rows: Vec<(i32, String, Option<String>, bool)> =
            sqlx::query_as(sql).bind(id).bind(node).fetch_all(&self.database.pool).await.unwrap();
        rows.into_iter().map(|(number, outcome, error, ran)| Attempt { number, outcome, error, ran }).collect()
    }

    /// The outcomes of the attempts of one node of a run, in order.
    pub async fn tries(&self, id: Uuid, node: &str) -> Vec<String> {
        self.attempts(id, node).await.into_iter().map(|attempt| attempt.outcome).collect()
    }

    /// The error that an attempt recorded; for a skipped node its reason.
    pub async fn error(&self, id: Uuid, node: &str, attempt: i32) -> Value {
        let sql = "select a.error
            from longshore.execution_step_attempts a
            join longshore.workflow_runs r on r.run_id = a.run_id
            join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node
            where a.run_id = $1 and n.id = $2 and a.attempt = $3";
        let error: Option<Value> =
            sqlx::query_scalar(sql).bind(id).bind(node).bind(attempt).fetch_one(&self.database.pool).await.unwrap();
        error.unwrap_or(Value::Null)
    }

    /// Why a node was skipped.
    pub async fn reason(&self, id: Uuid, node: &str) -> String {
        let error = self.error(id, node, 0).await;
        error["reason"].as_str().unwrap_or_else(|| panic!("no reason in {error}")).to_owned()
    }

    /// Drain all workers and await it.
    pub async fn drain(&mut self) {
        let leaving = std::mem::take(&mut self.workers).into_iter().map(|worker| worker.until(std::future::ready(())));
        futures::future::join_all(leaving).await;
    }

    /// What killed workers left in the books goes after five minutes, or by this.
    pub async fn forget_killed(&self) {
        let sql = "delete from longshore.workers;
            delete from longshore.worker_lanes w where not exists (select from longshore.lanes l where l.lane_id = w.lane_id)";
        self.database.execute(sql).await;
    }

    /// Drain all workers, await settling of closed runs, check that nothing is left of any run and that no promise is broken, and drop
    /// the database.
    pub async fn finish(mut self) {
        if !self.workers.is_empty() {
            self.until("select not exists (select from longshore.closed)").await;
            // what looks for signals may outlive its run by a claim
            let looks = checks::LOOKS;
            self.until(&format!(
                "select not exists (select from longshore.step_ready s join longshore.workflow_runs r using (run_id)
                    where r.state > 2 and s.node in {looks})"
            ))
            .await;
        }
        self.drain().await;
        let left = "select (select count(*) from longshore.lanes) + (select count(*) from longshore.worker_lanes) + (select count(*) from longshore.workers)";
        assert_eq!(self.database.number(left).await, 0, "a drained fleet leaves no lease and no worker");
        checks::assert_kept(&self.database.pool).await;
        self.database.drop().await;
    }
}

/// A handler that waits until the test lets it go on. It returns its input; when it is told to stop it stops.
#[derive(Clone, Debug)]
pub struct Gate {
    inside: watch::Sender<usize>,
    told: watch::Sender<usize>,
    open: Arc<Semaphore>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { inside: watch::Sender::new(0), told: watch::Sender::new(0), open: Arc::new(Semaphore::new(0)) }
    }
}

impl Gate {
    /// To be registered as a handler.
    pub async fn pass(self, step: Step, input: Value) -> Result<Value, Failure> {
        self.inside.send_modify(|inside| *inside += 1);
        tokio::select! {
            permit = self.open.acquire() => {
                permit.map_err(Failure::permanent)?.forget();
                Ok(input)
            }
            () = step.cancellation().cancelled() => {
                self.told.send_modify(|told| *told += 1);
                Err(Failure::canceled("told to stop"))
            }
        }
    }

    /// The same for a handler that does not heed it when it is told to stop.
    pub async fn pass_stubbornly(self, input: Value) -> Result<Value, Failure> {
        self.inside.send_modify(|inside| *inside += 1);
        self.open.acquire().await.map_err(Failure::permanent)?.forget();
        Ok(input)
    }

    /// Await until so many came in, since the beginning.
    pub async fn entered(&self, count: usize) {
        Self::reached(&self.inside, count).await;
    }

    /// Await until so many were told to stop.
    pub async fn told(&self, count: usize) {
        Self::reached(&self.told, count).await;
    }

    /// How many came in.
    pub fn count(&self) -> usize {
        *self.inside.borrow()
    }

    /// Let so many go on.
    pub fn open(&self, count: usize) {
        self.open.add_permits(count);
    }

    async fn reached(counter: &watch::Sender<usize>, count: usize) {
        let mut counter = counter.subscribe();
        tokio::time::timeout(PATIENCE, counter.wait_for(|reached| *reached >= count))
            .await
            .unwrap_or_else(|_| panic!("never {count}"))
            .unwrap();
    }
}

/// Adds handlers of tests to a worker.
pub trait TestHandlers {
    /// `gate`: see [`Gate`].
    #[must_use]
    fn gate(self, gate: &Gate) -> Self;

    /// `panic`: panics in its first `times` attempts (always without it), then returns its input.
    #[must_use]
    fn panics(self) -> Self;
}

impl TestHandlers for WorkerBuilder {
    fn gate(self, gate: &Gate) -> Self {
        let gate = gate.clone();
        self.handler("gate", move |step: Step, input: Value| gate.clone().pass(step, input))
    }

    fn panics(self) -> Self {
        self.handler("panic", async |step: Step, input: Value| {
            let times = input["times"].as_i64().unwrap_or(i64::MAX);
            assert!(i64::from(step.attempt()) > times, "as the test asks");
            Ok::<_, Failure>(input)
        })
    }
}

/// A task node.
pub fn task(id: &str, handler: &str) -> Value {
    json!({"id": id, "type": "task", "handler": handler})
}

/// The node with these fields added or replaced.
pub fn with(mut node: Value, fields: Value) -> Value {
    node.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    node
}

/// A `set` node.
pub fn set(id: &str, output: Value) -> Value {
    json!({"id": id, "type": "set", "output": output})
}

/// A chain of tasks with the handler `echo`.
pub fn chain(name: &str, length: usize) -> Value {
    let nodes: Vec<Value> =
        (0..length).map(|i| json!({"id": format!("n{i}"), "type": "task", "handler": "echo"})).collect();
    let edges: Vec<Value> = (1..length).map(|i| json!([format!("n{}", i - 1), format!("n{i}")])).collect();
    json!({"name": name, "nodes": nodes, "edges": edges})
}

/// For each of three items two passes of `charge`, which stands in a gate, and of `count`; then `z`. Within `each`, which has an hour, is `again`.
pub fn nested(name: &str) -> Value {
    let charge = task("charge", "gate");
    let count = json!({"id": "count", "type": "set", "output": {"n": "{{ frame.input.n + 1 }}"}});
    let body = json!({"nodes": [charge, count], "edges": [["charge", "count"]]});
    let again = json!({"id": "again", "type": "while", "when": "input.n < 2", "input": {"n": 0}, "body": body});
    let each =
        json!({"id": "each", "type": "foreach", "items": [7, 8, 9], "timeout": "1h", "body": {"nodes": [again]}});
    json!({"name": name, "nodes": [each, task("z", "echo")], "edges": [["each", "z"]]})
}

/// `a`, then `width` tasks side by side, then `z`; all `echo`.
pub fn fan(name: &str, width: usize) -> Value {
    let task = |id: String| json!({"id": id, "type": "task", "handler": "echo"});
    let middle = (0..width).map(|i| format!("m{i}"));
    let nodes: Vec<Value> =
        ["a".to_owned()].into_iter().chain(middle.clone()).chain(["z".to_owned()]).map(task).collect();
    let edges: Vec<Value> = middle.flat_map(|m| [json!(["a", m]), json!([m, "z"])]).collect();
    json!({"name": name, "nodes": nodes, "edges": edges})
}
