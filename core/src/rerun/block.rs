//! Going on within a block: which of its bodies stay as they are, which go on where they stood, and what the block counts then. A block is taken up where
//! what is on record says all of it; else it is run again as a whole, in new frames: a `try` whose catch or `finally` had begun, a block that failed although
//! nothing in it did, an approval with reminders, a `foreach` with items left to begin that come from the run's context, which may be another now.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Error;
use super::course::{Chunk, Course, From, Instance, Job, Plotter, Stand, Turn};
use super::past::Frame;
use super::place::{At, named, ranges};
use crate::graph::{Block, BlockKind, Bounds, END, FrameFacts, NEXT, Node, NodeNumber, OPEN, Values};
use crate::payload::Payload;
use crate::queue::StepKind;
use crate::successor::Arrival;

/// A block that is taken up.
#[derive(Clone, Copy)]
struct Taken<'a> {
    node: &'a Node,
    block: &'a Block,
    whole: &'a Frame,
    /// What is known in the block's own frame.
    values: &'a Values,
    prefix: &'a str,
    /// Where in it to begin anew.
    from: Option<(At, From<'a>)>,
}

/// An iteration that begins later: with new frames, whatever it did before.
struct Later {
    iteration: i32,
    item: Option<Payload>,
}

impl Plotter<'_> {
    /// How a block goes on within; none: it cannot be taken up.
    pub(super) fn block(
        &self,
        instance: Instance<'_>,
        number: NodeNumber,
        from: Option<(At, From<'_>)>,
    ) -> Result<Option<Course>, Error> {
        let Instance { frame, values, prefix, .. } = instance;
        let Some(node) = self.graph.node(number) else { return Ok(None) };
        let (Some(block), Some(whole)) = (node.block(), self.past.whole(frame, number)) else { return Ok(None) };
        // an attempt of the block that failed before it had frames
        if self.past.record(frame, number).is_some_and(|record| record.attempt > whole.facts.attempt) && from.is_none()
        {
            return Ok(None);
        }
        let taken = Taken { node, block, whole, values, prefix, from };
        if whole.completed && from.is_none() {
            let mut course = Course::default();
            course.kept.push(whole.facts.frame);
            course.turns.push(self.turn(taken, true));
            course.jobs.push(block_ends(whole));
            return Ok(Some(course));
        }
        let course = match &block.kind {
            BlockKind::If { .. } | BlockKind::Switch { .. } => self.one_body(taken)?,
            BlockKind::While { .. } | BlockKind::Try { .. } => self.one_after_another(taken)?,
            BlockKind::Parallel { .. } | BlockKind::Foreach { .. } => self.at_once(taken)?,
            // who is asked again is reminded again, from the beginning
            BlockKind::Reminded if from.is_none() => None,
            BlockKind::Reminded => {
                let why = format!("{} is an approval: begin with it", node.id);
                return Err(Error::Place { place: self.place(taken), why });
            }
        };
        let Some(mut course) = course.filter(|course| !course.runs_nothing()) else { return Ok(None) };
        if course.turns.iter().any(|turn| turn.frame == whole.facts.frame && !turn.completed) {
            course.timeouts.extend(block.timeout.map(|timeout| (whole.facts.frame, timeout)));
        }
        Ok(Some(course))
    }

    /// The instance of the block stands for its next attempt.
    fn turn(&self, taken: Taken<'_>, completed: bool) -> Turn {
        let FrameFacts { frame, parent, block, .. } = taken.whole.facts;
        Turn { frame, attempt: Some(self.attempt(parent, block)), completed, output: None }
    }

    /// A body of the block goes on.
    fn within(&self, taken: Taken<'_>, body: &Frame, from: Option<From<'_>>) -> Result<Stand, Error> {
        let Taken { node, values, prefix, .. } = taken;
        let mut frames: Vec<FrameFacts> = values.frames.to_vec();
        if body.facts.frame != taken.whole.facts.frame {
            frames.push(taken.whole.facts.clone());
        }
        frames.push(body.facts.clone());
        let values = Values { frames: frames.into(), ..values.clone() };
        let prefix = format!("{prefix}{}/", named(self.graph, node.number, body.facts.iteration));
        let Some(number) = self.graph.body_of(&body.facts) else { return Ok(Stand::Nothing) };
        let frame = body.facts.frame;
        match self.body(Instance { frame, body: number, values: &values, prefix: &prefix }, from) {
            // it cannot be gone through again, so it is begun again
            Err(Error::Replay(_)) if from.is_none() => Ok(Stand::Nothing),
            stand => stand,
        }
    }

    /// An `if` or a `switch`, whose one frame is both.
    fn one_body(&self, taken: Taken<'_>) -> Result<Option<Course>, Error> {
        let facts = &taken.whole.facts;
        if taken.from.is_some_and(|(at, _)| at.iteration != facts.iteration) {
            return Err(not_begun(self, taken));
        }
        Ok(match self.within(taken, taken.whole, taken.from.map(|(_, from)| from))? {
            Stand::GoesOn(mut course) => {
                course.turns.push(self.turn(taken, false));
                Some(course)
            }
            Stand::Complete(mut course, output) => {
                course.turns.push(Turn { output: Some(output), ..self.turn(taken, true) });
                course.jobs.push(block_ends(taken.whole));
                Some(course)
            }
            Stand::Nothing => None,
        })
    }

    /// A `while` or a `try`: its last body goes on, or the one in question, and those before stay.
    fn one_after_another(&self, taken: Taken<'_>) -> Result<Option<Course>, Error> {
        let bodies = self.past.bodies(taken.whole.facts.frame);
        let last = match taken.from {
            Some((at, _)) => {
                let found = bodies.iter().position(|body| body.facts.iteration == at.iteration);
                found.ok_or_else(|| not_begun(self, taken))?
            }
            None => bodies.len().saturating_sub(1),
        };
        let Some((body, before)) = bodies.get(..=last).and_then(<[_]>::split_last) else { return Ok(None) };
        let mut course = Course::default();
        let next =
            Job { frame: taken.whole.facts.frame, node: NEXT, kind: StepKind::Advance, attempt: body.facts.frame };
        let caught = |body: &Frame| body.error.as_ref().is_some_and(|error| self.graph.catches(taken.block, error));
        let tries = matches!(taken.block.kind, BlockKind::Try { .. });
        let ended = body.completed || tries && body.failed && caught(body);
        if taken.from.is_none() && (tries && body.facts.iteration > 0 || ended && taken.whole.failed) {
            return Ok(None);
        }
        if taken.from.is_none() && ended {
            // what follows was not said any more
            course.kept.push(body.facts.frame);
            course.jobs.push(next);
        }
        self.keep(&mut course, taken, before);
        if course.jobs.is_empty() {
            match self.within(taken, body, taken.from.map(|(_, from)| from))? {
                Stand::GoesOn(within) => {
                    course.add(within);
                    course.turns.push(live(body));
                }
                Stand::Complete(within, output) => {
                    course.add(within);
                    course.turns.push(Turn { completed: true, output: Some(output), ..live(body) });
                    course.jobs.push(next);
                }
                Stand::Nothing => return Ok(None),
            }
        }
        course.turns.push(self.turn(taken, false));
        Ok(Some(course))
    }

    /// Bodies that stay as they are.
    fn keep(&self, course: &mut Course, taken: Taken<'_>, bodies: &[&Frame]) {
        course.kept.extend(bodies.iter().map(|body| body.facts.frame));
        let iterations: Vec<i32> = bodies.iter().map(|body| body.facts.iteration).collect();
        let names = ranges(self.graph, taken.node.number, &iterations);
        course.told.reused.extend(names.into_iter().map(|name| format!("{}{name}", taken.prefix)));
    }

    /// A `parallel` or a `foreach`: the iterations that completed stay, and as many of the others go on as may at a time. What is left begins when there is
    /// room, the iterations that had begun in new frames.
    fn at_once(&self, taken: Taken<'_>) -> Result<Option<Course>, Error> {
        let whole = &taken.whole.facts;
        let Some(bounds) = whole.bounds else { return Ok(None) };
        if taken.from.is_some() && bounds.need > 0 {
            let why = format!("{} ends with some of its branches, so one of them alone is not run anew", taken.node.id);
            return Err(Error::Place { place: self.place(taken), why });
        }
        let target = taken.from.map(|(at, _)| at.iteration);
        let mut course = Course::default();
        let (mut kept, mut going, mut waiting, mut done) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for body in self.past.bodies(whole.frame) {
            let from = taken.from.filter(|(at, _)| at.iteration == body.facts.iteration).map(|(_, from)| from);
            if body.completed && from.is_none() {
                kept.push(body);
                continue;
            }
            match self.within(taken, body, from)? {
                Stand::GoesOn(within) => going.push((body, within)),
                Stand::Complete(within, output) => {
                    course.add(within);
                    course.turns.push(Turn { completed: true, output: Some(output), ..live(body) });
                    done.push(body);
                }
                Stand::Nothing => waiting.push(body),
            }
        }
        if target.is_some_and(|target| going.iter().all(|(body, _)| body.facts.iteration != target)) {
            return Err(not_begun(self, taken));
        }
        let ended = count(kept.len() + done.len());
        self.keep(&mut course, taken, &kept);
        if ended > 0 {
            course.joins.push((whole.frame, Arrival { node: END, resolved: ended, taken: ended }));
        }
        let enough = if bounds.need > 0 { ended >= bounds.need } else { ended >= bounds.count };
        let first = usize::try_from(room(bounds, ended)).unwrap_or(0);
        // what is in question goes on whatever waits for room
        going.sort_by_key(|(body, _)| (Some(body.facts.iteration) != target, body.facts.iteration));
        let rest = going.split_off(if enough { 0 } else { first.min(going.len()) });
        waiting.extend(rest.iter().map(|(body, _)| *body));
        if enough {
            if taken.whole.failed {
                return Ok(None);
            }
            course.jobs.push(Job { frame: whole.frame, node: END, kind: StepKind::Run, attempt: 1 });
        }
        let mut begun: Vec<&Frame> = kept.into_iter().chain(done).chain(going.iter().map(|(body, _)| *body)).collect();
        begun.sort_by_key(|body| body.facts.iteration);
        let later = if enough { Some(Vec::new()) } else { self.later(taken, bounds, &begun, &waiting)? };
        let Some(later) = later else { return Ok(None) };
        for (body, within) in going {
            course.add(within);
            course.turns.push(live(body));
        }
        let iterations: Vec<i32> = later.iter().map(|later| later.iteration).collect();
        let names = ranges(self.graph, taken.node.number, &iterations);
        course.told.later.extend(names.into_iter().map(|name| format!("{}{name}", taken.prefix)));
        chunks(&mut course, whole.frame, bounds, ended, &begun, &later);
        course.recount.push(whole.frame);
        course.turns.push(self.turn(taken, false));
        Ok(Some(course))
    }

    /// The iterations that begin later, in order; none where it cannot be known what those are given that never began.
    fn later(
        &self,
        taken: Taken<'_>,
        bounds: Bounds,
        begun: &[&Frame],
        waiting: &[&Frame],
    ) -> Result<Option<Vec<Later>>, Error> {
        let known: BTreeSet<i32> = begun.iter().chain(waiting).map(|body| body.facts.iteration).collect();
        let new: Vec<i32> = (0..bounds.count).filter(|iteration| !known.contains(iteration)).collect();
        let items = matches!(taken.block.kind, BlockKind::Foreach { .. });
        let given = |body: &Frame| items.then(|| body.facts.input.clone());
        let mut later: Vec<Later> =
            waiting.iter().map(|body| Later { iteration: body.facts.iteration, item: given(body) }).collect();
        if items && !new.is_empty() {
            // as they were made when the block began; so only where what they are made of is on record
            if taken.node.needs().run_context {
                return Ok(None);
            }
            let made = self.graph.items_of(taken.node.number, taken.values).map_err(Error::Replay)?;
            if count(made.len()) != bounds.count || !waiting.iter().all(|body| same(&body.facts, &made)) {
                return Ok(None);
            }
            later.extend(new.iter().map(|iteration| Later { iteration: *iteration, item: item(&made, *iteration) }));
        } else {
            later.extend(new.iter().map(|iteration| Later { iteration: *iteration, item: None }));
        }
        later.sort_by_key(|later| later.iteration);
        Ok(Some(later))
    }

    fn place(&self, taken: Taken<'_>) -> String {
        let iteration = taken.from.map_or(-1, |(at, _)| at.iteration);
        format!("{}{}", taken.prefix, named(self.graph, taken.node.number, iteration))
    }
}

fn not_begun(plotter: &Plotter<'_>, taken: Taken<'_>) -> Error {
    Error::Place { place: plotter.place(taken), why: "the run has no such iteration on record".to_owned() }
}

/// A body that is live again.
fn live(body: &Frame) -> Turn {
    Turn { frame: body.facts.frame, attempt: None, completed: false, output: None }
}

/// The step job that says how a block's instance ended.
fn block_ends(whole: &Frame) -> Job {
    let FrameFacts { frame, parent, block, .. } = whole.facts;
    Job { frame: parent, node: block, kind: StepKind::Advance, attempt: frame }
}

/// How many iterations may go on when so many have ended: as many as would if none had failed.
fn room(bounds: Bounds, ended: i32) -> i32 {
    let size = bounds.chunk.max(1);
    size.saturating_mul(bounds.ahead).saturating_sub(ended % size)
}

/// The rows of a block's iterations. Those that begin later do so where the count of what ended crosses a multiple of their size, by their number; what
/// should have begun by now does so at once. Those that began have numbers beyond these, which nothing opens.
fn chunks(course: &mut Course, frame: i32, bounds: Bounds, ended: i32, begun: &[&Frame], later: &[Later]) {
    let size = bounds.chunk.max(1);
    let open = size.saturating_mul(bounds.ahead).saturating_add(ended / size * size);
    let next = open / size;
    let at_once = usize::try_from(open.min(bounds.count) - count(begun.len())).unwrap_or(0).min(later.len());
    let (now, rest) = later.split_at(at_once);
    let row = |chunk: i32, later: &[Later]| {
        let iterations: Vec<i32> = later.iter().map(|later| later.iteration).collect();
        let items: Option<Vec<&str>> = later.iter().map(|later| later.item.as_ref().map(Payload::as_str)).collect();
        let items = items.map_or_else(String::new, |items| format!(",\"items\":[{}]", items.join(",")));
        let items = Payload::trusted(format!("{{\"iterations\":{}{items}}}", json!(iterations)).into());
        Chunk { frame, chunk, first: None, count: count(later.len()), items: Some(items) }
    };
    if !now.is_empty() {
        course.chunks.push(row(next - 1, now));
        course.jobs.push(Job { frame, node: OPEN, kind: StepKind::Advance, attempt: next - 1 });
    }
    let rest = rest.chunks(usize::try_from(size).unwrap_or(1));
    course.chunks.extend((next..).zip(rest).map(|(chunk, later)| row(chunk, later)));
    let follows = |before: &&Frame, after: &&Frame| {
        before.facts.iteration + 1 == after.facts.iteration && before.facts.frame + 1 == after.facts.frame
    };
    let beyond = (bounds.count / size + 1).max(next);
    for (chunk, together) in (beyond..).zip(begun.chunk_by(follows)) {
        let first = together.first().map(|body| body.facts.frame);
        course.chunks.push(Chunk { frame, chunk, first, count: count(together.len()), items: None });
    }
}

/// Whether an iteration was given what it would be given now; Postgres spells JSON its own way.
fn same(facts: &FrameFacts, made: &[Payload]) -> bool {
    let item = item(made, facts.iteration).and_then(|item| item.parse::<Value>().ok());
    item.is_some() && item == facts.input.parse::<Value>().ok()
}

fn item(made: &[Payload], iteration: i32) -> Option<Payload> {
    made.get(usize::try_from(iteration).ok()?).cloned()
}

fn count(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
