//! What a run has on record: its frames, and how the nodes of those ended that may go on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use sqlx::Row;
use uuid::Uuid;

use super::Error;
use super::place::At;
use crate::error::StepError;
use crate::graph::{Bounds, FrameFacts, Node, NodeNumber, NodeResult, RunFacts};
use crate::payload::Payload;
use crate::queue::SHARD;
use crate::session::Session;
use crate::state::{Outcome, RunState};
use crate::successor::replay::Then;
use crate::workflow::LoadedVersion;

/// How a node ended, and how often it was tried.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) attempt: i32,
    pub(super) result: Option<NodeResult>,
    /// By what it was decided what follows the node, where that is decided by anything.
    pub(super) then: Option<Then>,
}

/// An instance of a block, or of a body, as it stands in the tables.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) facts: FrameFacts,
    pub(super) completed: bool,
    pub(super) failed: bool,
    /// Why it failed, where it may go on.
    pub(super) error: Option<StepError>,
    pub(super) path: Vec<i32>,
}

/// A run that a step waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Child {
    pub(super) run_id: Uuid,
    /// The attempt that started it.
    pub(super) attempt: i32,
    pub(super) ended_without_success: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Past {
    frames: BTreeMap<i32, Frame>,
    /// The bodies of each block's instance by iteration, the newest of each.
    bodies: HashMap<i32, BTreeMap<i32, i32>>,
    /// The newest instance of each block.
    wholes: HashMap<(i32, NodeNumber), i32>,
    records: HashMap<i32, BTreeMap<NodeNumber, Record>>,
    children: HashMap<(i32, NodeNumber), Child>,
}

impl Past {
    /// Read it. `to`: the frames in question, besides those that did not complete.
    pub(super) async fn read(session: &mut Session<'_>, run_id: Uuid, to: &[At]) -> Result<Self, Error> {
        let mut past = Self::default();
        let rows = sqlx::query(include_str!("../../sql/rerun/frames.sql")).bind(SHARD).bind(run_id);
        for row in rows.fetch_all(&mut *session).await? {
            let bounds: Option<&str> = row.try_get("bounds")?;
            let bounds: Option<Bounds> =
                bounds.map(serde_json::from_str).transpose().map_err(|error| sqlx::Error::Decode(error.into()))?;
            let state: i16 = row.try_get("state")?;
            let facts = FrameFacts {
                frame: row.try_get("frame")?,
                parent: row.try_get("parent")?,
                block: row.try_get("node")?,
                attempt: row.try_get("attempt")?,
                iteration: row.try_get("iteration")?,
                whole: row.try_get("whole")?,
                failed: 0,
                bounds,
                input: Payload::null(),
                before: Vec::new(),
                live: true,
                finally: row.try_get("finally")?,
                created_at: None,
            };
            past.add(facts, state, row.try_get("path")?);
        }
        past.read_open(session, run_id, to).await?;
        let children: Vec<(Uuid, i32, NodeNumber, i32, i16)> =
            sqlx::query_as(include_str!("../../sql/rerun/children.sql"))
                .bind(SHARD)
                .bind(run_id)
                .fetch_all(&mut *session)
                .await?;
        for (run_id, frame, node, attempt, state) in children {
            let ended_without_success = matches!(RunState::from_code(state), Ok(RunState::Failed | RunState::Canceled));
            past.children.insert((frame, node), Child { run_id, attempt, ended_without_success });
        }
        Ok(past)
    }

    fn add(&mut self, facts: FrameFacts, state: i16, path: Vec<i32>) {
        let (frame, parent) = (facts.frame, facts.parent);
        if facts.whole {
            self.wholes.insert((parent, facts.block), frame);
        } else {
            self.bodies.entry(parent).or_default().insert(facts.iteration, frame);
        }
        let completed = state == RunState::Completed.code();
        let failed = state == RunState::Failed.code();
        self.frames.insert(frame, Frame { facts, completed, failed, error: None, path });
    }

    /// What the frames were given that may go on, and how their nodes ended.
    async fn read_open(&mut self, session: &mut Session<'_>, run_id: Uuid, to: &[At]) -> Result<(), Error> {
        let open = self.frames.values().filter(|frame| !frame.completed).map(|frame| frame.facts.frame);
        let mut open: BTreeSet<i32> = open.chain([0]).collect();
        let mut around = 0;
        for at in to {
            let Some(whole) = self.whole(around, at.block).map(|whole| whole.facts.frame) else { break };
            around = self.body(whole, at.iteration).map_or(whole, |body| body.facts.frame);
            open.extend([whole, around]);
        }
        let open: Vec<i32> = open.into_iter().collect();
        let rows = sqlx::query(include_str!("../../sql/rerun/inputs.sql")).bind(SHARD).bind(run_id).bind(&open);
        for row in rows.fetch_all(&mut *session).await? {
            let (input, error): (Option<&str>, Option<&str>) = (row.try_get("input")?, row.try_get("error")?);
            if let Some(frame) = self.frames.get_mut(&row.try_get("frame")?) {
                frame.facts.input = input.map_or_else(Payload::null, |text| Payload::trusted(text.into()));
                frame.error = error.map(|text| StepError::from_payload(&Payload::trusted(text.into())));
            }
        }
        type Row = (i32, NodeNumber, i32, i16, Option<String>, Option<String>);
        let rows: Vec<Row> = sqlx::query_as(include_str!("../../sql/rerun/records.sql"))
            .bind(SHARD)
            .bind(run_id)
            .bind(&open)
            .fetch_all(&mut *session)
            .await?;
        for (frame, node, attempt, outcome, output, error) in rows {
            let result = match Outcome::from_code(outcome) {
                Ok(Outcome::Completed) => output.map(|output| NodeResult::Completed(Payload::trusted(output.into()))),
                // one that was lost is tried again, unless it is given up, which is another record
                Ok(Outcome::Failed) => error.map(|error| NodeResult::Failed(Payload::trusted(error.into()))),
                _ => None,
            };
            self.records.entry(frame).or_default().insert(node, Record { attempt, result, then: None });
        }
        Ok(())
    }

    /// Read by what it was decided what follows these nodes: the context may be another now, and a new run has a key and an input of its own.
    pub(super) async fn read_then(
        &mut self,
        session: &mut Session<'_>,
        run_id: Uuid,
        version: &LoadedVersion,
    ) -> Result<(), Error> {
        let graph = &version.graph;
        let conditional: BTreeSet<NodeNumber> =
            graph.edges().iter().filter(|edge| edge.when().is_some()).map(|edge| edge.from).collect();
        let reads = |node: NodeNumber| {
            let decides = |node: &&Node| conditional.contains(&node.number) || node.needs().run_context;
            graph.node(node).filter(decides)
        };
        let (mut frames, mut ids, mut decided) = (Vec::new(), Vec::new(), Vec::new());
        for (frame, records) in &mut self.records {
            for (node, record) in records.iter_mut().filter_map(|(node, record)| Some((reads(*node)?, record))) {
                frames.push(*frame);
                ids.push(&*node.id);
                decided.push(record);
            }
        }
        if decided.is_empty() {
            return Ok(());
        }
        let rows = sqlx::query(include_str!("../../sql/rerun/decided.sql")).bind(SHARD).bind(run_id);
        for row in rows.bind(frames).bind(ids).fetch_all(&mut *session).await? {
            let payload = |column: &str| row.try_get(column).map(|text: &str| Payload::trusted(text.into()));
            let facts = RunFacts {
                run_id: row.try_get("run_id")?,
                workflow: version.workflow.clone(),
                version: row.try_get("version")?,
                key: row.try_get("key")?,
                parent: row.try_get("parent")?,
                input: payload("input")?,
                mocks: None,
            };
            let context = graph.context().map(|_| payload("context")).transpose()?;
            let then = Then { run: Arc::new(facts), context };
            for place in row.try_get::<Vec<i64>, _>("places")? {
                let record = usize::try_from(place - 1).ok().and_then(|place| decided.get_mut(place));
                record.into_iter().for_each(|record| record.then = Some(then.clone()));
            }
        }
        Ok(())
    }

    /// The same for a version that numbers its nodes otherwise: of the run's own graph only, where every block is one node.
    pub(super) fn renumbered(&self, new: impl Fn(NodeNumber) -> Option<NodeNumber>) -> Self {
        let own = self.records(0).filter(|(node, _)| *node >= 0);
        let own = own.filter_map(|(node, record)| Some((new(node)?, record.clone()))).collect();
        Self { records: HashMap::from([(0, own)]), ..Self::default() }
    }

    /// How the nodes of a frame ended.
    pub(super) fn records(&self, frame: i32) -> impl Iterator<Item = (NodeNumber, &Record)> {
        self.records.get(&frame).into_iter().flatten().map(|(node, record)| (*node, record))
    }

    /// How a node ended.
    pub(super) fn record(&self, frame: i32, node: NodeNumber) -> Option<&Record> {
        self.records.get(&frame)?.get(&node)
    }

    /// The newest instance of a block.
    pub(super) fn whole(&self, frame: i32, block: NodeNumber) -> Option<&Frame> {
        self.wholes.get(&(frame, block)).and_then(|whole| self.frames.get(whole))
    }

    /// The bodies of a block's instance, in the order of their iterations.
    pub(super) fn bodies(&self, whole: i32) -> Vec<&Frame> {
        let bodies = self.bodies.get(&whole).into_iter().flatten();
        bodies.filter_map(|(_, frame)| self.frames.get(frame)).collect()
    }

    /// The newest body of a block's instance for an iteration.
    pub(super) fn body(&self, whole: i32, iteration: i32) -> Option<&Frame> {
        self.frames.get(self.bodies.get(&whole)?.get(&iteration)?)
    }

    /// A frame.
    pub(super) fn frame(&self, frame: i32) -> Option<&Frame> {
        self.frames.get(&frame)
    }

    /// The newest instances of a block, wherever it stands.
    pub(super) fn wholes_of(&self, block: NodeNumber) -> impl Iterator<Item = i32> {
        self.wholes.iter().filter(move |((_, of), _)| *of == block).map(|(_, frame)| *frame)
    }

    /// The run that the last attempt of a step waited for, of those that waited for one.
    pub(super) fn child(&self, frame: i32, node: NodeNumber) -> Option<Child> {
        self.children.get(&(frame, node)).copied()
    }

    /// These frames and all within them.
    pub(super) fn with_all_within(&self, kept: &BTreeSet<i32>) -> Vec<i32> {
        let within =
            |frame: &&Frame| kept.contains(&frame.facts.frame) || frame.path.iter().any(|around| kept.contains(around));
        self.frames.values().filter(within).map(|frame| frame.facts.frame).collect()
    }

    /// The frames around a frame and itself, the outermost first.
    pub(super) fn chain(&self, frame: i32) -> impl Iterator<Item = &Frame> {
        let around = self.frames.get(&frame).map_or(&[][..], |frame| &frame.path);
        around.iter().copied().chain([frame]).filter_map(|frame| self.frames.get(&frame))
    }
}
