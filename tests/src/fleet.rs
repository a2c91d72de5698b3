//! A fleet for one test: a database, in-process workers on it with a short lease, and an enqueuer.

use std::time::{Duration, Instant};

use longshore_core::definition::Definition;
use longshore_core::workflow;
use longshore_enqueuer::Enqueuer;
use longshore_worker::builtin::builtin;
use longshore_worker::{Slots, Worker, WorkerBuilder};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::TestDatabase;

/// The lease of a test's workers.
pub const LEASE: Duration = Duration::from_secs(1);

/// Whatever a test awaits must have come by then.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// See the module.
pub struct TestFleet {
    /// The database.
    pub database: TestDatabase,
    /// An enqueuer on it.
    pub enqueuer: Enqueuer,
    workers: Vec<(Worker, ())>,
}

impl TestFleet {
    /// A database with these workflows published and no worker yet.
    pub async fn publish(definitions: impl IntoIterator<Item = Value>) -> Self {
        // LONGSHORE_LOG=info shows what the workers of a failing test say
        let filter = tracing_subscriber::EnvFilter::try_from_env("LONGSHORE_LOG").unwrap_or_else(|_| "off".into());
        tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init().ok();
        let database = TestDatabase::new().await;
        let mut connection = database.pool.acquire().await.unwrap();
        for definition in definitions {
            let definition = Definition::from_json(&definition).unwrap_or_else(|problems| panic!("{problems}"));
            workflow::publish(&mut connection, &definition).await.unwrap();
        }
        drop(connection);
        let enqueuer = Enqueuer::connect(&database.url).await.unwrap();
        Self { database, enqueuer, workers: Vec::new() }
    }

    /// A worker to add handlers and queues to: the built-in handlers, a lease of 1 s, no system lane.
    pub fn worker(&self) -> WorkerBuilder {
        Worker::builder(&self.database.url)
            .handlers(builtin())
            .lease(LEASE)
            .grace(Duration::from_secs(10))
            .without_system_lane()
    }

    /// Start a worker with the built-in handlers and this many slots on `default`.
    pub async fn work(&mut self, slots: u32) {
        let worker = self.worker().queue("default", Slots(slots)).start().await.unwrap();
        self.workers.push((worker, ()));
    }

    /// Start this worker.
    pub async fn add(&mut self, worker: WorkerBuilder) {
        self.workers.push((worker.start().await.unwrap(), ()));
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

    /// Everything the database says of a run that did not end, for the message of a failed test.
    pub async fn state(&self, id: Uuid) -> Value {
        let sql = "select json_build_object(
            'ready', (select json_agg(r) from longshore.step_ready r where r.run_id = $1),
            'delayed', (select json_agg(r) from longshore.step_delayed r where r.run_id = $1),
            'joins', (select json_agg(r) from longshore.step_joins r where r.run_id = $1),
            'leases', (select json_agg(r) from longshore.step_leases r where r.run_id = $1),
            'attempts', (select json_agg(r) from (select node, attempt, outcome, error from longshore.execution_step_attempts where run_id = $1
                                                  order by finished_at desc limit 20) r))";
        sqlx::query_scalar(sql).bind(id).fetch_one(&self.database.pool).await.unwrap()
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

    /// The nodes of a run by outcome of their last attempt, as `{"completed": ["a", ...], ...}` sorted by id.
    pub async fn outcomes(&self, id: Uuid) -> Value {
        let sql = "select coalesce(json_object_agg(state, ids), '{}') from (
            select s.state, json_agg(n.id order by n.id) as ids
            from longshore.execution_steps s
            join longshore.workflow_runs r on r.run_id = s.run_id
            join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = s.node
            where s.run_id = $1 group by s.state) x";
        sqlx::query_scalar(sql).bind(id).fetch_one(&self.database.pool).await.unwrap()
    }

    /// Drain all workers, await settling of closed runs, check that nothing is left of any run, and drop the database.
    pub async fn finish(mut self) {
        if !self.workers.is_empty() {
            self.until("select not exists (select from longshore.closed)").await;
        }
        for (worker, ()) in std::mem::take(&mut self.workers) {
            worker.until(std::future::ready(())).await;
        }
        let left = "select (select count(*) from longshore.lanes) + (select count(*) from longshore.worker_lanes) + (select count(*) from longshore.workers)";
        assert_eq!(self.database.number(left).await, 0, "a drained fleet leaves no lease and no worker");
        self.database.drop().await;
    }
}

/// A chain of tasks with the handler `echo`.
pub fn chain(name: &str, length: usize) -> Value {
    let nodes: Vec<Value> =
        (0..length).map(|i| json!({"id": format!("n{i}"), "type": "task", "handler": "echo"})).collect();
    let edges: Vec<Value> = (1..length).map(|i| json!([format!("n{}", i - 1), format!("n{i}")])).collect();
    json!({"name": name, "nodes": nodes, "edges": edges})
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
