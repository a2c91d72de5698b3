//! Where a run goes on: from its own graph down into the blocks that did not end, or in which it is to begin anew. Pure: what is on record comes in as
//! [`Past`]; what is found out here becomes rows in `write`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use uuid::Uuid;

use super::Error;
use super::past::Past;
use super::place::{At, Place};
use crate::graph::{BodyNumber, END, Graph, NodeNumber, Values};
use crate::payload::Payload;
use crate::queue::StepKind;
use crate::successor::replay::{Standing, replay};
use crate::successor::{Arrival, Skip};

/// A step job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) frame: i32,
    pub(super) node: NodeNumber,
    pub(super) kind: StepKind,
    pub(super) attempt: i32,
}

/// A frame that is live again, or has completed after all.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Turn {
    pub(super) frame: i32,
    /// The attempt of its block that it stands for now, where it stands for one.
    pub(super) attempt: Option<i32>,
    pub(super) completed: bool,
    /// What it completed with, where that is new.
    pub(super) output: Option<Payload>,
}

/// Iterations of a block that began, or begin, together.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Chunk {
    pub(super) frame: i32,
    pub(super) chunk: i32,
    pub(super) first: Option<i32>,
    pub(super) count: i32,
    pub(super) items: Option<Payload>,
}

/// A step that waits again for the run which its last attempt had started, or for one that is made of that.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    pub(super) frame: i32,
    pub(super) node: NodeNumber,
    pub(super) attempt: i32,
    pub(super) run_id: Uuid,
    /// What the plan says before the child's own nodes.
    pub(super) prefix: String,
}

impl Call {
    /// The step job of the step, should it start another run instead.
    pub(super) fn job(&self) -> Job {
        Job { frame: self.frame, node: self.node, kind: StepKind::Run, attempt: self.attempt }
    }
}

/// What people are told of it: nodes and iterations by their places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) reused: Vec<String>,
    pub(super) skipped: Vec<String>,
    pub(super) ready: Vec<String>,
    pub(super) later: Vec<String>,
    pub(super) taken_up: Vec<String>,
    pub(super) whole: Vec<String>,
}

/// Where a run goes on.
#[derive(Debug, Default)]
pub(super) struct Course {
    /// Steps that are ready.
    pub(super) jobs: Vec<Job>,
    /// Steps that wait for runs.
    pub(super) calls: Vec<Call>,
    /// Joins that have begun to count, and their frames.
    pub(super) joins: Vec<(i32, Arrival)>,
    /// Nodes that do not run, and their frames.
    pub(super) skips: Vec<(i32, Skip)>,
    /// Frames that are live again.
    pub(super) turns: Vec<Turn>,
    /// Instances of blocks that count their iterations anew.
    pub(super) recount: Vec<i32>,
    pub(super) chunks: Vec<Chunk>,
    /// The time that blocks have from now on.
    pub(super) timeouts: Vec<(i32, Duration)>,
    /// Nodes of frames that go on whose records count.
    pub(super) ended: Vec<(i32, NodeNumber)>,
    /// Frames that stay as they are, with all within them.
    pub(super) kept: Vec<i32>,
    pub(super) told: Told,
}

/// How an instance of a graph goes on.
#[derive(Debug)]
pub(super) enum Stand {
    /// Something of it runs.
    GoesOn(Course),
    /// All of it has ended: it completes with this output.
    Complete(Course, Payload),
    /// Nothing of it would run, and it has not ended.
    Nothing,
}

/// Where within an instance of a graph it is to begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct From<'a> {
    within: &'a [At],
    node: Option<NodeNumber>,
    /// Within the run that this node waited for.
    child: bool,
}

impl<'a> From<'a> {
    pub(super) fn place(place: &'a Place) -> Self {
        Self { within: &place.within, node: place.node, child: place.child.is_some() }
    }

    /// The block in which it begins, that block's iteration, and the rest.
    pub(super) fn inner(self) -> Option<(At, From<'a>)> {
        let (first, within) = self.within.split_first()?;
        Some((*first, Self { within, ..self }))
    }

    /// It begins within the run that this node of this graph waited for.
    fn calls(self, node: NodeNumber) -> bool {
        self.child && self.within.is_empty() && self.node == Some(node)
    }

    /// The node from which on this graph is run anew; none: all of it is.
    pub(super) fn first(self) -> Option<NodeNumber> {
        self.within.first().map(|at| at.block).or(self.node)
    }
}

/// An instance of a graph.
#[derive(Clone, Copy, Debug)]
pub(super) struct Instance<'a> {
    /// Its frame; 0 for the run's own graph.
    pub(super) frame: i32,
    pub(super) body: BodyNumber,
    /// What is known around it.
    pub(super) values: &'a Values,
    /// What stands before the names of its nodes.
    pub(super) prefix: &'a str,
}

/// What the course is decided from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plotter<'a> {
    pub(super) graph: &'a Graph,
    pub(super) past: &'a Past,
    /// It is that of a new run: attempts are numbered from 1.
    pub(super) anew: bool,
}

impl Plotter<'_> {
    /// How an instance of a graph goes on. `from`: where it begins anew, without what was on record of that and of all after it.
    pub(super) fn body(&self, instance: Instance<'_>, from: Option<From<'_>>) -> Result<Stand, Error> {
        let Self { graph, past, .. } = *self;
        let Instance { frame, body, prefix, .. } = instance;
        let gone = from.map(|from| downstream(graph, body, from.first()));
        let kept = |node: NodeNumber| match &gone {
            Some(gone) => node >= 0 && !gone.contains(&node),
            None => true,
        };
        let mut values = instance.values.clone();
        values.results.retain(|node, _| *node >= 0);
        let mut then = BTreeMap::new();
        for (node, record) in past.records(frame).filter(|(node, _)| kept(*node)) {
            values.results.extend(record.result.clone().map(|result| (node, result)));
            then.extend(record.then.clone().map(|then| (node, then)));
        }
        let standing = replay(graph, body, &values, &then).map_err(Error::Replay)?;

        let mut course = Course::default();
        self.tell(&mut course.told, instance, &standing);
        let inner = from.and_then(From::inner);
        let mut taken_up = BTreeSet::new();
        for node in &standing.ready {
            let inner = inner.filter(|(at, _)| at.block == *node);
            let began = self.anew || past.record(frame, *node).is_some();
            let went_on = if began && (inner.is_some() || kept(*node)) {
                self.block(Instance { values: &values, ..instance }, *node, inner)?
            } else {
                None
            };
            match went_on {
                Some(within) => {
                    course.told.taken_up.push(format!("{prefix}{}", graph.id(*node)));
                    course.add(within);
                    taken_up.insert(*node);
                }
                None if inner.is_some() => {
                    let place = format!("{prefix}{}", graph.id(*node));
                    return Err(Error::Place { place, why: "it cannot be taken up where it stood".to_owned() });
                }
                None if from.is_some_and(|from| from.calls(*node)) => {
                    course.calls.push(self.call(instance, *node)?);
                }
                None => self.run(&mut course, instance, *node, kept(*node)),
            }
        }
        let in_child = from.and_then(|from| from.node).filter(|node| from.is_some_and(|from| from.calls(*node)));
        if inner.is_some_and(|(at, _)| !taken_up.contains(&at.block)) || in_child.is_some() && course.calls.is_empty() {
            return Err(Error::NothingToDo);
        }
        course.joins.extend(standing.joins.iter().map(|join| (frame, *join)));
        course.ended.extend(standing.ended.iter().map(|node| (frame, *node)));
        course.skips.extend(standing.skips.into_iter().map(|skip| (frame, skip)));
        if standing.done {
            let output = graph.body_output(body, &values).map_err(Error::Replay)?;
            return Ok(Stand::Complete(course, output));
        }
        Ok(if course.runs_nothing() { Stand::Nothing } else { Stand::GoesOn(course) })
    }

    /// A node whose child run is to begin anew.
    fn call(&self, Instance { frame, prefix, .. }: Instance<'_>, node: NodeNumber) -> Result<Call, Error> {
        let prefix = format!("{prefix}{}/", self.graph.id(node));
        let missing =
            || Error::Place { place: prefix.clone(), why: "no run that this step waited for is on record".to_owned() };
        let run_id = self.past.child(frame, node).ok_or_else(missing)?.run_id;
        Ok(Call { frame, node, attempt: 1, run_id, prefix })
    }

    /// A node is to run, as a whole if it is a block.
    fn run(&self, course: &mut Course, Instance { frame, prefix, .. }: Instance<'_>, node: NodeNumber, kept: bool) {
        let Self { graph, past, .. } = *self;
        let name = format!("{prefix}{}", graph.id(node));
        let last = past.record(frame, node).map_or(0, |record| record.attempt);
        let attempt = self.attempt(frame, node);
        let child = past.child(frame, node).filter(|child| !self.anew && child.ended_without_success);
        let child = child.filter(|child| child.attempt == last);
        let of_child = graph.node(node).is_some_and(|node| node.subflow().is_some());
        if let Some(child) = child.filter(|_| of_child) {
            let prefix = format!("{name}/");
            course.calls.push(Call { frame, node, attempt, run_id: child.run_id, prefix });
            return;
        }
        if kept && graph.node(node).is_some_and(|node| node.block().is_some()) && past.whole(frame, node).is_some() {
            course.told.whole.push(name.clone());
        }
        course.jobs.push(Job { frame, node, kind: StepKind::Run, attempt });
        if node >= 0 {
            course.told.ready.push(name);
        }
    }

    /// The number of a node's next attempt.
    pub(super) fn attempt(&self, frame: i32, node: NodeNumber) -> i32 {
        let last = self.past.record(frame, node).filter(|_| !self.anew);
        last.map_or(1, |record| record.attempt.saturating_add(1))
    }

    fn tell(&self, told: &mut Told, Instance { body, prefix, .. }: Instance<'_>, standing: &Standing) {
        let graph = self.graph;
        let name = |node: NodeNumber| format!("{prefix}{}", graph.id(node));
        let skipped: BTreeSet<NodeNumber> = standing.skips.iter().map(|skip| skip.node).collect();
        told.reused.extend(standing.ended.iter().filter(|node| **node >= 0).map(|node| name(*node)));
        told.skipped.extend(skipped.iter().map(|node| name(*node)));
        let decided = |node: NodeNumber| {
            standing.ended.contains(&node) || standing.ready.contains(&node) || skipped.contains(&node)
        };
        let own = graph.nodes().iter().filter(|node| node.body == body && !decided(node.number));
        told.later.extend(own.map(|node| name(node.number)));
    }
}

/// The node and all that comes after it in its body; all of the body if it is none.
pub(super) fn downstream(graph: &Graph, body: BodyNumber, from: Option<NodeNumber>) -> BTreeSet<NodeNumber> {
    let Some(from) = from else {
        return graph.nodes().iter().filter(|node| node.body == body).map(|node| node.number).collect();
    };
    let (mut open, mut found) = (vec![from], BTreeSet::from([END]));
    while let Some(node) = open.pop() {
        if found.insert(node) {
            open.extend(graph.edges().iter().filter(|edge| edge.from == node).map(|edge| edge.to));
        }
    }
    found
}

impl Course {
    /// All of another as well.
    pub(super) fn add(&mut self, other: Self) {
        self.jobs.extend(other.jobs);
        self.calls.extend(other.calls);
        self.joins.extend(other.joins);
        self.skips.extend(other.skips);
        self.turns.extend(other.turns);
        self.recount.extend(other.recount);
        self.chunks.extend(other.chunks);
        self.timeouts.extend(other.timeouts);
        self.ended.extend(other.ended);
        self.kept.extend(other.kept);
        self.told.add(other.told);
    }

    /// Whether it would leave what it is of without anything to do.
    pub(super) fn runs_nothing(&self) -> bool {
        self.jobs.is_empty() && self.calls.is_empty()
    }
}

impl Told {
    pub(super) fn add(&mut self, other: Self) {
        self.reused.extend(other.reused);
        self.skipped.extend(other.skipped);
        self.ready.extend(other.ready);
        self.later.extend(other.later);
        self.taken_up.extend(other.taken_up);
        self.whole.extend(other.whole);
    }
}
