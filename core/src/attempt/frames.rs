//! Blocks: what follows from a step that opens frames, ends one, or stands for a block. What a block does is decided in `frame`; here it becomes part
//! of the batch. A frame that ends may have been ended by another lane meanwhile; so its end only makes the step job that says what follows
//! (`FrameEnding::then`), and the database makes that where the end took effect.

use super::{Ended, Plan};
use crate::cycle::{Due, Following, FrameEnding, NewChunk, NewFrame};
use crate::error::StepError;
use crate::frame::{Chunk, Opening};
use crate::graph::{Block, BlockKind, END, FAILURES, FrameFacts, Join, NEXT, Node, NodeNumber, TIMEOUT, concerning};
use crate::payload::Payload;
use crate::queue::{StepKind, StepRef};
use crate::state::Outcome;

/// How the arrivals at a node of the step's frame are counted.
pub(super) fn join(ended: &Ended<'_>, node: NodeNumber) -> Option<Join> {
    let graph = &ended.version.graph;
    if node >= 0 {
        return graph.join(node);
    }
    match graph.body_within(&ended.values.frames) {
        Some(body) => graph.join_within(body, node),
        None => block_join(ended.values.frames.last()?, node),
    }
}

/// How the ends of a block's iterations are counted, or those of them that failed.
fn block_join(whole: &FrameFacts, node: NodeNumber) -> Option<Join> {
    let bounds = whole.bounds?;
    let need = match node {
        END if bounds.need == 0 => -1,
        END => bounds.need,
        FAILURES => bounds.tolerated.saturating_add(1),
        _ => return None,
    };
    Some(Join { indegree: bounds.count, need })
}

/// The block that a frame is an instance of.
fn block<'v>(ended: &Ended<'v>, frame: &FrameFacts) -> Option<&'v Block> {
    ended.version.graph.node(frame.block).and_then(Node::block)
}

impl Plan {
    /// Frames begin: their rows, and the entry nodes of their bodies.
    pub(super) fn open(&mut self, index: usize, ended: &Ended<'_>, opening: &Opening) {
        let run_id = ended.step.run_id;
        let graph = &ended.version.graph;
        let whole = opening.frames.first().filter(|first| first.whole);
        if let Some(timeout) = opening.timeout {
            let timed = opening.frames.first().map_or(ended.step.frame, |first| first.frame);
            self.batch.delayed.push((Due::After(timeout), ended.step_job(timed, TIMEOUT, StepKind::Advance)));
        }
        let shield = ended.values.frames.iter().rfind(|frame| frame.finally).map(|frame| frame.frame);
        for facts in &opening.frames {
            let within = whole.filter(|whole| whole.frame != facts.frame).map(|whole| whole.frame);
            let path: Vec<i32> = opening.around.iter().copied().chain(within).collect();
            let shield = if facts.finally { Some(facts.frame) } else { shield };
            let around = concerning(&ended.values.frames).chain(within).filter(|_| !facts.finally);
            self.concerning.insert((run_id, facts.frame), around.chain([facts.frame]).collect());
            let cleans_up = facts.whole && block(ended, facts).is_some_and(Block::has_finally);
            let kept_input = opening.kept_input.clone().filter(|_| facts.whole);
            let body = graph.body_of(facts);
            self.batch.frames.push(NewFrame {
                run_id,
                facts: facts.clone(),
                body,
                path,
                kept_input,
                shield,
                cleans_up,
            });
        }
        let body = |facts| graph.body_of(facts).and_then(|body| graph.body(body));
        let entries = opening.frames.iter().flat_map(|facts| {
            let entries = body(facts).map_or(&[][..], |body| body.entries());
            entries.iter().map(|entry| (facts.frame, *entry))
        });
        // what follows iterations that ended in this lane may stay, half of it: the other half is for lanes that are idle
        let moved = opening.chunk.is_some_and(|chunk| chunk > 0);
        let entries: Vec<_> = entries.collect();
        let half = if moved { entries.len().div_ceil(2) } else { 1 };
        for (position, (frame, entry)) in entries.into_iter().enumerate() {
            if position == 0 {
                self.make_ready_in(index, ended, frame, entry, true);
            } else {
                self.begun.push((index, frame, entry, position < half));
            }
        }
        let of = whole.map_or(ended.step.frame, |whole| whole.frame);
        let bodies: Vec<&FrameFacts> = opening.frames.iter().filter(|facts| facts.iteration >= 0).collect();
        match (opening.chunk, bodies.first()) {
            (Some(0), Some(first)) => {
                let count = i32::try_from(bodies.len()).unwrap_or(i32::MAX);
                let chunk = Chunk { chunk: 0, count, items: None };
                self.batch.chunks.push(NewChunk { run_id, frame: of, chunk, first: Some(first.frame) });
            }
            (Some(chunk), Some(first)) => self.batch.opened.push((run_id, of, chunk, first.frame)),
            _ => {}
        }
        let later = opening.later.iter().map(|chunk| NewChunk { run_id, frame: of, chunk: chunk.clone(), first: None });
        self.batch.chunks.extend(later);
        // a body that is a chain opens no frames of its own
        let deep = |facts: &&FrameFacts| {
            let body = graph.body_of(facts).and_then(|body| graph.body(body));
            body.is_some_and(|body| !body.is_chain())
        };
        let deep = opening.frames.last().as_ref().is_some_and(deep);
        self.batch.forgotten_passes.extend(opening.forget.map(|frame| (run_id, frame, deep)));
    }

    /// The body that the step belongs to has completed.
    pub(super) fn complete_frame(&mut self, index: usize, ended: &Ended<'_>, output: Payload) {
        let [.., frame] = &*ended.values.frames else { return };
        let Some(block) = block(ended, frame) else { return };
        if frame.whole {
            let then = self.block_step(ended, frame);
            self.end_frame(ended, frame, Ok(output), block.timeout.is_some(), Some(then));
        } else if block.kind.is_wide() {
            self.end_frame(ended, frame, Ok(output), false, None);
            self.iteration_ended(index, ended, frame.parent, END, true);
        } else {
            let then = self.next_step(ended, frame);
            self.end_frame(ended, frame, Ok(output), false, Some(then));
        }
    }

    /// The body that the step belongs to has failed: what is out of it is canceled.
    pub(super) fn fail_frame(&mut self, ended: &Ended<'_>, error: &StepError) {
        let [.., frame] = &*ended.values.frames else { return };
        let graph = &ended.version.graph;
        let body = graph.body_of(frame).and_then(|body| graph.body(body));
        let Some(body) = body else {
            // an engine step of the block itself
            return self.end_whole(ended, frame, Err(error.to_payload()), true);
        };
        let timed = frame.whole && block(ended, frame).is_some_and(|block| block.timeout.is_some());
        // its time is over while steps of it are out, however it goes on within
        let timed = timed || ended.step.node == TIMEOUT;
        let then = if frame.whole { self.block_step(ended, frame) } else { self.next_step(ended, frame) };
        self.end_frame(ended, frame, Err(error.to_payload()), timed || !body.is_chain(), Some(then));
        self.close(ended, frame);
    }

    /// The frame that stands for the block ends; the step is an engine step of that frame.
    pub(super) fn end_block(&mut self, index: usize, ended: &Ended<'_>, result: &Result<Payload, StepError>) {
        if ended.step.kind == StepKind::Run {
            self.record(index, ended, Outcome::Completed, Some(Payload::null()), None);
        }
        let [.., frame] = &*ended.values.frames else { return };
        let Some(block) = block(ended, frame) else { return };
        // with all iterations ended nothing is out; else the rest is canceled
        let rest = match ended.step.node {
            END => ended.step.kind == StepKind::Run && frame.bounds.is_some_and(|bounds| bounds.need > 0),
            // the reminders go on until somebody answers
            NEXT => matches!(block.kind, BlockKind::Reminded),
            _ => true,
        };
        if ended.step.node == END && !rest {
            self.batch.resolved_joins.push(StepRef { run_id: ended.step.run_id, frame: frame.frame, node: FAILURES });
        }
        let result = result.clone().map_err(|error| error.to_payload());
        self.end_whole(ended, frame, result, rest || block.timeout.is_some());
    }

    fn end_whole(&mut self, ended: &Ended<'_>, frame: &FrameFacts, result: Result<Payload, Payload>, announce: bool) {
        let then = self.block_step(ended, frame);
        self.end_frame(ended, frame, result, announce, Some(then));
        self.close(ended, frame);
    }

    /// One of the iterations of the block failed, and its frame says so already.
    pub(super) fn count_failure(&mut self, index: usize, ended: &Ended<'_>) {
        self.iteration_ended(index, ended, ended.step.frame, FAILURES, true);
        self.iteration_ended(index, ended, ended.step.frame, END, false);
    }

    /// One iteration of a block that runs them at once has ended: `node` counts it.
    fn iteration_ended(&mut self, index: usize, ended: &Ended<'_>, whole: i32, node: NodeNumber, taken: bool) {
        let Some(facts) = ended.values.frames.iter().rev().find(|frame| frame.frame == whole) else { return };
        let Some(join) = block_join(facts, node) else { return };
        let bounds = facts.bounds.filter(|_| node == END);
        self.arrive_in(index, ended, (whole, node, bounds), (1, i32::from(taken)), join);
    }

    fn end_frame(
        &mut self,
        ended: &Ended<'_>,
        frame: &FrameFacts,
        result: Result<Payload, Payload>,
        announce: bool,
        then: Option<Following>,
    ) {
        // two steps of one frame may end it in one batch: the first does
        let run_id = ended.step.run_id;
        if !self.batch.frame_endings.iter().any(|end| (end.run_id, end.frame) == (run_id, frame.frame)) {
            self.batch.frame_endings.push(FrameEnding { run_id, frame: frame.frame, result, announce, then });
        }
    }

    fn close(&mut self, ended: &Ended<'_>, frame: &FrameFacts) {
        self.closed.insert((ended.step.run_id, frame.frame));
    }

    /// The step that ends the block's attempt; it is numbered by the frame that stands for that.
    fn block_step(&mut self, ended: &Ended<'_>, whole: &FrameFacts) -> Following {
        self.following(ended, whole.parent, whole.block, whole.frame)
    }

    /// The step that says what the block does after this body, numbered by the body's frame.
    fn next_step(&mut self, ended: &Ended<'_>, body: &FrameFacts) -> Following {
        self.following(ended, body.parent, NEXT, body.frame)
    }

    fn following(&mut self, ended: &Ended<'_>, frame: i32, node: NodeNumber, attempt: i32) -> Following {
        let keep = self.keep_engine(ended);
        Following {
            frame,
            node,
            attempt,
            queue_id: ended.version.queue_id(node),
            priority: ended.step.priority,
            version_id: ended.step.version_id,
            keep,
        }
    }

    /// Note which closings concern the frames around the step, for what the batch may close.
    pub(super) fn note_frames(&mut self, ended: &Ended<'_>) {
        let frames = &ended.values.frames;
        for (depth, frame) in frames.iter().enumerate() {
            self.concerning
                .entry((ended.step.run_id, frame.frame))
                .or_insert_with(|| frames.get(..=depth).map_or_else(Vec::new, |frames| concerning(frames).collect()));
        }
    }
}
