//! From a step that came into the lane to what there is to do with it: read the values it needs that the lane does not have (one statement for all),
//! decide engine steps on the spot, and lay out tasks for their handlers.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use longshore_core::attempt::{Ending, poisoned};
use longshore_core::cycle::Due;
use longshore_core::error::StepError;
use longshore_core::graph::{Delay, END, NodeKind, NodeNumber, NodeResult, RunFacts, START};
use longshore_core::payload::Payload;
use longshore_core::queue::{HeldStep, MAX_LOST_ALONE, StepKind};
use longshore_core::results::{self, StepRef};
use uuid::Uuid;

use crate::execute::{Execution, Token};
use crate::handler::ErasedHandler;
use crate::lane::Held;
use crate::shared::Shared;
use crate::step::{Step, StepFacts};
use crate::transaction::LaneLink;

/// A paused run's steps are looked at again after this time.
const NOT_NOW: Duration = Duration::from_secs(30);

/// What there is to do with a step.
pub(crate) enum Decided {
    /// It is over already.
    Ended(Held, Ending),
    /// Its handler is to run.
    Start(Held, Start),
}

/// A handler's call, but for the step's token.
pub(crate) struct Start {
    input: Payload,
    timeout: Duration,
    handler: ErasedHandler,
}

/// A task that waits for its start.
pub(crate) struct Prepared {
    pub(crate) token: Token,
    facts: StepFacts,
    start: Start,
}

impl Prepared {
    pub(crate) fn new(link: LaneLink, held: &Held, start: Start) -> Self {
        let token = link.token;
        let node = held.version.graph.node(held.step.node);
        let facts = StepFacts {
            run_id: held.step.run_id,
            workflow: held.version.workflow.clone(),
            node: node.map_or_else(|| "".into(), |node| node.id.clone()),
            attempt: held.step.attempt,
            frame: held.step.frame,
            deadline: tokio::time::Instant::now() + start.timeout,
            cancellation: held.cancellation.clone(),
            link: Some(link),
        };
        Self { token, facts, start }
    }

    pub(crate) fn into_execution(mut self) -> Execution {
        self.facts.deadline = tokio::time::Instant::now() + self.start.timeout;
        let Start { input, timeout, handler } = self.start;
        Execution { token: self.token, step: Step::new(self.facts), input, timeout, handler }
    }
}

/// Decide what there is to do with each of these steps.
pub(crate) async fn prepare(shared: &Shared, mut new: Vec<Held>) -> Vec<Decided> {
    let wanted = Wanted::of(&new);
    if !wanted.is_empty() && !wanted.fetch(shared, &mut new).await {
        // stopped while Postgres could not be read: what is held is reclaimed when the lease is over
        return Vec::new();
    }
    new.into_iter().map(|held| decide(shared, held)).collect()
}

/// What must be read before the steps can go on.
#[derive(Default)]
struct Wanted {
    results: Vec<StepRef>,
    inputs: BTreeSet<Uuid>,
    first_attempts: Vec<StepRef>,
}

/// The nodes whose results the step needs, and whether it needs the run's input.
fn needs(held: &Held) -> (Vec<NodeNumber>, bool) {
    let graph = &held.version.graph;
    let step = &held.step;
    match (step.kind, step.node) {
        (StepKind::Skip | StepKind::Rest, _) => (Vec::new(), false),
        (_, START) => (Vec::new(), graph.input_schema_value().is_some()),
        (_, END) => (graph.end_needs().nodes.clone(), graph.end_needs().run_input),
        (kind, node) => {
            let Some(needs) = graph.node(node).map(|node| node.needs()) else {
                return (Vec::new(), false);
            };
            let mut nodes = needs.nodes.clone();
            if kind == StepKind::Advance {
                nodes.push(node);
            }
            let checks_input = graph.entries() == [node] && graph.input_schema_value().is_some();
            (nodes, needs.run_input || checks_input)
        }
    }
}

type Values = (Vec<(StepRef, NodeResult)>, HashMap<Uuid, Payload>, HashMap<StepRef, Duration>);

impl Wanted {
    fn of(new: &[Held]) -> Self {
        let mut wanted = Self::default();
        for held in new.iter().filter(|held| held.live) {
            // the common case, a chain: everything is at hand, nothing is allocated
            let (nodes, input) = needs(held);
            let step = &held.step;
            for node in nodes {
                if !held.values.results.contains_key(&node) {
                    wanted.results.push(StepRef { run_id: step.run_id, frame: step.frame, node });
                }
            }
            if input && !held.input_at_hand {
                wanted.inputs.insert(step.run_id);
            }
            if step.failed > 0 && bounds_total(held) {
                wanted.first_attempts.push(StepRef { run_id: step.run_id, frame: step.frame, node: step.node });
            }
        }
        wanted
    }

    fn is_empty(&self) -> bool {
        self.results.is_empty() && self.inputs.is_empty() && self.first_attempts.is_empty()
    }

    async fn read(&self, shared: &Shared) -> Result<Values, sqlx::Error> {
        let mut session = shared.sender.access.session().await?;
        let inputs: Vec<Uuid> = self.inputs.iter().copied().collect();
        let results = results::of_steps(&mut session, &self.results).await?;
        let inputs = results::run_inputs(&mut session, &inputs).await?;
        let firsts = results::since_first_attempt(&mut session, &self.first_attempts).await?;
        Ok((results, inputs, firsts))
    }

    /// Read it all, again and again until Postgres answers. False when the worker gave up waiting.
    async fn fetch(self, shared: &Shared, new: &mut [Held]) -> bool {
        let read = shared.insist("read the values of steps", || self.read(shared));
        let Some((results, inputs, firsts)) = read.await else {
            return false;
        };
        let mut by_run: HashMap<Uuid, Vec<(StepRef, NodeResult)>> = HashMap::new();
        for (step, result) in results {
            by_run.entry(step.run_id).or_default().push((step, result));
        }
        let now = Instant::now();
        for held in new {
            let step = &held.step;
            for (of, result) in by_run.get(&step.run_id).into_iter().flatten() {
                if of.frame == step.frame {
                    held.values.results.insert(of.node, result.clone());
                }
            }
            if let Some(input) = inputs.get(&step.run_id) {
                held.values.run = Arc::new(RunFacts { input: input.clone(), ..(*held.values.run).clone() });
                held.input_at_hand = true;
            }
            let this = StepRef { run_id: step.run_id, frame: step.frame, node: step.node };
            held.since_first = firsts.get(&this).and_then(|since| now.checked_sub(*since));
        }
        true
    }
}

/// The node's retry policy bounds the time since its first attempt.
fn bounds_total(held: &Held) -> bool {
    matches!(held.version.graph.node(held.step.node).map(|node| &node.kind), Some(NodeKind::Task { retry, .. }) if retry.total.is_some())
}

fn decide(shared: &Shared, mut held: Held) -> Decided {
    if !held.live {
        // an attempt that would have run a handler counts like one that did
        let task = held.version.graph.node(held.step.node).is_some_and(|node| node.handler().is_some());
        if held.step.kind == StepKind::Run && task {
            held.metrics = held.version.metrics(&shared.metrics, held.step.node);
        }
        return Decided::Ended(held, Ending::Canceled);
    }
    if held.paused {
        return Decided::Ended(held, Ending::PutBack(NOT_NOW));
    }
    match decide_live(shared, &held) {
        Ok(Todo::End(ending)) => Decided::Ended(held, ending),
        Ok(Todo::Run(start)) => {
            held.slot = true;
            held.metrics = held.version.metrics(&shared.metrics, held.step.node);
            held.keep_needed_values();
            Decided::Start(held, start)
        }
        Err(error) => Decided::Ended(held, Ending::Failed { error, retry_after: None }),
    }
}

enum Todo {
    End(Ending),
    Run(Start),
}

fn decide_live(shared: &Shared, held: &Held) -> Result<Todo, StepError> {
    let HeldStep { kind, node, lost, .. } = held.step;
    let (graph, values) = (&held.version.graph, &held.values);
    let end = |ending| Ok(Todo::End(ending));
    match (kind, node) {
        (StepKind::Skip | StepKind::Rest, _) => return end(Ending::Told),
        (StepKind::Advance, _) => {
            return match values.results.get(&node) {
                Some(NodeResult::Completed(output)) => end(Ending::Advanced(output.clone())),
                _ => end(Ending::RunFailed(StepError::permanent(
                    longshore_core::error::LOST,
                    "the recorded output of this step is gone",
                ))),
            };
        }
        (_, START) => {
            return match graph.check_input(&values.run.input) {
                Ok(()) => end(Ending::Started),
                Err(error) => end(Ending::RunFailed(error)),
            };
        }
        (_, END) => {
            return match graph.run_output(values) {
                Ok(output) => end(Ending::RunCompleted(output)),
                Err(error) => end(Ending::RunFailed(error)),
            };
        }
        _ => {}
    }
    if lost >= MAX_LOST_ALONE {
        return Err(poisoned(lost));
    }
    let Some(definition) = graph.node(node) else {
        let text = format!("the version has no node {node}");
        return end(Ending::RunFailed(StepError::permanent(longshore_core::error::INPUT_INVALID, &text)));
    };
    // at every try: the first may have been lost before it came to this
    if graph.entries() == [node]
        && let Err(error) = graph.check_input(&values.run.input)
    {
        return end(Ending::RunFailed(error));
    }
    match &definition.kind {
        NodeKind::Task { handler, timeout, .. } => match shared.handlers.get(handler) {
            Some(known) => {
                let input = graph.input(node, values)?;
                Ok(Todo::Run(Start { input, timeout: *timeout, handler: known.clone() }))
            }
            None => end(Ending::PutBack(shared.unknown.put_back_after(handler))),
        },
        NodeKind::Set => end(Ending::Completed(graph.set_output(node, values, &graph.input(node, values)?)?)),
        NodeKind::Delay if kind == StepKind::Due => end(Ending::Completed(graph.input(node, values)?)),
        NodeKind::Delay => end(Ending::Delayed(match graph.delay(node, values)? {
            Delay::For(duration) => Due::After(duration),
            Delay::Until(at) => Due::At(at),
        })),
        NodeKind::Fail => Err(graph.failure(node, values)?),
        NodeKind::Terminate => end(Ending::Terminated(graph.termination(node, values)?)),
    }
}
