//! Joins: what a batch brings to each. Those that are whole within the batch are decided here, the others are counted by the database.

use super::{Ended, Plan, frames, is_engine};
use crate::cycle::JoinArrival;
use crate::graph::{Bounds, FAILURES, Join, NodeNumber};
use crate::queue::{StepKind, StepRef};
use crate::successor::{Ending as Successors, TOO_FEW, successor};

/// What one batch brings to one join.
#[derive(Debug)]
pub(super) struct Arrived {
    resolved: i32,
    taken: i32,
    join: Join,
    bounds: Option<Bounds>,
    /// Index of an ended step of that run.
    from: usize,
}

impl Plan {
    /// A join that waited for all its in-edges has them when its step runs; its row goes in this cycle, which is later than the one that fired it.
    pub(super) fn forget_whole_join(&mut self, ended: &Ended<'_>) {
        let step = ended.step;
        let whole = |need| need <= 0 || matches!(step.kind, StepKind::Skip | StepKind::Rest);
        if frames::join(ended, step.node).is_some_and(|join| whole(join.need)) {
            self.batch.resolved_joins.push(StepRef { run_id: step.run_id, frame: step.frame, node: step.node });
        }
    }

    pub(super) fn arrive(&mut self, index: usize, ended: &Ended<'_>, node: NodeNumber, resolved: i32, taken: i32) {
        let step = ended.step;
        let Some(join) = frames::join(ended, node) else {
            tracing::error!(run_id = %step.run_id, node, "arrival at a node that is no join: dropped");
            return;
        };
        self.arrive_in(index, ended, (step.frame, node, None), (resolved, taken), join);
    }

    pub(super) fn arrive_in(
        &mut self,
        index: usize,
        ended: &Ended<'_>,
        (frame, node, bounds): (i32, NodeNumber, Option<Bounds>),
        (resolved, taken): (i32, i32),
        join: Join,
    ) {
        let none = || Arrived { resolved: 0, taken: 0, join, bounds, from: index };
        let arrived = self.arrivals.entry((ended.step.run_id, frame, node)).or_insert_with(none);
        arrived.resolved += resolved;
        arrived.taken += taken;
    }

    /// Joins all of whose in-edges were resolved in this batch need no row: they are decided here. Skips spread further, until nothing changes.
    pub(super) fn settle_complete_joins(&mut self, ended: &[Ended<'_>]) {
        loop {
            let complete: Vec<_> = self.arrivals.extract_if(.., |_, a| a.resolved >= a.join.indegree).collect();
            if complete.is_empty() {
                return;
            }
            for ((run_id, frame, node), arrived) in complete {
                let Some(from) = ended.get(arrived.from) else { continue };
                let fires = arrived.join.fires(0, arrived.resolved, arrived.taken);
                if !fires && node == FAILURES {
                    continue;
                }
                if fires || node < 0 {
                    self.keep_complete_join(from, frame, node, if fires { StepKind::Run } else { StepKind::Skip });
                } else {
                    self.record_skip(run_id, frame, node, TOO_FEW);
                    self.spread(&arrived, from, node, &Successors::Skipped);
                }
                if arrived.join.fires_early() && node >= 0 {
                    self.spread(&arrived, from, node, &Successors::Rested);
                }
            }
        }
    }

    /// What follows from a join that this batch decided without running it.
    fn spread(&mut self, arrived: &Arrived, from: &Ended<'_>, node: NodeNumber, ending: &Successors<'_>) {
        match successor(&from.version.graph, node, *ending, from.values) {
            Ok(consequences) => self.apply(arrived.from, from, consequences, None),
            Err(error) => self.fail_body(from, &error),
        }
    }

    fn keep_complete_join(&mut self, from: &Ended<'_>, frame: i32, node: NodeNumber, kind: StepKind) {
        let next = from.step_job(frame, node, kind);
        let room = self.take_room(from, node);
        self.put(next, room, None);
    }

    pub(super) fn enlist_joins(&mut self, ended: &[Ended<'_>]) {
        for ((run_id, frame, node), arrived) in std::mem::take(&mut self.arrivals) {
            let Some(from) = ended.get(arrived.from) else { continue };
            // keep a place for it in case it fires
            let keep = self.take_room(from, node);
            self.batch.keep_joins += i32::from(keep);
            self.batch.joins.push(JoinArrival {
                run_id,
                frame,
                node,
                resolved: arrived.resolved,
                taken: arrived.taken,
                indegree: arrived.join.indegree,
                need: arrived.join.need,
                queue_id: from.version.queue_id(node),
                priority: from.step.priority,
                version_id: from.step.version_id,
                keep,
                bounds: arrived.bounds,
            });
        }
    }

    fn take_room(&mut self, from: &Ended<'_>, node: NodeNumber) -> bool {
        if is_engine(from, node) { self.room.take_engine() } else { self.room.take(from.version.queue_id(node)) }
    }
}
