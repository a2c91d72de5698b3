//! A step on a baton of its own, for a transaction that will consume it (see `transaction`).

use std::sync::Arc;

use longshore_core::attempt::Plan;
use longshore_core::complete::PrivateStep;
use longshore_core::cycle::Baton;
use longshore_core::queue::HeldStep;
use tokio::sync::oneshot;

use super::{Lane, LaneSpec, Serves};
use crate::execute::Token;
use crate::transaction::Moved;

impl Lane {
    /// What a transaction needs to consume this lane's baton: only for a lane of one private step.
    pub(super) fn private_step(&self) -> Option<PrivateStep> {
        let (baton, held) = (self.baton.as_ref()?, self.held.values().next()?);
        let HeldStep { queue_id, priority, run_id, version_id, frame, node, attempt, enqueued_at, claimed_at, .. } =
            held.step;
        self.spec.private.then_some(PrivateStep {
            lane_id: baton.lane_id,
            cycle: baton.cycle,
            queue_id,
            priority,
            run_id,
            version_id,
            frame,
            node,
            attempt,
            enqueued_at,
            claimed_at,
        })
    }

    /// Give the step that wished it a lane of its own, on the baton that the cycle made.
    fn part(&mut self, lane_id: i64, token: Token, answer: oneshot::Sender<Moved>) {
        let Some(held) = self.held.remove(&token) else {
            return;
        };
        let spec = LaneSpec { slots: Serves::default(), solo: false, private: true };
        let mut lane = Lane::new(self.shared.clone(), spec, Arc::default());
        lane.baton = Some(Baton { lane_id, cycle: 1, stands: true, registered: true });
        lane.lease_until = self.lease_until;
        lane.last_pass = self.last_pass;
        lane.look = false;
        lane.held.insert(token, held);
        let mailbox = lane.mailbox.clone();
        self.moved.insert(token, mailbox.clone());
        self.shared.lanes.spawn(lane.run());
        // the handler may be gone already; then its report follows the step
        let _ = answer.send(mailbox);
    }

    /// The private batons that the cycle made go to the steps that wished them.
    pub(super) fn grant(&mut self, plan: &Plan) {
        let mut batons = plan.batch.private.iter();
        for (token, answer) in std::mem::take(&mut self.wishes) {
            // a wish for a step that ended meanwhile had no part in the batch
            if self.held.contains_key(&token)
                && let Some((lane_id, _)) = batons.next()
            {
                self.part(*lane_id, token, answer);
            }
        }
    }
}
