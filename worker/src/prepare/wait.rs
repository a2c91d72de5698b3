//! Steps of waits: what must be read for them, and what becomes of the engine's own. All of it is read in a later snapshot than the cycle that gave
//! the lane the step, which is what keeps a wait and a signal from missing each other (`longshore_core::attempt`).

use longshore_core::attempt::Ending;
use longshore_core::child::Child;
use longshore_core::error::gone;
use longshore_core::graph::{DELIVER, LOOK, NodeKind, NodeNumber, TIME_UP, Verdict, WaitKind, timed_out};
use longshore_core::queue::{StepKind, StepRef};
use longshore_core::signal::{self, Woken, WokenBy};

use super::{places, runs_of};
use crate::lane::Held;
use crate::shared::Shared;

/// How many signals a look reads at a time.
const PAGE: usize = 64;

/// What a step of a wait, or one that starts a run, was read.
#[derive(Debug, Default)]
pub(crate) enum Heard {
    /// Nothing, or nothing yet.
    #[default]
    Nothing,
    /// What woke it.
    Woken(Box<Woken>),
    /// The signals that are for it.
    Looked(Vec<Verdict>),
    /// What the milestone waits for is so.
    Reached,
    /// Who may have waited for the signal that was sent.
    Waiters(Vec<(i32, NodeNumber)>),
    /// The run that a step waits for.
    Child(Box<Child>),
    /// How many runs are around that of a step which starts one.
    Depth(i32),
}

/// The node whose needs the step has: a look decides for the node that waits.
pub(super) fn node_in_question(held: &Held) -> NodeNumber {
    if held.step.node == LOOK { held.step.attempt } else { held.step.node }
}

fn is_wait(held: &Held, node: NodeNumber) -> bool {
    held.version.graph.node(node).is_some_and(|node| matches!(node.kind, NodeKind::Wait(_)))
}

fn is_milestone(held: &Held) -> bool {
    let node = held.version.graph.node(node_in_question(held));
    node.is_some_and(|node| matches!(node.kind, NodeKind::Wait(WaitKind::Milestone)))
}

fn is_woken(held: &Held) -> bool {
    held.step.kind == StepKind::Due && is_wait(held, held.step.node)
}

fn key(held: &Held) -> StepRef {
    StepRef { run_id: held.step.run_id, frame: held.step.frame, node: node_in_question(held) }
}

/// Read what steps of waits need. False when the worker gave up waiting.
pub(super) async fn listen(shared: &Shared, new: &mut [Held]) -> bool {
    let (woken, delivers) = (places(new, is_woken), places(new, |held| held.step.node == DELIVER));
    for place in places(new, |held| held.step.node == LOOK && is_milestone(held)) {
        // the context was read just now, in a later snapshot than the cycle that announced the wait or changed the context
        if let Some(held) = new.get_mut(place)
            && held.version.graph.is_reached(node_in_question(held), &held.values)
        {
            held.heard = Heard::Reached;
        }
    }
    let looks = places(new, |held| held.step.node == LOOK && !is_milestone(held));
    if woken.is_empty() && delivers.is_empty() && looks.is_empty() {
        return true;
    }
    read_woken(shared, new, &woken).await
        && read_waiters(shared, new, &delivers).await
        && look(shared, new, looks).await
}

async fn read_woken(shared: &Shared, new: &mut [Held], places: &[usize]) -> bool {
    let waits: Vec<StepRef> = places.iter().filter_map(|place| new.get(*place)).map(key).collect();
    if waits.is_empty() {
        return true;
    }
    let read = shared.insist("read what woke waits", || async {
        signal::woken(&mut shared.sender.access.session().await?, &waits).await
    });
    let Some(found) = read.await else { return false };
    for (place, woken) in places.iter().zip(found) {
        if let (Some(held), Some(woken)) = (new.get_mut(*place), woken) {
            held.heard = Heard::Woken(Box::new(woken));
        }
    }
    true
}

async fn read_waiters(shared: &Shared, new: &mut [Held], places: &[usize]) -> bool {
    let runs = runs_of(new, places);
    if runs.is_empty() {
        return true;
    }
    let read = shared.insist("read who waits for signals", || async {
        signal::waiters(&mut shared.sender.access.session().await?, &runs).await
    });
    let Some(found) = read.await else { return false };
    for place in places {
        if let Some(held) = new.get_mut(*place) {
            let own = found.iter().filter(|wait| wait.run_id == held.step.run_id);
            held.heard = Heard::Waiters(own.map(|wait| (wait.frame, wait.node)).collect());
        }
    }
    true
}

/// Look for signals, page by page until one is found or there are no more.
async fn look(shared: &Shared, new: &mut [Held], places: Vec<usize>) -> bool {
    let mut open: Vec<(usize, i64)> = places.into_iter().map(|place| (place, 0)).collect();
    while !open.is_empty() {
        let waits: Vec<(StepRef, i64)> =
            open.iter().filter_map(|(place, after)| Some((key(new.get(*place)?), *after))).collect();
        let read = shared.insist("read the signals that waits look for", || async {
            signal::candidates(&mut shared.sender.access.session().await?, &waits, PAGE).await
        });
        let Some(found) = read.await else { return false };
        let mut next = Vec::new();
        for ((place, _), signals) in open.into_iter().zip(found) {
            let Some(held) = new.get_mut(place) else { continue };
            // a node that is no wait takes nothing
            let verdicts = held.version.graph.judge(node_in_question(held), &held.values, &signals).unwrap_or_default();
            let more = verdicts.is_empty() && signals.len() >= PAGE;
            if let Some(last) = signals.last().filter(|_| more) {
                next.push((place, last.id));
            } else {
                held.heard = Heard::Looked(verdicts);
            }
        }
        open = next;
    }
    true
}

/// What becomes of an engine step of a wait, and of a wait that was woken; none for all other steps.
pub(super) fn decide(held: &mut Held) -> Option<Ending> {
    let about_a_run = matches!(held.heard, Heard::Child(_) | Heard::Depth(_));
    let heard = if about_a_run { Heard::Nothing } else { std::mem::take(&mut held.heard) };
    match held.step.node {
        DELIVER => Some(match heard {
            Heard::Waiters(waiters) => Ending::Delivered(waiters),
            _ => Ending::Delivered(Vec::new()),
        }),
        LOOK => Some(match heard {
            Heard::Looked(verdicts) => Ending::Looked(verdicts),
            Heard::Reached => Ending::Reached,
            _ => Ending::Looked(Vec::new()),
        }),
        TIME_UP => Some(Ending::Wakes),
        _ if is_woken(held) => Some(match heard {
            Heard::Woken(woken) => woken_by(held, *woken),
            _ => Ending::Failed { error: gone("what woke this wait"), retry_after: None },
        }),
        _ => None,
    }
}

fn woken_by(held: &Held, woken: Woken) -> Ending {
    let result = match woken.by {
        WokenBy::Signal(signal) => Ok(held.version.graph.taken(held.step.node, &signal)),
        WokenBy::Reached => held.version.graph.input(held.step.node, &held.values),
        WokenBy::Time => Err(timed_out(&woken.names).at(held.version.graph.id(held.step.node), held.step.attempt)),
    };
    Ending::Woken { result, since: woken.since, left: None }
}
