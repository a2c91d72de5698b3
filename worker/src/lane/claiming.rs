//! When a lane claims, how much and from where: its free slots, the low-water marks, and the pace when it found too little.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use longshore_core::attempt::{self, Room};
use longshore_core::queue::{Claim, PRIORITIES, SOLO, Source};

use super::Lane;

/// A busy lane that found less than it had slots for looks again this much later, unless it is told of work.
const DRY_PAUSE: Duration = Duration::from_millis(100);

/// A lane with fewer than a quarter of its slots free claims this often at most.
pub(super) const CLAIM_PAUSE: Duration = Duration::from_millis(20);

impl Lane {
    /// Slots that a claim could fill now.
    pub(super) fn free_slots(&self) -> i32 {
        if self.draining() || self.spec.private || self.shared.blocked() {
            return 0;
        }
        if self.spec.solo {
            return i32::from(self.held.is_empty() && self.finished.is_empty());
        }
        let places = attempt::places(self.held.len() + self.finished.len());
        let free = |(queue_id, slots): &(i32, i32)| {
            let occupied = self.held.values().filter(|held| held.slot && held.step.queue_id == *queue_id).count();
            (slots - i32::try_from(occupied).unwrap_or(*slots)).max(0)
        };
        self.spec.slots.get().iter().map(free).sum::<i32>().min(places)
    }

    /// Worth a claim: a quarter of the slots is free, or it is a while since the last one.
    pub(super) fn claim_is_due(&self, now: Instant) -> bool {
        let free = self.free_slots();
        free > 0 && (free * 4 >= self.spec.slots.total().min(places_at_all()) || now >= self.last_claim + CLAIM_PAUSE)
    }

    /// What to claim with this room, and whether it sweeps.
    pub(super) fn claim(&mut self, room: &Room, now: Instant) -> (Claim, bool) {
        let slots = self.spec.slots.total();
        let free: i32 = room.slots.values().map(|free| (*free).max(0)).sum::<i32>().min(room.total);
        // a lonely step shares its lane with nothing
        let free = if self.spec.solo { i32::from(room.total == attempt::places(0)) } else { free };
        let worth = free > 0 && (free * 4 >= slots.min(places_at_all()) || now >= self.last_claim + CLAIM_PAUSE);
        if self.draining() || self.shared.blocked() || !worth || !(self.look || now >= self.claim_after) {
            return (Claim::default(), false);
        }
        let sweep = self.shared.sweeps.begin(now, self.sweep_soon);
        if self.dry && self.sweep_soon && !sweep {
            // nothing lies above the marks, and it is too soon to look below them
            self.look = false;
            self.claim_after = now + DRY_PAUSE;
            return (Claim::default(), false);
        }
        let serves = self.spec.slots.get();
        let marks = self.shared.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sources = Vec::with_capacity(4 * serves.len());
        for priority in PRIORITIES {
            let priority = priority + if self.spec.solo { SOLO } else { 0 };
            for (queue_id, _) in serves.iter() {
                let limit = room.slots.get(queue_id).copied().unwrap_or(0).min(free);
                if limit > 0 {
                    let low = if sweep { 0 } else { marks.get(*queue_id, priority) };
                    sources.push(Source { queue_id: *queue_id, priority, low, limit });
                }
            }
        }
        (Claim { sources, limit: free }, sweep)
    }

    pub(super) fn note_claim(&mut self, claim: &Claim, claimed: usize, now: Instant, sweep: bool) {
        if claim.limit == 0 {
            return;
        }
        self.last_claim = now;
        self.backlog = claimed >= usize::try_from(claim.limit).unwrap_or(0);
        self.dry = !self.backlog;
        if self.backlog {
            self.look = true;
            // a look below the marks that is owed stays owed
            self.sweep_soon &= !sweep;
        } else {
            // found less than it has slots for: look below the marks once, then rest
            self.look = !sweep;
            self.sweep_soon = !sweep;
            self.claim_after = now + DRY_PAUSE;
        }
    }
}

/// The slots of a lane that serves more than a baton can list.
fn places_at_all() -> i32 {
    attempt::places(0)
}
