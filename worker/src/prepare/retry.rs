//! What must be read before a step that failed before may fail again: what its earlier failures were, where it has several policies, and when its first
//! attempt was, where one of them bounds the time since then.

use std::time::Instant;

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

/// How often the step has failed since its policies began to count. That of a block is in the frame which stands for it, and was read with that.
fn failed_before(held: &Held) -> i16 {
    match held.instances.first() {
        Some(whole) if block::is_end_of_block(held) => whole.failed,
        _ => held.step.failed,
    }
}

/// Read what earlier failures were, and how long ago the first attempt was. False when the worker gave up waiting.
pub(super) async fn read_past(shared: &Shared, new: &mut [Held]) -> bool {
    let of = |chosen: fn(&RetryPolicies) -> bool| {
        let asks = |held: &Held| policies(held).is_some_and(chosen) && failed_before(held) > 0;
        let found = places(new, asks).into_iter().filter_map(|place| new.get(place));
        found.map(|held| (key(held), i32::from(failed_before(held)))).collect::<Vec<_>>()
    };
    let (counted, timed) = (of(RetryPolicies::count_by_error), of(RetryPolicies::bound_total));
    if counted.is_empty() && timed.is_empty() {
        return true;
    }
    let read = shared.insist("read what failures there were", || async {
        let mut session = shared.sender.access.session().await?;
        let failures = results::failures(&mut session, &counted).await?;
        Ok::<_, sqlx::Error>((failures, results::since_first_attempt(&mut session, &timed).await?))
    });
    let Some((mut failures, firsts)) = read.await else { return false };
    let now = Instant::now();
    for held in new {
        held.failures = failures.remove(&key(held)).unwrap_or_default();
        held.since_first = firsts.get(&key(held)).and_then(|since| now.checked_sub(*since));
    }
    true
}

fn key(held: &Held) -> StepRef {
    StepRef { run_id: held.step.run_id, frame: held.step.frame, node: held.step.node }
}
