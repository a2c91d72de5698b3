//! What a block does: which frames it opens when it begins, what follows when one of its bodies ends, and how it ends itself. Pure: what has to be
//! read comes in as values, new frames are numbered by the caller. `attempt` turns what is decided here into rows.

mod bounds;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;

use crate::definition::block::{MAX_ITEMS, OnLimit};
use crate::error::{
    EXPRESSION_FAILED, ITEMS_INVALID, MAX_ITERATIONS, OUTPUT_TOO_LARGE, StepError, TIMEOUT, TOLERANCE_EXCEEDED,
    TOO_FEW_BRANCHES, gone,
};
use crate::graph::{Block, BlockKind, Bounds, FrameFacts, Graph, Node, NodeNumber, Values};
use crate::pattern::matches;
use crate::payload::Payload;

/// The outputs of the iterations of a `foreach` have at most so many bytes together: what reads them reads them whole.
const MAX_COLLECTED: usize = 32 << 20;

/// The number of a frame until [`Opening::number`].
const UNNUMBERED: i32 = 0;

/// How long a `finally` may take from when it was closed around, where its `try` has no timeout.
const CLEAN_UP_WITHIN: Duration = Duration::from_secs(300);

/// The iteration of an instance of a block that is no body itself.
const NO_BODY: i32 = -1;

/// The block's node as one of its attempts: what opens its frames.
#[derive(Clone, Copy, Debug)]
pub struct Opener {
    /// The node.
    pub block: NodeNumber,
    /// Its frame.
    pub frame: i32,
    /// Which attempt.
    pub attempt: i32,
    /// Attempts that failed before.
    pub failed: i16,
}

/// How a block begins.
#[derive(Clone, Debug, PartialEq)]
pub enum Begin {
    /// There is nothing to do: its output.
    Done(Payload),
    /// With frames.
    Open(Opening),
}

/// Frames that begin.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Opening {
    /// The frames; the one that stands for the block, if it begins here, is the first.
    pub frames: Vec<FrameFacts>,
    /// The numbers of the frames around them all (of the first's, where that is no body), the outermost first.
    pub around: Vec<i32>,
    /// What the block was given, where an instance that is no body must keep it.
    pub kept_input: Option<Payload>,
    /// Iterations whose frames begin later.
    pub later: Vec<Chunk>,
    /// The chunk of iterations whose frames begin here; 0 for all that begin with the block.
    pub chunk: Option<i32>,
    /// The time that the first of the frames has from here, or the step's own where none begins.
    pub timeout: Option<Duration>,
    /// The frame of a pass that need not be kept.
    pub forget: Option<i32>,
}

/// Iterations of a block that begin together.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// Which.
    pub chunk: i32,
    /// How many they are.
    pub count: i32,
    /// What they are given, of a `foreach`.
    pub items: Option<Payload>,
}

/// What follows when a body of a block ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// More frames.
    Open(Opening),
    /// The block ends.
    End(Result<Payload, StepError>),
    /// One of several iterations failed: it is counted.
    Failed,
    /// The block goes on with what is out.
    Nothing,
}

/// What is known of a body's instance that ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    /// Its number.
    pub frame: i32,
    /// The item, the pass, or which of the block's bodies.
    pub iteration: i32,
    /// Its output or error; none for one that has not ended, or was canceled.
    pub result: Option<Result<Payload, StepError>>,
    /// What it was given, where that was asked for.
    pub input: Option<Payload>,
    /// The frames that led to it, see [`FrameFacts::before`].
    pub before: Vec<i32>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

impl Graph {
    /// How a block begins. The error makes the attempt fail.
    pub fn begin(&self, opener: Opener, values: &Values) -> Result<Begin, StepError> {
        let (node, block) = self.block(opener.block)?;
        let input = self.input(node.number, values)?;
        let mut whole = FrameFacts {
            frame: UNNUMBERED,
            parent: opener.frame,
            block: node.number,
            attempt: opener.attempt,
            iteration: NO_BODY,
            whole: true,
            failed: opener.failed,
            bounds: None,
            input: Payload::null(),
            before: Vec::new(),
            live: true,
            finally: false,
            created_at: None,
        };
        let mut opening = Opening { around: numbers(&values.frames), timeout: block.timeout, ..Opening::default() };
        match &block.kind {
            BlockKind::If { .. } | BlockKind::Switch { .. } => {
                let Some(place) = self.choose(node, block, values, &input)? else {
                    return Ok(Begin::Done(Payload::null()));
                };
                whole.iteration = count(place);
                whole.input = input;
                opening.frames.push(whole);
            }
            BlockKind::Parallel { .. } => {
                let bounds = self.parallel_bounds(node, block, values, &input)?;
                let first: Vec<_> = (0..bounds.at_once()).map(|_| input.clone()).collect();
                opening.kept_input = Some(input);
                opening.later = later(bounds, None);
                opening.chunk = Some(0);
                opening.many(FrameFacts { bounds: Some(bounds), ..whole }, first);
            }
            BlockKind::Foreach { .. } => {
                let items = self.items(node, block, values, &input)?;
                if items.is_empty() {
                    return Ok(Begin::Done(Payload::trusted("[]".into())));
                }
                let bounds = self.foreach_bounds(node, block, values, &input, items.len())?;
                let (first, rest) = items.split_at(index(bounds.at_once()).min(items.len()));
                opening.later = later(bounds, Some(rest));
                opening.chunk = Some(0);
                opening.many(FrameFacts { bounds: Some(bounds), ..whole }, first.to_vec());
            }
            BlockKind::While { when, do_while, .. } => {
                if !do_while && !self.holds(when, node, values, &input)? {
                    return Ok(Begin::Done(input));
                }
                opening.many(whole, vec![input]);
            }
            BlockKind::Try { .. } => {
                opening.kept_input = Some(input.clone());
                opening.many(whole, vec![input]);
            }
            BlockKind::Reminded => opening.many(whole, vec![input.clone(), input]),
        }
        Ok(Begin::Open(opening))
    }

    /// More iterations of a block that runs them at once: those of a chunk, with what they are given. `frames` ends with the block's. `iterations` are
    /// their numbers, where those do not follow from the chunk's.
    pub fn open_chunk(
        &self,
        frames: &[FrameFacts],
        chunk: i32,
        given: Vec<Payload>,
        iterations: Option<Vec<i32>>,
    ) -> Opening {
        let mut opening = Opening { around: numbers(frames), chunk: Some(chunk), ..Opening::default() };
        if let Some((whole, bounds)) = frames.last().and_then(|whole| Some((whole, whole.bounds?))) {
            let first = chunk.saturating_mul(bounds.chunk);
            opening.bodies(whole, first, given);
            for (frame, iteration) in opening.frames.iter_mut().zip(iterations.into_iter().flatten()) {
                frame.iteration = iteration;
            }
        }
        opening
    }

    /// The items of a `foreach`, from what its node reads.
    pub(crate) fn items_of(&self, number: NodeNumber, values: &Values) -> Result<Vec<Payload>, StepError> {
        let (node, block) = self.block(number)?;
        self.items(node, block, values, &self.input(number, values)?)
    }

    /// Whether a catch of a `try` takes this error.
    pub(crate) fn catches(&self, block: &Block, error: &StepError) -> bool {
        matches!(&block.kind, BlockKind::Try { catches, .. } if catches.iter().any(|on| takes(on, error)))
    }

    /// What follows when a body ended. `values.frames` ends with the block's frame; `before` are the frames that led to the body's, of a `try`;
    /// `given` is what the block was given, of a `try`.
    pub fn after(
        &self,
        ended: &Child,
        before: &[Child],
        given: Option<&Payload>,
        values: &Values,
    ) -> Result<Next, StepError> {
        let Some(whole) = values.frames.last() else {
            return Err(gone("the frame of the block"));
        };
        let (node, block) = self.block(whole.block)?;
        let iteration = ended.iteration;
        let Some(result) = ended.result.clone() else {
            return Err(gone("what the body gave"));
        };
        let open = |iteration: usize, given: Payload, before: Vec<i32>| {
            let mut opening = Opening { around: numbers(&values.frames), ..Opening::default() };
            opening.bodies(&FrameFacts { before, ..whole.clone() }, count(iteration), vec![given]);
            opening
        };
        match &block.kind {
            BlockKind::While { when, max_iterations, on_limit, keep, .. } => {
                let output = match result {
                    Ok(output) => output,
                    Err(error) => return Ok(Next::End(Err(error))),
                };
                if !self.holds(when, node, values, &output)? {
                    return Ok(Next::End(Ok(output)));
                }
                let passes = u32::try_from(iteration).unwrap_or(u32::MAX).saturating_add(1);
                if passes >= *max_iterations {
                    let message = format!("the condition still holds after {passes} passes");
                    return Ok(Next::End(match on_limit {
                        OnLimit::Fail => Err(StepError::permanent(MAX_ITERATIONS, &message)),
                        OnLimit::Stop => Ok(output),
                    }));
                }
                let (mut kept, mut forget) = (ended.before.clone(), None);
                if let Some(keep) = *keep {
                    kept.push(ended.frame);
                    forget = (u32::try_from(kept.len()).unwrap_or(u32::MAX) > keep).then(|| kept.remove(0));
                }
                Ok(Next::Open(Opening { forget, ..open(index(iteration) + 1, output, kept) }))
            }
            BlockKind::Try { catches, finally } => {
                let last = block.bodies.len().saturating_sub(1);
                let here = index(iteration);
                if *finally && here == last {
                    // what came before it stands, unless it failed itself
                    let before = before.last().and_then(|child| child.result.clone());
                    return Ok(Next::End(result.and_then(|_| before.unwrap_or_else(|| Err(gone("the body"))))));
                }
                if let (0, Err(error)) = (here, &result)
                    && let Some(place) = catches.iter().position(|on| takes(on, error))
                {
                    return Ok(Next::Open(open(1 + place, error.to_payload(), Vec::new())));
                }
                if !finally {
                    return Ok(Next::End(result));
                }
                Ok(Next::Open(Self::open_finally(&values.frames, whole, last, given, vec![ended.frame])))
            }
            BlockKind::Parallel { .. } | BlockKind::Foreach { .. } => Ok(Next::Failed),
            BlockKind::If { .. } | BlockKind::Switch { .. } => Ok(Next::End(result)),
            BlockKind::Reminded if iteration == 0 => Ok(Next::End(result)),
            BlockKind::Reminded => Ok(Next::Nothing),
        }
    }

    /// What follows where a `try` was cut off: its `finally` begins. Where that had begun, so `frames` ends with it, its time is bounded from now on.
    pub fn clean_up(&self, frames: &[FrameFacts], given: Option<&Payload>) -> Result<Opening, StepError> {
        let Some(last) = frames.last() else {
            return Err(gone("the frame of the block"));
        };
        let (_, block) = self.block(last.block)?;
        let timeout = Some(block.timeout.unwrap_or(CLEAN_UP_WITHIN));
        if last.finally {
            return Ok(Opening { timeout, ..Opening::default() });
        }
        let place = block.bodies.len().saturating_sub(1);
        Ok(Opening { timeout, ..Self::open_finally(frames, last, place, given, Vec::new()) })
    }

    fn open_finally(
        frames: &[FrameFacts],
        whole: &FrameFacts,
        place: usize,
        given: Option<&Payload>,
        before: Vec<i32>,
    ) -> Opening {
        let mut opening = Opening { around: numbers(frames), ..Opening::default() };
        let given = given.cloned().unwrap_or_else(Payload::null);
        opening.bodies(&FrameFacts { before, live: true, finally: true, ..whole.clone() }, count(place), vec![given]);
        opening
    }

    /// How a block that runs its bodies at once ends when enough of them have, or all: its output, or why it failed after all.
    pub fn collect(&self, whole: &FrameFacts, children: &[Child]) -> Result<Payload, StepError> {
        let (_, block) = self.block(whole.block)?;
        // the last to end may be one too many that failed: then both counts are full at once, and this one may be heard first
        let failed = children.iter().filter(|child| matches!(child.result, Some(Err(_)))).count();
        if whole.bounds.is_some_and(|bounds| bounds.need == 0 && count(failed) > bounds.tolerated) {
            return Err(self.too_many_failed(whole, children));
        }
        match &block.kind {
            BlockKind::Parallel { names, need, .. } => {
                if *need == 0
                    && let Some(Err(error)) =
                        children.iter().find_map(|child| child.result.clone().filter(Result::is_err))
                {
                    return Err(error);
                }
                let completed = children.iter().filter_map(|child| {
                    let name = names.get(usize::try_from(child.iteration).ok()?)?;
                    Some((name, child.result.as_ref()?.as_ref().ok()?))
                });
                // a branch's name needs no escapes: check::is_id
                let fields: Vec<_> =
                    completed.map(|(name, output)| format!("\"{name}\":{}", output.as_str())).collect();
                Ok(Payload::trusted(format!("{{{}}}", fields.join(",")).into()))
            }
            _ => {
                let bytes = |child: &Child| {
                    child.result.as_ref().and_then(|result| result.as_ref().ok()).map_or(256, Payload::len)
                };
                if children.iter().map(bytes).sum::<usize>() > MAX_COLLECTED {
                    let message =
                        format!("the outputs of the iterations have more than {MAX_COLLECTED} bytes together");
                    return Err(StepError::permanent(OUTPUT_TOO_LARGE, &message));
                }
                let outputs: Vec<Payload> = children
                    .iter()
                    .filter_map(|child| {
                        Some(match child.result.as_ref()? {
                            Ok(output) => output.clone(),
                            Err(error) => {
                                Payload::trusted(format!("{{\"error\":{}}}", error.to_payload().as_str()).into())
                            }
                        })
                    })
                    .collect();
                Ok(list(outputs.iter()))
            }
        }
    }

    /// Why a block that runs its bodies at once failed: the error of the body that failed first where none may fail.
    pub fn too_many_failed(&self, whole: &FrameFacts, children: &[Child]) -> StepError {
        if whole.bounds.is_some_and(|bounds| bounds.need > 0) {
            return too_few(whole);
        }
        let failed = || children.iter().filter_map(|child| Some((child, child.result.as_ref()?.as_ref().err()?)));
        let tolerated = whole.bounds.map_or(0, |bounds| bounds.tolerated);
        let first =
            failed().min_by_key(|(child, _)| (child.finished_at, child.iteration)).map(|(_, error)| error.clone());
        let first = first.unwrap_or_else(|| gone("the body that failed"));
        if tolerated == 0 {
            return first;
        }
        let count = failed().count();
        let message = format!("{count} iterations failed, {tolerated} may; the first: {}", first.message);
        StepError::permanent(TOLERANCE_EXCEEDED, &message)
            .with_details(json!({"failed": count, "tolerated": tolerated, "first": first.to_payload().value()}))
    }

    /// Whether `place` is a node that holds bodies.
    fn block(&self, number: NodeNumber) -> Result<(&Node, &Block), StepError> {
        let node = self.node(number);
        node.and_then(|node| Some((node, node.block()?))).ok_or_else(|| {
            StepError::permanent(EXPRESSION_FAILED, &format!("node number {number} of this version is no block"))
        })
    }

    /// The body that an `if` or a `switch` runs.
    fn choose(&self, node: &Node, block: &Block, values: &Values, input: &Payload) -> Result<Option<usize>, StepError> {
        let whens = match &block.kind {
            BlockKind::If { when } => std::slice::from_ref(when),
            BlockKind::Switch { whens } => whens.as_slice(),
            _ => &[],
        };
        for (place, when) in whens.iter().enumerate() {
            if self.holds(when, node, values, input)? {
                return Ok(Some(place));
            }
        }
        Ok((block.bodies.len() > whens.len()).then_some(whens.len()))
    }

    fn items(&self, node: &Node, block: &Block, values: &Values, input: &Payload) -> Result<Vec<Payload>, StepError> {
        let BlockKind::Foreach { items: Some(items), .. } = &block.kind else {
            return Ok(Vec::new());
        };
        let items = self.rendered(items, node, values, input)?;
        let items = split(&items).ok_or_else(|| {
            let short: String = items.as_str().chars().take(60).collect();
            StepError::permanent(ITEMS_INVALID, &format!("the items are no list but `{short}`"))
        })?;
        if items.len() > MAX_ITEMS {
            let message = format!("there are {} items, at most {MAX_ITEMS} are allowed", items.len());
            return Err(StepError::permanent(ITEMS_INVALID, &message));
        }
        Ok(items)
    }
}

impl Opening {
    /// The block's own frame, and the first of its bodies'.
    fn many(&mut self, whole: FrameFacts, given: Vec<Payload>) {
        self.frames.push(whole.clone());
        self.bodies(&whole, 0, given);
    }

    /// Frames of bodies within the block's own, from this iteration on.
    fn bodies(&mut self, whole: &FrameFacts, first: i32, given: Vec<Payload>) {
        self.frames.extend(given.into_iter().zip(first..).map(|(input, iteration)| FrameFacts {
            frame: UNNUMBERED,
            parent: whole.frame,
            iteration,
            whole: false,
            failed: 0,
            bounds: None,
            input,
            ..whole.clone()
        }));
    }

    /// About how many bytes it takes to send.
    pub fn bytes(&self) -> usize {
        let frames = self.frames.iter().map(|frame| frame.input.len() + 256);
        frames.chain(self.later.iter().map(|later| later.items.as_ref().map_or(0, Payload::len) + 64)).sum()
    }

    /// Number the frames: as many numbers as there are frames, unique within the run. Iterations that begin together follow each other.
    pub fn number(&mut self, numbers: std::ops::Range<i32>) {
        for (frame, number) in self.frames.iter_mut().zip(numbers) {
            frame.frame = number;
        }
        if let Some((whole, bodies)) = self.frames.split_first_mut()
            && whole.whole
        {
            bodies.iter_mut().for_each(|body| body.parent = whole.frame);
        }
    }
}

/// The error of a block that was not done when its time was over.
pub fn timed_out(timeout: Option<Duration>) -> StepError {
    let time = timeout.map(crate::duration::format).unwrap_or_default();
    StepError::new(TIMEOUT, crate::error::ErrorKind::Timeout, &format!("the block did not end within {time}"))
}

/// The error of a `finally` that was closed around and took too long since.
pub fn cleaned_up_too_long(timeout: Option<Duration>) -> StepError {
    let time = crate::duration::format(timeout.unwrap_or(CLEAN_UP_WITHIN));
    let message = format!("the finally did not end within {time} of when its try was cut off");
    StepError::new(TIMEOUT, crate::error::ErrorKind::Timeout, &message)
}

/// The error of a `parallel` of which too few branches completed.
pub fn too_few(whole: &FrameFacts) -> StepError {
    let need = whole.bounds.map_or(0, |bounds| bounds.need);
    StepError::permanent(TOO_FEW_BRANCHES, &format!("fewer than {need} branches completed"))
}

/// Whether a catch takes an error: by name, by kind, or by a pattern in which `*` stands for any text.
fn takes(on: &[String], error: &StepError) -> bool {
    on.is_empty() || on.iter().any(|on| matches(on, &error.name) || matches(on, error.kind.as_str()))
}

/// The items of a list as texts, each as it was written.
fn split(list: &Payload) -> Option<Vec<Payload>> {
    let items: Vec<&serde_json::value::RawValue> = serde_json::from_str(list.as_str()).ok()?;
    Some(items.into_iter().map(|item| Payload::trusted(item.get().into())).collect())
}

/// A list of these items.
fn list<'p>(items: impl Iterator<Item = &'p Payload>) -> Payload {
    let items: Vec<&str> = items.map(Payload::as_str).collect();
    Payload::trusted(format!("[{}]", items.join(",")).into())
}

/// What a chunk that was kept for later says of its iterations: what they are given, where each has its own, and their numbers, where a run that went on
/// after it had ended begins them in another order.
pub fn chunk_items(chunk: &Payload) -> (Option<Vec<Payload>>, Option<Vec<i32>>) {
    #[derive(serde::Deserialize)]
    struct Reordered<'p> {
        iterations: Vec<i32>,
        #[serde(borrow)]
        items: Option<&'p serde_json::value::RawValue>,
    }
    match serde_json::from_str::<Reordered<'_>>(chunk.as_str()) {
        Ok(Reordered { iterations, items }) => {
            let items = items.and_then(|items| split(&Payload::trusted(items.get().into())));
            (items, Some(iterations))
        }
        Err(_) => (split(chunk), None),
    }
}

/// The chunks of iterations that begin later; of a `foreach` with what they are given.
fn later(bounds: Bounds, items: Option<&[Payload]>) -> Vec<Chunk> {
    let left = index(bounds.count - bounds.at_once());
    let size = index(bounds.chunk).max(1);
    let chunk = |(chunk, from): (i32, usize)| {
        let until = (from + size).min(left);
        let items = items.map(|items| list(items.get(from..until).unwrap_or_default().iter()));
        Chunk { chunk, count: count(until - from), items }
    };
    (bounds.ahead..).zip((0..left).step_by(size)).map(chunk).collect()
}

fn numbers(frames: &[FrameFacts]) -> Vec<i32> {
    frames.iter().map(|frame| frame.frame).collect()
}

fn count(place: usize) -> i32 {
    i32::try_from(place).unwrap_or(i32::MAX)
}

fn index(number: i32) -> usize {
    usize::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests;
