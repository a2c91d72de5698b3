//! Steps of blocks: what must be read for them, and what becomes of the engine's own. What a block does is decided in `longshore_core::frame`.

use std::collections::BTreeSet;
use std::time::Duration;

use longshore_core::attempt::Ending;
use longshore_core::error::{StepError, gone};
use longshore_core::frame::{self, Begin, Child, Next, Opener};
use longshore_core::graph::{BlockKind, CLEAN_UP, END, FAILURES, FrameFacts, NEXT, OPEN, TIMEOUT};
use longshore_core::payload::Payload;
use longshore_core::queue::StepKind;
use longshore_core::results::{self, FrameRef, Instance};
use uuid::Uuid;

use super::Decided;
use crate::lane::Held;
use crate::shared::Shared;

/// Read what is not known of the frames around these steps. False when the worker gave up waiting.
pub(super) async fn read_frames(shared: &Shared, new: &mut [Held]) -> bool {
    let unknown = |held: &&Held| held.live && !held.knows_its_frames();
    let wanted: BTreeSet<_> = new.iter().filter(unknown).map(|held| (held.step.run_id, held.step.frame)).collect();
    if !wanted.is_empty() {
        let wanted: Vec<_> = wanted.into_iter().collect();
        let read = shared.insist("read the frames of steps", || async {
            results::frames(&mut shared.sender.access.session().await?, &wanted).await
        });
        let Some(found) = read.await else { return false };
        for held in new.iter_mut().filter(|held| held.live && !held.knows_its_frames()) {
            match found.get(&(held.step.run_id, held.step.frame)) {
                Some(frames) => held.values.frames = frames.clone(),
                None => held.live = false,
            }
        }
    }
    // a frame that ended takes its steps with it, whoever ended it, but for the one that cleans up after it; of a run that ended only a `finally` goes on
    for held in new.iter_mut().filter(|held| held.live && held.step.frame != 0 && held.step.node != CLEAN_UP) {
        let frames = &held.values.frames;
        held.live = frames.last().is_some_and(|frame| frame.live)
            && (!held.run_ended || frames.iter().any(|frame| frame.finally));
    }
    true
}

/// Number the frames that begin. False when the worker gave up waiting.
pub(super) async fn number_frames(shared: &Shared, decided: &mut [Decided]) -> bool {
    for decided in decided {
        if let Decided::Ended(_, Ending::Opened(opening)) = decided {
            let Some(numbers) = shared.frame_numbers.take(shared, opening.frames.len()).await else { return false };
            opening.number(numbers);
        }
    }
    true
}

/// The frame that stands for a block, where the step is an engine step of it.
fn whole(held: &Held) -> Option<&FrameFacts> {
    held.version.graph.engine_step_of(held.step.node, &held.values.frames)
}

/// The step says how its block ended.
pub(super) fn is_end_of_block(held: &Held) -> bool {
    let block = held.version.graph.node(held.step.node).is_some_and(|node| node.block().is_some());
    block && held.step.kind == StepKind::Advance
}

/// The instances that the step is about and that are not at hand, and whether those that led to them are, too.
pub(super) fn instances(held: &Held) -> Vec<(FrameRef, bool)> {
    let step = &held.step;
    if !held.instances.is_empty() {
        return Vec::new();
    }
    let of = |frame| (step.run_id, frame);
    // what says how a frame ended is numbered by it
    if is_end_of_block(held) {
        return vec![(of(step.attempt), false)];
    }
    let Some(whole) = whole(held) else { return Vec::new() };
    match step.node {
        // a `try` may need what came before, and what it was given
        NEXT if is_try(held, whole) => vec![(of(step.attempt), true), (of(whole.frame), false)],
        NEXT => vec![(of(step.attempt), false)],
        CLEAN_UP => vec![(of(whole.frame), false)],
        // what the branches of a `parallel` are given
        OPEN if !is_foreach(held, whole) => vec![(of(whole.frame), false)],
        _ => Vec::new(),
    }
}

/// The block whose iterations the step is about.
pub(super) fn iterations(held: &Held) -> Option<FrameRef> {
    let whole = whole(held)?;
    let about = matches!((held.step.node, held.step.kind), (END | FAILURES, StepKind::Run));
    about.then_some((held.step.run_id, whole.frame))
}

/// The iterations that the step opens.
pub(super) fn items(held: &Held) -> Option<(Uuid, i32, i32)> {
    let whole = whole(held)?;
    (held.step.node == OPEN).then_some((held.step.run_id, whole.frame, held.step.attempt))
}

fn kind<'h>(held: &'h Held, whole: &FrameFacts) -> Option<&'h BlockKind> {
    Some(&held.version.graph.node(whole.block)?.block()?.kind)
}

fn is_foreach(held: &Held, whole: &FrameFacts) -> bool {
    matches!(kind(held, whole), Some(BlockKind::Foreach { .. }))
}

fn is_try(held: &Held, whole: &FrameFacts) -> bool {
    matches!(kind(held, whole), Some(BlockKind::Try { .. }))
}

/// A block begins.
pub(super) fn begin(held: &Held) -> Result<Ending, StepError> {
    let step = &held.step;
    let opener = Opener { block: step.node, frame: step.frame, attempt: step.attempt, failed: step.failed };
    Ok(match held.version.graph.begin(opener, &held.values)? {
        Begin::Done(output) => Ending::Completed(output),
        Begin::Open(opening) => Ending::Opened(Box::new(opening)),
    })
}

/// What becomes of an engine step of a block, the error being the block's; none for all other steps.
pub(super) fn decide(held: &Held) -> Option<Result<Ending, StepError>> {
    if is_end_of_block(held) {
        return Some(Ok(block_ended(held)));
    }
    let frames = &held.values.frames;
    if let Some(finally) = frames.last().filter(|frame| frame.finally) {
        match held.step.node {
            CLEAN_UP => {
                return Some(
                    held.version.graph.clean_up(frames, None).map(|opening| Ending::Opened(Box::new(opening))),
                );
            }
            TIMEOUT => return Some(Err(frame::cleaned_up_too_long(timeout(held, finally)))),
            _ => {}
        }
    }
    whole(held).map(|whole| engine_step(held, whole))
}

fn block_ended(held: &Held) -> Ending {
    let instance = held.instances.first();
    match instance.and_then(|instance| Some((instance, instance.child.result.clone()?))) {
        Some((Instance { attempt, failed, created_at, .. }, result)) => {
            Ending::BlockEnded { result, attempt: *attempt, failed: *failed, began: *created_at }
        }
        None => Ending::BodyFailed(gone("the frame of the block")),
    }
}

fn engine_step(held: &Held, whole: &FrameFacts) -> Result<Ending, StepError> {
    let graph = &held.version.graph;
    Ok(match (held.step.node, held.step.kind) {
        (END, StepKind::Run) => Ending::BlockEnds(graph.collect(whole, &held.iterations)),
        (END, StepKind::Skip) => Ending::BlockEnds(Err(frame::too_few(whole))),
        (FAILURES, StepKind::Run) => Ending::BlockEnds(Err(graph.too_many_failed(whole, &held.iterations))),
        (NEXT, _) => match next(held, whole)? {
            Next::Open(opening) => Ending::Opened(Box::new(opening)),
            Next::End(result) => Ending::BlockEnds(result),
            Next::Failed => Ending::IterationFailed,
            Next::Nothing => Ending::Told,
        },
        (OPEN, _) => {
            let (given, iterations) = given(held, whole)?;
            Ending::Opened(Box::new(graph.open_chunk(&held.values.frames, held.step.attempt, given, iterations)))
        }
        (TIMEOUT, _) => Ending::BlockEnds(Err(frame::timed_out(timeout(held, whole)))),
        (CLEAN_UP, _) => {
            let given = held.instances.first().and_then(|own| own.child.input.as_ref());
            Ending::Opened(Box::new(graph.clean_up(&held.values.frames, given)?))
        }
        // a count that fired early has all its iterations now, or never will
        _ => Ending::Told,
    })
}

fn timeout(held: &Held, frame: &FrameFacts) -> Option<Duration> {
    held.version.graph.node(frame.block)?.block()?.timeout
}

/// What follows when a body ended: the first of the instances, then those that led to it, and the block's own frame.
fn next(held: &Held, whole: &FrameFacts) -> Result<Next, StepError> {
    let mut children = held.instances.iter().map(|instance| &instance.child);
    let ended = children.next().ok_or_else(|| gone("the frame of a body"))?;
    let (own, before): (Vec<&Child>, Vec<&Child>) = children.partition(|child| child.frame == whole.frame);
    let before: Vec<Child> = before.into_iter().cloned().collect();
    let given = own.first().and_then(|own| own.input.as_ref());
    held.version.graph.after(ended, &before, given, &held.values)
}

/// What the iterations of a chunk are given: its items, or what the block was given. With their numbers, where the chunk says them.
fn given(held: &Held, whole: &FrameFacts) -> Result<(Vec<Payload>, Option<Vec<i32>>), StepError> {
    let (items, iterations) = held.items.as_ref().map(frame::chunk_items).unwrap_or_default();
    if is_foreach(held, whole) {
        return Ok((items.ok_or_else(|| gone("the items of an iteration"))?, iterations));
    }
    let own = held.instances.iter().find(|instance| instance.child.frame == whole.frame);
    let input = own.and_then(|own| own.child.input.clone()).unwrap_or_else(Payload::null);
    let bounds = whole.bounds.ok_or_else(|| gone("how the block goes on"))?;
    let left = bounds.count.saturating_sub(held.step.attempt.saturating_mul(bounds.chunk)).min(bounds.chunk);
    let left = iterations.as_ref().map_or(usize::try_from(left).unwrap_or(0), Vec::len);
    Ok((vec![input; left], iterations))
}
