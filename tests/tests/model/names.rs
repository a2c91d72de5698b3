//! States that differ in names alone are one state: without that there are a hundred times as many, with nothing more to see. Ids of lanes are only
//! compared for being equal, cycles of a lane for being equal or neighbors, so ids are given anew in an order that follows from the rest, and each
//! lane's cycles begin at 0. It changes no state but for its form.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::fleet::{Call, Lane, Phase, State};
use super::tables::{Batch, Rules};

/// More ids than are ever in use at once.
const IDS: usize = 16;

impl State {
    pub fn normalize(&mut self, rules: Rules) {
        // without the fence such a call does something
        if rules != Rules::Unfenced {
            self.forget_calls_without_effect();
        }
        self.forget_idle_lanes();
        let mut low = [u8::MAX; IDS];
        self.each_name(|id, cycle| low[usize::from(*id)] = low[usize::from(*id)].min(*cycle));
        self.each_name(|id, cycle| *cycle -= low[usize::from(*id)]);
        let about = self.about_each_lane();
        let mut used: Vec<usize> = (1..IDS).filter(|id| low[*id] < u8::MAX).collect();
        used.sort_by_key(|id| about[*id]);
        let mut names = [0; IDS];
        self.unused_id = 1;
        for id in used {
            names[id] = self.unused_id;
            self.unused_id += 1;
        }
        self.each_name(|id, _| *id = names[usize::from(*id)]);
        self.tables.sort();
        self.calls.sort_unstable();
        self.lanes.sort_unstable();
    }

    /// Nobody hears the answer of such a call, there is no baton for it, and none can come: only an older call of its lane could bring it about.
    fn forget_calls_without_effect(&mut self) {
        let older: Vec<(u8, u8)> = self.calls.iter().map(|call| (call.batch.lane, call.batch.cycle)).collect();
        self.calls.retain(|Call { heard, batch, .. }| {
            let comes = older.iter().any(|(lane, cycle)| *lane == batch.lane && *cycle < batch.cycle);
            *heard || batch.opens || comes || self.tables.baton(batch.lane, batch.cycle).is_some()
        });
    }

    /// An idle lane that nothing names any more does what one does that has sent nothing yet.
    fn forget_idle_lanes(&mut self) {
        for lane in self.lanes.iter_mut().filter(|lane| lane.is_idle()) {
            let called = self.calls.iter().any(|call| call.batch.lane == lane.id);
            if !called && self.tables.batons.iter().all(|baton| baton.lane != lane.id) {
                *lane = Lane::fresh();
            }
        }
    }

    /// Visit each id with the cycle beside it.
    fn each_name(&mut self, mut visit: impl FnMut(&mut u8, &mut u8)) {
        for Call { batch, .. } in &mut self.calls {
            visit(&mut batch.lane, &mut batch.cycle);
        }
        for baton in &mut self.tables.batons {
            visit(&mut baton.lane, &mut baton.cycle);
        }
        for lane in &mut self.lanes {
            if let Phase::Sent(batch) | Phase::Unsure(batch) = &mut lane.phase {
                visit(&mut batch.lane, &mut batch.cycle);
            }
            visit(&mut lane.id, &mut lane.cycle);
        }
    }

    /// For each id a number made of all there is about it but the id. Should two be equal by chance, two forms of one state are explored.
    fn about_each_lane(&self) -> [u64; IDS] {
        let mut about = [0_u64; IDS];
        let mut note = |id: u8, what: u64| about[usize::from(id)] = about[usize::from(id)].wrapping_add(what);
        for Call { heard, batch, counted } in &self.calls {
            note(batch.lane, hash(("call", heard, counted, nameless(batch))));
        }
        for baton in &self.tables.batons {
            note(baton.lane, hash(("baton", baton.cycle, &baton.held)));
        }
        for Lane { id, cycle, held, phase } in &self.lanes {
            note(*id, hash(("lane", cycle, held)));
            match phase {
                Phase::Free => {}
                Phase::Sent(batch) => note(*id, hash(("sent", nameless(batch)))),
                Phase::Unsure(batch) => note(*id, hash(("unsure", nameless(batch)))),
                Phase::Owes(ended) => note(*id, hash(("owes", ended))),
            }
        }
        about
    }
}

fn nameless(batch: &Batch) -> impl Hash + '_ {
    let Batch { lane: _, cycle, opens, ends, holds, keeps, claims } = batch;
    (cycle, opens, ends, holds, keeps, claims)
}

/// The same in every process, so the number of states is too.
fn hash(it: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    it.hash(&mut hasher);
    hasher.finish()
}
