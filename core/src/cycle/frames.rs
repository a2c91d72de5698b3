//! What of a batch concerns frames, waits, contexts, pauses and child runs, as the cycle's function takes it: one JSON object without what is not there.
//! Frames are many in a large `foreach`, so what begins together is said once, and nothing is built that is only written out.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Batch, ContextWrite, Following, FrameEnding, NewChild, NewChunk, NewFrame, NewWait, Wake};
use crate::frame::Chunk;
use crate::graph::{BodyNumber, Bounds, NodeNumber};
use crate::payload::Payload;
use crate::queue::{HeldStep, StepRef};
use crate::state::RunState;

/// The object.
#[derive(Serialize)]
pub(super) struct Frames<'b> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    end: Vec<End<'b>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    new: Vec<New<'b>>,
    #[serde(flatten)]
    others: BTreeMap<&'static str, Vec<Value>>,
}

/// A frame that ends.
#[derive(Serialize)]
struct End<'b> {
    run: Uuid,
    frame: i32,
    state: i16,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'b str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'b str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    announce: bool,
    #[serde(flatten)]
    then: Option<Then>,
}

/// What follows its end.
#[derive(Serialize)]
struct Then {
    then_frame: i32,
    then_node: NodeNumber,
    then_attempt: i32,
    queue: i32,
    priority: i16,
    version: i32,
    keep: bool,
}

/// Frames that begin and follow each other.
#[derive(Serialize)]
struct New<'b> {
    run: Uuid,
    frame: i32,
    parent: i32,
    node: NodeNumber,
    attempt: i32,
    iteration: i32,
    body: Option<BodyNumber>,
    path: &'b [i32],
    #[serde(skip_serializing_if = "<[i32]>::is_empty")]
    before: &'b [i32],
    failed: i16,
    whole: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    bounds: Option<Bounds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shield: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cleanup: Option<i16>,
    inputs: Vec<Option<&'b str>>,
}

impl<'b> Frames<'b> {
    /// None where nothing is concerned.
    pub(super) fn of(batch: &'b Batch) -> Option<Self> {
        let Batch { frames, frame_endings, chunks, opened, forgotten_passes, .. } = batch;
        let mut others = BTreeMap::new();
        let mut put = |name, rows: Vec<Value>| {
            if !rows.is_empty() {
                others.insert(name, rows);
            }
        };
        put("chunks", chunks.iter().map(chunk).collect());
        put("opened", opened.iter().map(opens).collect());
        put("forget", forgotten_passes.iter().map(forget).collect());
        put("wait", batch.waiting.iter().map(wait).collect());
        put("wake", batch.wakes.iter().map(wake).collect());
        put("waited", batch.waited.iter().map(waited).collect());
        put("context", batch.contexts.iter().map(context).collect());
        put("pause", batch.pauses.iter().map(pause).collect());
        put("park", batch.parked.iter().map(park).collect());
        put("children", batch.children.iter().map(child).collect());
        put("asks", batch.asks.iter().map(ask).collect());
        let all = Self { end: frame_endings.iter().map(End::of).collect(), new: New::of(frames), others };
        (!all.end.is_empty() || !all.new.is_empty() || !all.others.is_empty()).then_some(all)
    }
}

impl<'b> End<'b> {
    fn of(end: &'b FrameEnding) -> Self {
        let (state, output, error) = match &end.result {
            Ok(output) => (RunState::Completed, Some(output.as_str()), None),
            Err(error) => (RunState::Failed, None, Some(error.as_str())),
        };
        let then = end.then.as_ref().map(Then::of);
        Self { run: end.run_id, frame: end.frame, state: state.code(), output, error, announce: end.announce, then }
    }
}

impl Then {
    fn of(then: &Following) -> Self {
        Self {
            then_frame: then.frame,
            then_node: then.node,
            then_attempt: then.attempt,
            queue: then.queue_id,
            priority: then.priority,
            version: then.version_id,
            keep: then.keep,
        }
    }
}

impl<'b> New<'b> {
    fn of(frames: &'b [NewFrame]) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for new in frames {
            let facts = &new.facts;
            let input = if facts.iteration >= 0 { Some(&facts.input) } else { new.kept_input.as_ref() };
            let input = input.map(Payload::as_str);
            match all.last_mut().filter(|last| last.is_followed_by(new)) {
                Some(last) => last.inputs.push(input),
                None => all.push(Self {
                    run: new.run_id,
                    frame: facts.frame,
                    parent: facts.parent,
                    node: facts.block,
                    attempt: facts.attempt,
                    iteration: facts.iteration,
                    body: new.body,
                    path: &new.path,
                    before: &facts.before,
                    failed: facts.failed,
                    whole: facts.whole,
                    bounds: facts.bounds,
                    shield: new.shield,
                    // 2 is written by settling alone
                    cleanup: new.cleans_up.then_some(1),
                    inputs: vec![input],
                }),
            }
        }
        all
    }

    /// The frame is of the next iteration of the same body, and has the next number.
    fn is_followed_by(&self, next: &NewFrame) -> bool {
        let facts = &next.facts;
        let count = i32::try_from(self.inputs.len()).unwrap_or(i32::MAX);
        !self.whole
            && (self.run, self.parent, self.node, self.body) == (next.run_id, facts.parent, facts.block, next.body)
            && (self.attempt, self.failed, self.whole) == (facts.attempt, facts.failed, facts.whole)
            && self.frame.checked_add(count) == Some(facts.frame)
            && self.iteration.checked_add(count) == Some(facts.iteration)
            && self.shield == next.shield
            && (self.path, self.before) == (next.path.as_slice(), facts.before.as_slice())
    }
}

fn chunk(new: &NewChunk) -> Value {
    let Chunk { chunk, count, items } = &new.chunk;
    let items = items.as_ref().map(Payload::as_str);
    json!({"run": new.run_id, "frame": new.frame, "chunk": chunk, "first": new.first, "count": count, "items": items})
}

fn opens((run, frame, chunk, first): &(Uuid, i32, i32, i32)) -> Value {
    json!({"run": run, "frame": frame, "chunk": chunk, "first": first})
}

fn forget((run, frame, deep): &(Uuid, i32, bool)) -> Value {
    json!({"run": run, "frame": frame, "deep": deep})
}

fn wait(wait: &NewWait) -> Value {
    json!({
        "run": wait.key.run_id, "frame": wait.key.frame, "node": wait.key.node, "attempt": wait.attempt, "version": wait.version_id,
        "queue": wait.queue_id, "priority": wait.priority, "failed": wait.failed, "names": wait.names, "picky": wait.picky,
        "after_us": wait.timeout.map(|after| i64::try_from(after.as_micros()).unwrap_or(i64::MAX)), "timer": wait.timer_queue_id,
        "child": wait.child,
    })
}

fn wake(wake: &Wake) -> Value {
    json!({
        "run": wake.key.run_id, "frame": wake.key.frame, "node": wake.key.node, "signal": wake.signal, "refused": wake.refused,
        "keep": wake.keep,
    })
}

fn waited(key: &StepRef) -> Value {
    json!({"run": key.run_id, "frame": key.frame, "node": key.node})
}

fn context(write: &ContextWrite) -> Value {
    match &write.by {
        Some((frame, node, attempt, changes)) => json!({
            "run": write.run_id, "version": write.version_id, "frame": frame, "node": node, "attempt": attempt, "changes": changes,
        }),
        None => json!({"run": write.run_id}),
    }
}

fn pause((run, why): &(Uuid, Payload)) -> Value {
    json!({"run": run, "why": why.as_str()})
}

fn park(step: &HeldStep) -> Value {
    json!({
        "run": step.run_id, "version": step.version_id, "frame": step.frame, "node": step.node, "kind": step.kind.code(), "attempt": step.attempt,
        "failed": step.failed, "lost": step.lost, "queue": step.queue_id, "priority": step.queue_priority(),
    })
}

fn child(new: &NewChild) -> Value {
    json!({
        "run": new.run_id, "workflow": new.workflow_id, "version": new.version_id, "depth": new.depth, "policy": new.close_policy.code(),
        "awaited": new.awaited, "input": new.input.as_str(), "priority": new.priority, "parent": new.parent.run_id, "frame": new.parent.frame,
        "node": new.parent.node, "attempt": new.parent_attempt,
    })
}

fn ask((child, parent): &(Uuid, Uuid)) -> Value {
    json!({"run": child, "parent": parent})
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::graph::FrameFacts;

    fn new(frame: i32, iteration: i32, whole: bool) -> NewFrame {
        let facts = FrameFacts {
            frame,
            parent: 7,
            block: 0,
            attempt: 1,
            iteration,
            whole,
            failed: 0,
            bounds: None,
            input: Payload::of(&iteration).unwrap(),
            before: Vec::new(),
            live: true,
            finally: false,
            created_at: None,
        };
        let body = (!whole).then_some(1);
        NewFrame { run_id: Uuid::nil(), facts, body, path: vec![7], kept_input: None, shield: None, cleans_up: false }
    }

    #[test]
    fn frames_that_follow_each_other_are_said_once() {
        let frames = [new(7, -1, true), new(8, 0, false), new(9, 1, false), new(11, 2, false), new(12, 4, false)];
        let batch = Batch { frames: frames.into(), ..Batch::default() };
        let all = serde_json::to_value(Frames::of(&batch)).unwrap();
        let said = |row: &Value| (row["frame"].as_i64(), row["iteration"].as_i64(), row["inputs"].clone());
        let said: Vec<_> = all["new"].as_array().unwrap().iter().map(said).collect();
        let expected =
            [(7, -1, json!([null])), (8, 0, json!(["0", "1"])), (11, 2, json!(["2"])), (12, 4, json!(["4"]))];
        assert_eq!(said, expected.map(|(frame, iteration, inputs)| (Some(frame), Some(iteration), inputs)));
        assert_eq!(all.as_object().unwrap().len(), 1, "what is not there is not said");
        assert!(Frames::of(&Batch::default()).is_none());
    }
}
