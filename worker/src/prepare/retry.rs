//! What must be read before a step that failed before may fail again: what its earlier failures were, where it has several policies.

use longshore_core::graph::Node;
use longshore_core::queue::StepRef;
use longshore_core::results;
use longshore_core::retry::RetryPolicies;

use super::{block, places};
use crate::lane::Held;
use crate::shared::Shared;

fn policies(held: &Held) -> Option<&RetryPolicies> {
    held.version.graph.node(held.step.node).and_then(Node::retry)
}

/// One of the node's policies bounds the time since its first attempt.
pub(super) fn bounds_total(held: &Held) -> bool {
    policies(held).is_some_and(RetryPolicies::bound_total)
}

/// How often the step has failed since its policies began to count. That of a block is in the frame which stands for it, and was read with that.
fn failed_before(held: &Held) -> i16 {
    match held.instances.first() {
        Some(whole) if block::is_end_of_block(held) => whole.failed,
        _ => held.step.failed,
    }
}

/// Read what earlier failures were. False when the worker gave up waiting.
pub(super) async fn read_failures(shared: &Shared, new: &mut [Held]) -> bool {
    let counts = |held: &Held| policies(held).is_some_and(RetryPolicies::count_by_error) && failed_before(held) > 0;
    let places = places(new, counts);
    if places.is_empty() {
        return true;
    }
    let key = |held: &Held| StepRef { run_id: held.step.run_id, frame: held.step.frame, node: held.step.node };
    let found = places.iter().filter_map(|place| new.get(*place));
    let steps: Vec<(StepRef, i32)> = found.map(|held| (key(held), i32::from(failed_before(held)))).collect();
    let read = shared.insist("read what failures there were", || async {
        results::failures(&mut shared.sender.access.session().await?, &steps).await
    });
    let Some(mut found) = read.await else { return false };
    for place in places {
        if let Some(held) = new.get_mut(place) {
            held.failures = found.remove(&key(held)).unwrap_or_default();
        }
    }
    true
}
