//! Testing workflows: runs of them on the real engine and a real Postgres, with handlers that are mocks and without waiting for time to pass.
//!
//! ```no_run
//! use longshore_core::definition::Definition;
//! use longshore_worker::testing::{Answer, Case, TestBench};
//! use serde_json::json;
//!
//! # async fn example(url: &str, definition: &Definition) -> Result<(), Box<dyn std::error::Error>> {
//! let mut bench = TestBench::connect(url).await?;
//! bench.apply(definition)?;
//! let case = Case::new("order", &json!({ "order": 7 }))
//!     .mock("charge", [Answer::retryable("busy", "try again"), Answer::output(json!({ "receipt": "C-7" }))])
//!     .mock("handler:mail", [Answer::output(json!(null))])
//!     .signal_after("charge", "packed", &json!({ "by": "ann" }));
//! let tested = bench.run(&case).await?;
//! assert_eq!(tested.complaints, [""; 0]);
//! assert_eq!((tested.state.as_str(), tested.attempts("charge")), ("completed", 2));
//! # Ok(())
//! # }
//! ```
//!
//! A bench belongs on a database of its own: every run there is taken for one of the test's, and its worker answers with mocks.

mod answers;
mod case;
mod coverage;
mod difference;
mod mocked;
mod waits;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use longshore_core::definition::{Definition, Problems};
use longshore_core::error::StepError;
use longshore_core::graph::Graph;
use longshore_core::inspect::AttemptView;
use longshore_core::payload::Payload;
use longshore_core::run::{self, Start};
use longshore_core::session::{Access, Route};
use longshore_core::state::{Outcome, RunState};
use longshore_core::{context, database, inspect, migrate, mock, signal, testing, workflow};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;
use uuid::Uuid;

pub use case::{Case, DEFAULT_BOUND};
pub use coverage::{BodyCoverage, Coverage, EdgeCoverage, NodeCoverage, Went};
pub use difference::{Compare, Difference, difference};
pub use longshore_core::mock::{Answer, HANDLER, MOCK_INPUT, MOCK_MISSING};

use crate::handler::{Handler, Handlers};
use crate::worker::{Slots, StartError, Worker};
use answers::Answers;
use case::{ToSend, storable};

const CONNECTIONS: u32 = 4;
const LOOK_EVERY: Duration = Duration::from_millis(2);
const GRACE: Duration = Duration::from_secs(1);

/// Why a case could not be run. What a run came to is no error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Postgres cannot be reached.
    #[error(transparent)]
    Connect(#[from] database::Error),
    /// The schema cannot be brought up to date.
    #[error(transparent)]
    Schema(#[from] migrate::Error),
    /// A worker is registered there, whose handlers would run for real: name another database, or wait 30 s if it was killed.
    #[error(
        "worker {name} is alive on this database, its handlers would run for real: tests need a database of their own"
    )]
    LiveWorker {
        /// Its name.
        name: String,
    },
    /// Runs go on there, which mocks would answer: name another database, or cancel them.
    #[error(
        "{count} runs on this database have not ended, mocks would answer them: tests need a database of their own"
    )]
    LiveRuns {
        /// How many.
        count: usize,
    },
    /// A definition is wrong in these places.
    #[error("{0}")]
    Definition(#[from] Problems),
    /// The workflow of the case was not applied.
    #[error("workflow {workflow:?} is not applied to the test bench")]
    NotApplied {
        /// Its name.
        workflow: String,
    },
    /// An input or a payload cannot be stored.
    #[error("{what} cannot be stored: {error}")]
    NotStorable {
        /// Which.
        what: String,
        /// Why.
        error: String,
    },
    /// A definition cannot be published.
    #[error(transparent)]
    Workflow(#[from] workflow::Error),
    /// The worker does not start.
    #[error(transparent)]
    Worker(#[from] StartError),
    /// The run cannot be started, read or sent a signal.
    #[error(transparent)]
    Run(#[from] run::Error),
    /// A statement failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// A database on which workflows are tested, the definitions and the handlers. It runs one case at a time.
#[derive(Debug)]
pub struct TestBench {
    url: String,
    access: Access,
    definitions: Vec<Definition>,
    handlers: Handlers,
    /// The workers of its cases.
    workers: Vec<Uuid>,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Tested {
    /// The run, whose records stay in the database.
    pub run_id: Uuid,
    /// How it ended. A run that was stuck, or took too long, was canceled.
    pub state: RunState,
    /// What it completed with.
    pub output: Option<Value>,
    /// Why it failed or was canceled.
    pub error: Option<StepError>,
    /// Its context at the end, where its definition has one.
    pub context: Option<Value>,
    /// The nodes that completed, in this order, in whatever frame.
    pub path: Vec<String>,
    /// How the attempts of each node ended, in this order; a node that was skipped has that for one.
    pub outcomes: BTreeMap<String, Vec<Outcome>>,
    /// What the run went through.
    pub coverage: Coverage,
    /// What a test cannot mean, whatever the run made of it: a node without mock, an input that a mock does not expect, a run that was stuck or took too
    /// long, a signal that was never sent.
    pub complaints: Vec<String>,
}

/// A definition as a case has it.
struct Variant {
    definition: Definition,
    graph: Graph,
}

impl Variant {
    fn of(definition: Definition) -> Result<Self, Problems> {
        Ok(Self { graph: Graph::compile(&definition)?, definition })
    }
}

fn handler_names(variants: &[Variant]) -> BTreeSet<String> {
    let nodes = variants.iter().flat_map(|variant| variant.graph.nodes());
    nodes.filter_map(|node| node.handler()).map(ToString::to_string).collect()
}

impl Tested {
    /// How often a node was tried, over all frames.
    pub fn attempts(&self, node: &str) -> usize {
        self.outcomes
            .get(node)
            .map_or(0, |outcomes| outcomes.iter().filter(|outcome| **outcome != Outcome::Skipped).count())
    }

    /// The nodes that were skipped and never ran.
    pub fn skipped(&self) -> Vec<&str> {
        let skipped = self.outcomes.iter().filter(|(_, outcomes)| outcomes.iter().all(|one| *one == Outcome::Skipped));
        skipped.map(|(node, _)| node.as_str()).collect()
    }
}

impl TestBench {
    /// A bench on this database, whose schema it brings up to date. It must be the test's own: one where a worker is alive, or runs have not ended, is
    /// refused.
    pub async fn connect(url: &str) -> Result<Self, Error> {
        let mut connection =
            PgConnection::connect_with(&database::options(url)?).await.map_err(database::Error::Connect)?;
        migrate::up(&mut connection).await?;
        connection.close().await?;
        let access = Access::connect(url, CONNECTIONS, Route::Direct).await?;
        let bench = Self {
            url: url.to_owned(),
            access,
            definitions: Vec::new(),
            handlers: Handlers::new(),
            workers: Vec::new(),
        };
        bench.refuse_company().await?;
        Ok(bench)
    }

    /// A definition that takes part, in place of an earlier one of its name. It is published when a case is run; what it starts by a `subflow` that is not
    /// mocked must be applied before it.
    pub fn apply(&mut self, definition: &Definition) -> Result<(), Problems> {
        Graph::compile(definition)?;
        self.definitions.retain(|other| other.name != definition.name);
        self.definitions.push(definition.clone());
        Ok(())
    }

    /// A real handler, for nodes without a mock.
    pub fn handler<I, O>(&mut self, name: &str, handler: impl Handler<I, O>)
    where
        I: DeserializeOwned + Send + 'static,
        O: Serialize + Send + 'static,
    {
        self.handlers.add(name, handler);
    }

    /// Runs a case to its end. Steps of one queue run one after the other.
    pub async fn run(&mut self, case: &Case) -> Result<Tested, Error> {
        self.refuse_company().await?;
        let variants: Vec<Variant> = self.variants(case).map(Variant::of).collect::<Result<_, _>>()?;
        let Some((Variant { definition, graph }, version)) = self.publish(case, &variants).await? else {
            return Err(Error::NotApplied { workflow: case.workflow.clone() });
        };
        let input = storable("the input", &case.input)?;
        let start = Start { version: Some(version), ..Start::new(&case.workflow, input) };
        let started = run::start(&mut self.access.session().await?, &[start]).await?;
        let Some(run_id) = started.first().map(|started| started.run_id) else {
            return Err(Error::NotApplied { workflow: case.workflow.clone() });
        };
        let answers = Answers::new(&case.workflow, case.mocks.clone(), self.handlers.clone());
        let handlers = answers.handlers(&handler_names(&variants));
        let ended = self.drive(run_id, case, handlers).await;
        self.cancel_all().await?;
        let mut complaints = ended?;
        complaints.splice(0..0, answers.complaints());
        self.tested(run_id, definition, graph, complaints).await
    }

    /// A worker answers until the run has ended; what is to complain of.
    async fn drive(&mut self, run_id: Uuid, case: &Case, handlers: Handlers) -> Result<Vec<String>, Error> {
        let mut to_send = case.signals.as_slice();
        while let [first, rest @ ..] = to_send
            && first.after.is_none()
        {
            self.send(run_id, first, None).await?;
            to_send = rest;
        }
        let worker = Worker::builder(&self.url)
            .handlers(handlers)
            .all_queues(Slots(1))
            .grace(GRACE)
            .without_system_lane()
            .name("test")
            .start()
            .await?;
        self.workers.push(worker.id());
        let driven = self.move_on(run_id, case, to_send, &worker).await;
        if !matches!(driven, Ok(None)) {
            // so that it leaves no step behind that waits for the end of the grace
            self.cancel_all().await?;
        }
        worker.until(std::future::ready(())).await;
        Ok(driven?.into_iter().collect())
    }

    /// Looks at the run until it has ended: where nothing is left to do, the next signal is sent, or the clock is moved.
    async fn move_on(
        &self,
        run_id: Uuid,
        case: &Case,
        mut to_send: &[ToSend],
        worker: &Worker,
    ) -> Result<Option<String>, Error> {
        let until = Instant::now() + case.bound;
        loop {
            let look = testing::look(&self.access, run_id).await?.ok_or(run::Error::NotFound { run_id })?;
            if look.state.has_ended() {
                return Ok(to_send.first().map(|signal| {
                    let after = signal.after.as_deref().unwrap_or("its start");
                    format!("signal `{}` after `{after}` was never sent: the run ended before", signal.name)
                }));
            }
            if look.quiet {
                match to_send {
                    [next, rest @ ..] if next.after.as_ref().is_none_or(|node| look.ended.contains(node)) => {
                        self.send(run_id, next, Some(worker)).await?;
                        to_send = rest;
                    }
                    _ if look.timers => {
                        testing::advance(&self.access).await?;
                        worker.look_for_timers();
                    }
                    _ => return Ok(Some(waits::stuck(&self.access).await?)),
                }
            }
            if Instant::now() > until {
                return Ok(Some(format!("it has not ended within {:?} of real time", case.bound)));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn send(&self, run_id: Uuid, to_send: &ToSend, worker: Option<&Worker>) -> Result<(), Error> {
        let payload = storable(&format!("the payload of signal `{}`", to_send.name), &to_send.payload)?;
        let sent = signal::send(&self.access, run_id, &to_send.name, &payload, None).await?;
        if let (Some(worker), Some(queue)) = (worker, sent.queue) {
            worker.tell(&queue);
        }
        Ok(())
    }

    /// The definitions as the case has them.
    fn variants<'b>(&'b self, case: &'b Case) -> impl Iterator<Item = Definition> + 'b {
        let mocks = mock::qualified(&case.workflow, case.mocks.clone());
        let variant = move |definition: &'b Definition| {
            let is_mocked = |node: &str| mock::keys(&definition.name, node, None).any(|key| mocks.contains_key(&key));
            mocked::mocked(definition, &is_mocked)
        };
        self.definitions.iter().map(variant)
    }

    /// Publishes all definitions; the one that is tested, and its version.
    async fn publish<'v>(&self, case: &Case, variants: &'v [Variant]) -> Result<Option<(&'v Variant, i32)>, Error> {
        let mut connection = self.access.pool().acquire().await?;
        let mut tested = None;
        for variant in variants {
            let published = workflow::publish_compiled(&mut connection, &variant.definition, &variant.graph).await?;
            if variant.definition.name == case.workflow {
                tested = Some((variant, published.version));
            }
        }
        Ok(tested)
    }

    /// Fails where others work, or would be worked on.
    async fn refuse_company(&self) -> Result<(), Error> {
        let fleet = inspect::fleet(&mut *self.access.pool().acquire().await?).await?;
        // one of its own has left, even if it could not say so
        let is_other = |worker: &inspect::WorkerView| worker.live && !self.workers.contains(&worker.worker_id);
        if let Some(worker) = fleet.into_iter().find(is_other) {
            return Err(Error::LiveWorker { name: worker.name });
        }
        match testing::live_runs(&self.access).await?.len() {
            0 => Ok(()),
            count => Err(Error::LiveRuns { count }),
        }
    }

    /// Whatever the case left: the run, if it was stuck, and child runs that outlive it.
    async fn cancel_all(&self) -> Result<(), Error> {
        for run_id in testing::live_runs(&self.access).await? {
            run::cancel(&self.access, run_id, "the test is over").await?;
        }
        Ok(())
    }

    async fn tested(
        &self,
        run_id: Uuid,
        definition: &Definition,
        graph: &Graph,
        complaints: Vec<String>,
    ) -> Result<Tested, Error> {
        let run = run::get(&self.access, run_id).await?.ok_or(run::Error::NotFound { run_id })?;
        let attempts = inspect::attempts(&mut *self.access.pool().acquire().await?, run_id).await?;
        // what nobody had begun when the case was over is on record, as canceled, as soon as its run is settled; so it never counts
        let begun = |attempt: &&AttemptView| attempt.outcome != Outcome::Canceled || attempt.claimed_at.is_some();
        let of_nodes = || attempts.iter().filter(|attempt| attempt.number >= 0).filter(begun);
        let completed = |attempt: &&AttemptView| attempt.outcome == Outcome::Completed;
        let mut outcomes: BTreeMap<String, Vec<Outcome>> = BTreeMap::new();
        for attempt in of_nodes() {
            outcomes.entry(attempt.node.clone()).or_default().push(attempt.outcome);
        }
        let context = context::of_runs(&self.access, &[run_id]).await?.remove(&run_id);
        Ok(Tested {
            run_id,
            state: run.state,
            output: run.output.as_ref().map(Payload::value),
            error: run.error.clone(),
            context: context.as_ref().or(graph.context()).map(Payload::value),
            path: of_nodes().filter(completed).map(|attempt| attempt.node.clone()).collect(),
            outcomes,
            coverage: coverage::coverage(self.access.pool(), definition, graph, &run, &attempts).await?,
            complaints,
        })
    }
}
