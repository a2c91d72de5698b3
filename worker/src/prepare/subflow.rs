//! Steps that start runs: what must be read for them, and what becomes of the engine's own. Whether the run has ended is read in a later snapshot than
//! the cycle that gave the lane the step (`longshore_core::attempt`).

use std::collections::HashMap;

use longshore_core::attempt::{Call, Ending};
use longshore_core::child;
use longshore_core::definition::subflow::MAX_DEPTH;
use longshore_core::error::{self, StepError, gone};
use longshore_core::graph::{CHILD, Node, Subflow};
use longshore_core::queue::{HeldStep, StepKind, StepRef};
use uuid::Uuid;

use super::{Heard, places, runs_of};
use crate::lane::Held;
use crate::shared::Shared;

fn subflow(held: &Held) -> Option<&Subflow> {
    held.version.graph.node(held.step.node).and_then(Node::subflow)
}

fn is_woken(held: &Held) -> bool {
    held.step.kind == StepKind::Due && subflow(held).is_some()
}

/// The step that waits for a run: an engine step's number is the node's.
fn waiting(held: &Held) -> StepRef {
    let HeldStep { run_id, frame, node, attempt, .. } = held.step;
    StepRef { run_id, frame, node: if node == CHILD { attempt } else { node } }
}

/// Read how the runs stand that steps wait for, and how deep the runs of those are that start one. False when the worker gave up waiting.
pub(super) async fn look(shared: &Shared, new: &mut [Held]) -> bool {
    let starts = places(new, |held| held.step.kind == StepKind::Run && subflow(held).is_some());
    let (told, woken) = (places(new, |held| held.step.node == CHILD), places(new, is_woken));
    if starts.is_empty() && told.is_empty() && woken.is_empty() {
        return true;
    }
    read_depths(shared, new, &starts).await
        && read_children(shared, new, &told, false).await
        && read_children(shared, new, &woken, true).await
}

async fn read_depths(shared: &Shared, new: &mut [Held], places: &[usize]) -> bool {
    let runs = runs_of(new, places);
    if runs.is_empty() {
        return true;
    }
    let read = shared.insist("read how deep runs are", || async {
        child::depths(&mut shared.sender.access.session().await?, &runs).await
    });
    let Some(found) = read.await else { return false };
    let depths: HashMap<Uuid, i32> = found.into_iter().collect();
    for place in places {
        if let Some(held) = new.get_mut(*place) {
            held.heard = Heard::Depth(depths.get(&held.step.run_id).copied().unwrap_or(0));
        }
    }
    true
}

async fn read_children(shared: &Shared, new: &mut [Held], places: &[usize], with_results: bool) -> bool {
    let waits: Vec<StepRef> = places.iter().filter_map(|place| new.get(*place)).map(waiting).collect();
    if waits.is_empty() {
        return true;
    }
    let read = shared.insist("read the runs that steps wait for", || async {
        child::of_waits(&mut shared.sender.access.session().await?, &waits, with_results).await
    });
    let Some(found) = read.await else { return false };
    for (place, child) in places.iter().zip(found) {
        if let (Some(held), Some(child)) = (new.get_mut(*place), child) {
            held.heard = Heard::Child(Box::new(child));
        }
    }
    true
}

/// What becomes of the news that a run has ended, and of a step that was woken by it or by time; none for all other steps.
pub(super) fn decide(held: &Held) -> Option<Ending> {
    let child = match &held.heard {
        Heard::Child(child) => Some(child),
        _ => None,
    };
    if held.step.node == CHILD {
        return Some(if child.is_some_and(|child| child.wakes()) { Ending::Wakes } else { Ending::Told });
    }
    let subflow = subflow(held).filter(|_| is_woken(held))?;
    Some(match child {
        Some(child) => {
            let (result, left) = child.end(subflow);
            let result = result.map_err(|error| error.at(held.version.graph.id(held.step.node), held.step.attempt));
            Ending::Woken { result, since: child.since, left }
        }
        None => Ending::Failed { error: gone("what this step waited for"), retry_after: None },
    })
}

/// A step starts a run.
pub(super) fn call(held: &Held, subflow: &Subflow) -> Result<Ending, StepError> {
    let node = held.step.node;
    let depth = match held.heard {
        Heard::Depth(depth) => i16::try_from(depth).unwrap_or(i16::MAX),
        _ => return Err(gone("the run")),
    };
    if depth >= MAX_DEPTH {
        let text = format!("{MAX_DEPTH} runs are around this one, each started by the one before: it starts no more");
        return Err(StepError::permanent(error::SUBFLOW_TOO_DEEP, &text));
    }
    let child = held.version.children.get(&node).ok_or_else(|| gone("which workflow the node starts"))?;
    Ok(Ending::Called(Box::new(Call {
        run_id: child_id(held),
        workflow_id: child.workflow_id,
        version_id: child.version_id,
        input: held.version.graph.input(node, &held.values)?,
        depth: depth + 1,
        mode: subflow.mode,
        close_policy: subflow.close_policy,
        timeout: subflow.timeout,
    })))
}

/// A new run's id: as with every start its time is by Postgres' clock, that of the claim, and it is later than its parent's.
fn child_id(held: &Held) -> Uuid {
    let millis = |id: Uuid| (id.as_u128() >> 80) as u64;
    let claimed = held.step.claimed_at.map_or(0, |at| u64::try_from(at.timestamp_millis()).unwrap_or(0));
    let at = claimed.max(millis(held.step.run_id).saturating_add(1));
    let random: [u8; 10] = rand::random();
    uuid::Builder::from_unix_timestamp_millis(at, &random).into_uuid()
}
