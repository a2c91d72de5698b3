//! From a step that came into the lane to what there is to do with it: read the values it needs that the lane does not have (one statement for all),
//! decide engine steps on the spot, and lay out tasks for their handlers.

mod block;
mod retry;
mod subflow;
mod wait;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use longshore_core::attempt::{Ending, poisoned};
use longshore_core::context;
use longshore_core::cycle::Due;
use longshore_core::error::StepError;
use longshore_core::frame::Child;
use longshore_core::graph::{
    BlockKind, Delay, END, NEXT, Needs, Node, NodeKind, NodeNumber, NodeResult, RunFacts, START,
};
use longshore_core::mock;
use longshore_core::payload::Payload;
use longshore_core::queue::{HeldStep, MAX_LOST_ALONE, StepKind};
use longshore_core::results::{self, FrameRef, Instance, StepRef};
use uuid::Uuid;

use crate::context::Changes;
use crate::execute::{Execution, Token};
use crate::handler::ErasedHandler;
use crate::lane::Held;
use crate::shared::Shared;
use crate::step::{Step, StepFacts};
use crate::transaction::LaneLink;
pub(crate) use wait::Heard;

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
            parent: held.values.run.parent,
            workflow: held.version.workflow.clone(),
            node: node.map_or_else(|| "".into(), |node| node.id.clone()),
            attempt: held.step.attempt,
            frame: held.step.frame,
            deadline: tokio::time::Instant::now() + start.timeout,
            cancellation: held.cancellation.clone(),
            link: Some(link),
            changes: held.version.graph.context().map(|_| Changes::default()),
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
    // stopped while Postgres could not be read: what is held is reclaimed when the lease is over
    if !block::read_frames(shared, &mut new).await {
        return Vec::new();
    }
    let wanted = Wanted::of(&new);
    if !wanted.is_empty() && !wanted.fetch(shared, &mut new).await {
        return Vec::new();
    }
    if !retry::read_past(shared, &mut new).await {
        return Vec::new();
    }
    if !wait::listen(shared, &mut new).await || !subflow::look(shared, &mut new).await {
        return Vec::new();
    }
    let mut decided: Vec<_> = new.into_iter().map(|held| decide(shared, held)).collect();
    if !block::number_frames(shared, &mut decided).await {
        return Vec::new();
    }
    decided
}

/// Where among these the steps are that are chosen and may act: nothing is read for one of a run that has ended or is paused.
fn places(new: &[Held], chosen: impl Fn(&Held) -> bool) -> Vec<usize> {
    let acting = |held: &Held| held.live && !held.paused && chosen(held);
    new.iter().enumerate().filter(|(_, held)| acting(held)).map(|(place, _)| place).collect()
}

/// The runs of the steps at these places, each once.
fn runs_of(new: &[Held], places: &[usize]) -> Vec<Uuid> {
    let runs: BTreeSet<Uuid> = places.iter().filter_map(|place| Some(new.get(*place)?.step.run_id)).collect();
    runs.into_iter().collect()
}

/// What must be read before the steps can go on.
#[derive(Default)]
struct Wanted {
    results: Vec<StepRef>,
    inputs: BTreeSet<Uuid>,
    contexts: BTreeSet<Uuid>,
    /// Of which steps, by their place, and what.
    instances: Vec<(usize, (FrameRef, bool))>,
    iterations: Vec<(usize, FrameRef)>,
    items: Vec<(Uuid, i32, i32)>,
}

/// What the step needs of its run.
fn needs(held: &Held) -> Needs {
    let graph = &held.version.graph;
    let step = &held.step;
    let of_node = |node: NodeNumber| graph.node(node).map_or(&NOTHING, |node| node.needs());
    let needs = match (step.kind, step.node) {
        (StepKind::Skip | StepKind::Rest, _) => &NOTHING,
        (_, START) => return Needs { run_input: graph.input_schema_value().is_some(), ..Needs::default() },
        (_, END) => held.body().map_or(&NOTHING, |body| body.end_needs()),
        (_, NEXT) => of_node(held.values.frames.last().map_or(START, |frame| frame.block)),
        _ => of_node(wait::node_in_question(held)),
    };
    let mut needs = needs.clone();
    if step.kind == StepKind::Advance && graph.node(step.node).is_some_and(|node| node.block().is_none()) {
        needs.nodes.push(step.node);
    }
    needs.run_input |= graph.entries() == [step.node] && graph.input_schema_value().is_some();
    needs
}

static NOTHING: Needs = Needs { run_input: false, run_context: false, nodes: Vec::new() };

/// What was read.
struct Read {
    results: Vec<(StepRef, NodeResult)>,
    inputs: HashMap<Uuid, Payload>,
    contexts: HashMap<Uuid, Payload>,
    instances: Vec<Vec<Instance>>,
    iterations: Vec<Vec<Child>>,
    items: HashMap<(Uuid, i32, i32), Payload>,
}

impl Wanted {
    fn of(new: &[Held]) -> Self {
        let mut wanted = Self::default();
        for (place, held) in new.iter().enumerate().filter(|(_, held)| held.live) {
            // the common case, a chain: everything is at hand, nothing is allocated
            let needs = needs(held);
            let step = &held.step;
            for node in needs.nodes {
                if !held.values.results.contains_key(&node)
                    && let Some(frame) = held.version.graph.frame_of(node, &held.values.frames)
                {
                    wanted.results.push(StepRef { run_id: step.run_id, frame, node });
                }
            }
            if needs.run_input && !held.input_at_hand {
                wanted.inputs.insert(step.run_id);
            }
            if needs.run_context {
                wanted.contexts.insert(step.run_id);
            }
            wanted.instances.extend(block::instances(held).into_iter().map(|instance| (place, instance)));
            wanted.iterations.extend(block::iterations(held).map(|whole| (place, whole)));
            wanted.items.extend(block::items(held));
        }
        wanted
    }

    fn is_empty(&self) -> bool {
        self.results.is_empty()
            && self.inputs.is_empty()
            && self.contexts.is_empty()
            && self.instances.is_empty()
            && self.iterations.is_empty()
            && self.items.is_empty()
    }

    async fn read(&self, shared: &Shared) -> Result<Read, sqlx::Error> {
        let mut session = shared.sender.access.session().await?;
        let inputs: Vec<Uuid> = self.inputs.iter().copied().collect();
        let contexts: Vec<Uuid> = self.contexts.iter().copied().collect();
        let instances: Vec<_> = self.instances.iter().map(|(_, instance)| *instance).collect();
        let wholes: Vec<_> = self.iterations.iter().map(|(_, whole)| *whole).collect();
        Ok(Read {
            results: results::of_steps(&mut session, &self.results).await?,
            inputs: results::run_inputs(&mut session, &inputs).await?,
            contexts: context::of_runs(&mut session, &contexts).await?,
            instances: results::instances(&mut session, &instances).await?,
            iterations: results::iterations(&mut session, &wholes).await?,
            items: results::chunks(&mut session, &self.items).await?,
        })
    }

    /// Read it all, again and again until Postgres answers. False when the worker gave up waiting.
    async fn fetch(self, shared: &Shared, new: &mut [Held]) -> bool {
        let read = shared.insist("read the values of steps", || self.read(shared));
        let Some(Read { results, inputs, contexts, instances, iterations, items }) = read.await else {
            return false;
        };
        let mut by_run: HashMap<Uuid, Vec<(StepRef, NodeResult)>> = HashMap::new();
        for (step, result) in results {
            by_run.entry(step.run_id).or_default().push((step, result));
        }
        for ((place, _), instances) in self.instances.iter().zip(instances) {
            if let Some(held) = new.get_mut(*place) {
                held.instances.extend(instances);
            }
        }
        for ((place, _), iterations) in self.iterations.iter().zip(iterations) {
            if let Some(held) = new.get_mut(*place) {
                held.iterations = iterations;
            }
        }
        for held in new {
            let step = &held.step;
            for (of, result) in by_run.get(&step.run_id).into_iter().flatten() {
                if held.version.graph.frame_of(of.node, &held.values.frames) == Some(of.frame) {
                    held.values.results.insert(of.node, result.clone());
                }
            }
            if let Some(input) = inputs.get(&step.run_id) {
                held.values.run = Arc::new(RunFacts { input: input.clone(), ..(*held.values.run).clone() });
                held.input_at_hand = true;
            }
            if self.contexts.contains(&step.run_id) {
                held.values.context = contexts.get(&step.run_id).or_else(|| held.version.graph.context()).cloned();
            }
            held.items = items.get(&(step.run_id, step.frame, step.attempt)).cloned();
        }
        true
    }
}

fn decide(shared: &Shared, mut held: Held) -> Decided {
    // whether or not the handler runs: what becomes of the attempt may change until its cycle, and every record of one counts
    let task = held.version.graph.node(held.step.node).is_some_and(|node| node.handler().is_some());
    if held.step.kind == StepKind::Run && task && held.values.run.mocks.is_none() {
        held.metrics = held.version.metrics(&shared.metrics, held.step.node);
    }
    if !held.live {
        return Decided::Ended(held, Ending::Canceled);
    }
    if held.paused {
        return Decided::Ended(held, Ending::Parked);
    }
    if let Some(ending) = wait::decide(&mut held).or_else(|| subflow::decide(&held)) {
        return Decided::Ended(held, ending);
    }
    match decide_live(shared, &mut held) {
        Ok(Todo::End(ending)) => Decided::Ended(held, ending),
        Ok(Todo::Run(start)) => {
            held.slot = true;
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

fn decide_live(shared: &Shared, held: &mut Held) -> Result<Todo, StepError> {
    let HeldStep { kind, node, lost, .. } = held.step;
    let (graph, values) = (&held.version.graph, &held.values);
    let end = |ending| Ok(Todo::End(ending));
    if let Some(ending) = block::decide(held) {
        return end(ending?);
    }
    match (kind, node) {
        (StepKind::Skip | StepKind::Rest, _) => return end(Ending::Told),
        (StepKind::Advance, _) => {
            return match values.results.get(&node) {
                Some(NodeResult::Completed(output)) => end(Ending::Advanced(output.clone())),
                _ => end(Ending::BodyFailed(StepError::permanent(
                    longshore_core::error::LOST,
                    "the recorded output of this step is gone",
                ))),
            };
        }
        (_, START) => {
            return match graph.check_input(&values.run.input) {
                Ok(()) => end(Ending::Started),
                Err(error) => end(Ending::BodyFailed(error)),
            };
        }
        (_, END) => {
            let body = graph.body_within(&values.frames).unwrap_or(0);
            return match graph.body_output(body, values) {
                Ok(output) => end(Ending::BodyCompleted(output)),
                Err(error) => end(Ending::BodyFailed(error)),
            };
        }
        _ => {}
    }
    if lost >= MAX_LOST_ALONE {
        return Err(poisoned(lost));
    }
    let Some(definition) = graph.node(node) else {
        let text = format!("the version has no node {node}");
        return end(Ending::BodyFailed(StepError::permanent(longshore_core::error::INPUT_INVALID, &text)));
    };
    // at every try: the first may have been lost before it came to this
    if graph.entries() == [node]
        && let Err(error) = graph.check_input(&values.run.input)
    {
        return end(Ending::BodyFailed(error));
    }
    if let Some(result) = mocked(held, definition) {
        return end(Ending::Completed(result?));
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
        NodeKind::Context => {
            let input = graph.input(node, values)?;
            let changes = graph.changes(node, values, &input)?;
            held.changes = changes;
            end(Ending::Completed(input))
        }
        NodeKind::Wait(_) => end(Ending::Announced(graph.announcement(node, values)?)),
        NodeKind::Subflow(subflow) => end(subflow::call(held, subflow)?),
        NodeKind::Fail => Err(graph.failure(node, values)?),
        NodeKind::Terminate => end(Ending::Terminated(graph.termination(node, values)?)),
        NodeKind::Block(_) => end(block::begin(held)?),
    }
}

/// What a node is answered in test mode, where a mock stands for it; one of a handler is not answered otherwise.
fn mocked(held: &Held, node: &Node) -> Option<Result<Payload, StepError>> {
    let (graph, values) = (&held.version.graph, &held.values);
    let mocks = values.run.mocks.as_ref()?;
    let handler = node.handler().map(|handler| &**handler);
    let from_outside = match &node.kind {
        NodeKind::Task { .. } | NodeKind::Subflow(_) | NodeKind::Wait(_) => true,
        NodeKind::Block(block) => matches!(block.kind, BlockKind::Reminded),
        _ => false,
    };
    if !from_outside {
        return None;
    }
    match mocks.of(&held.version.workflow, &node.id, handler) {
        Some(answers) => {
            let input = graph.input(node.number, values);
            Some(input.and_then(|input| mock::answer(answers, held.step.attempt, &input)))
        }
        None => handler.map(|handler| {
            let text =
                format!("the run is in test mode, and nothing stands for node `{}` or handler `{handler}`", node.id);
            Err(StepError::permanent(mock::MOCK_MISSING, &text))
        }),
    }
}
