//! What can happen to a fleet: lanes that send, doubt, look, crash and start anew; calls that are under way for any time and arrive once or twice;
//! leases that run out at any moment. Time is an order of events and nothing else. What a call does when it arrives is `tables.rs`; which states
//! are the same but for their names is `names.rs`.
//!
//! Only what goes wrong is bounded (`Bounds`), never what mends it: a dead lane is always reclaimed, a call without a clear answer always looked into.

use super::tables::{Answer, Batch, Baton, Job, Rules, SLOTS, Tables};

/// How much goes wrong at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// Lanes that die with all they know.
    pub crashes: u8,
    /// Leases that run out although their lane lives.
    pub stalls: u8,
    /// Calls whose answer a lane gives up, although they may arrive yet.
    pub doubts: u8,
}

/// A lane as its process knows it. Its id comes with its first call; until then it is 0.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    pub id: u8,
    pub cycle: u8,
    pub held: Vec<Job>,
    pub phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    Free,
    /// A call is under way.
    Sent(Batch),
    /// No clear answer: look where the baton stands.
    Unsure(Batch),
    /// A second transaction must write what follows from these (`Rules::LateSuccessor` only).
    Owes(Vec<Job>),
}

/// A call under way. Where its lane has stopped listening, its answer goes nowhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call {
    pub heard: bool,
    pub batch: Batch,
    /// It has begun, holds its baton's row, and has read the join's count (`Rules::UnlockedJoin` only).
    pub counted: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub tables: Tables,
    pub calls: Vec<Call>,
    pub lanes: Vec<Lane>,
    /// An id that nothing has.
    pub unused_id: u8,
    pub left: Bounds,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A lane completes some of what it holds, and may ask for more. A claim that finds nothing is a heartbeat.
    Send { lane: usize, ends: Vec<Job>, keeps: bool, claims: bool },
    /// A lane takes the answer for lost: it was, or the call is still on its way.
    Doubt { lane: usize },
    /// A call reaches Postgres; it claims the row at `pick`, if it claims.
    Arrive { call: usize, pick: usize },
    /// A lane looks where its baton stands.
    Look { lane: usize },
    /// The second transaction of `Rules::LateSuccessor`.
    Follow { lane: usize },
    /// A lane dies, and a worker opens another.
    Crash { lane: usize },
    /// A lease is over and a reaper finds it.
    Reap { lane: u8, cycle: u8 },
}

impl Lane {
    pub fn fresh() -> Self {
        Self { id: 0, cycle: 0, held: Vec::new(), phase: Phase::Free }
    }

    /// It holds nothing and waits for nothing.
    pub fn is_idle(&self) -> bool {
        self.held.is_empty() && self.phase == Phase::Free
    }

    /// The process behind the lane keeps this baton alive, or will when it has looked.
    fn minds(&self, baton: &Baton) -> bool {
        let cycles = match self.phase {
            Phase::Free | Phase::Owes(_) if self.held.is_empty() => return false,
            Phase::Free | Phase::Owes(_) => self.cycle..=self.cycle,
            Phase::Sent(_) | Phase::Unsure(_) => self.cycle..=self.cycle + 1,
        };
        self.id == baton.lane && cycles.contains(&baton.cycle)
    }

    fn goes_on(&mut self, rules: Rules, batch: Batch, held: Vec<Job>) {
        self.cycle = batch.cycle + 1;
        self.held = held;
        let owes = rules == Rules::LateSuccessor && !batch.ends.is_empty();
        self.phase = if owes { Phase::Owes(batch.ends) } else { Phase::Free };
    }
}

impl State {
    pub fn first(lanes: usize, bounds: Bounds) -> Self {
        let lanes = vec![Lane::fresh(); lanes];
        Self { tables: Tables::started(), calls: Vec::new(), lanes, unused_id: 1, left: bounds }
    }

    /// All that can happen next; what turns out to be impossible has no state after it.
    pub fn actions(&self, actions: &mut Vec<Action>) {
        for (lane, it) in self.lanes.iter().enumerate() {
            if lane > 0 && self.lanes[lane - 1] == *it {
                continue; // nothing tells them apart
            }
            match it.phase {
                Phase::Free => self.sends(lane, actions),
                Phase::Sent(_) if self.left.doubts > 0 => actions.push(Action::Doubt { lane }),
                Phase::Sent(_) => {}
                Phase::Unsure(_) => actions.push(Action::Look { lane }),
                Phase::Owes(_) => actions.push(Action::Follow { lane }),
            }
            if self.left.crashes > 0 && !it.is_idle() {
                actions.push(Action::Crash { lane });
            }
        }
        for (call, it) in self.calls.iter().enumerate() {
            let waits = it.counted.is_none() && self.is_locked(it.batch.lane, it.batch.cycle);
            if !waits && (call == 0 || self.calls[call - 1] != *it) {
                // its own successors may come on top of what is ready now
                let picks = if it.batch.claims { self.tables.ready.len() + 2 } else { 1 };
                actions.extend((0..picks).map(|pick| Action::Arrive { call, pick }));
            }
        }
        for baton in &self.tables.batons {
            let may_expire = self.left.stalls > 0 || !self.is_minded(baton);
            if may_expire && !self.is_locked(baton.lane, baton.cycle) {
                actions.push(Action::Reap { lane: baton.lane, cycle: baton.cycle });
            }
        }
    }

    /// Every choice of steps to end; a lane asks for more where it has a slot and something was ready a moment ago.
    fn sends(&self, lane: usize, actions: &mut Vec<Action>) {
        let held = &self.lanes[lane].held;
        for chosen in 0..1_usize << held.len() {
            let ends: Vec<Job> = (0..held.len()).filter(|i| chosen >> i & 1 == 1).map(|i| held[i]).collect();
            let may_claim = held.len() - ends.len() < SLOTS && !self.tables.ready.is_empty();
            for (keeps, claims) in [(false, false), (true, false), (false, true), (true, true)] {
                let says_something = claims || !ends.is_empty();
                if says_something && (may_claim || !claims) && (!keeps || !ends.is_empty()) {
                    actions.push(Action::Send { lane, ends: ends.clone(), keeps, claims });
                }
            }
        }
    }

    pub fn after(&self, rules: Rules, action: Action) -> Option<Self> {
        let mut next = self.clone();
        match action {
            Action::Send { lane, ends, keeps, claims } => next.send(lane, ends, keeps, claims),
            Action::Doubt { lane } => next.doubt(rules, lane),
            Action::Arrive { call, pick } => next.arrive(rules, call, pick)?,
            Action::Look { lane } => next.look(rules, lane),
            Action::Follow { lane } => {
                if let Phase::Owes(ended) = std::mem::replace(&mut next.lanes[lane].phase, Phase::Free) {
                    next.tables.follow(&ended, 0, None);
                }
            }
            Action::Crash { lane } => {
                next.left.crashes -= 1;
                next.stop_listening(lane);
                next.lanes[lane] = Lane::fresh();
            }
            Action::Reap { lane, cycle } => {
                let stalled = next.tables.baton(lane, cycle).is_some_and(|baton| next.is_minded(baton));
                next.left.stalls -= u8::from(stalled);
                next.tables.reap(lane, cycle);
            }
        }
        next.normalize(rules);
        Some(next)
    }

    fn send(&mut self, lane: usize, ends: Vec<Job>, keeps: bool, claims: bool) {
        let it = &mut self.lanes[lane];
        if it.id == 0 {
            it.id = self.unused_id;
        }
        let held = std::mem::take(&mut it.held);
        let opens = held.is_empty();
        let holds = held.into_iter().filter(|job| !ends.contains(job)).collect();
        let batch = Batch { lane: it.id, cycle: it.cycle, opens, ends, holds, keeps, claims };
        self.put_under_way(lane, batch);
    }

    fn put_under_way(&mut self, lane: usize, batch: Batch) {
        self.calls.push(Call { heard: true, batch: batch.clone(), counted: None });
        self.lanes[lane].phase = Phase::Sent(batch);
    }

    /// The same bytes again. Not so an opening: it has no fence, so a copy that came late would take effect once more.
    fn doubt(&mut self, rules: Rules, lane: usize) {
        self.left.doubts -= 1;
        self.stop_listening(lane);
        let Phase::Sent(batch) = std::mem::replace(&mut self.lanes[lane].phase, Phase::Free) else { return };
        if batch.opens && rules != Rules::OpeningSentAgain {
            self.lanes[lane].phase = Phase::Unsure(batch);
        } else {
            self.put_under_way(lane, batch);
        }
    }

    fn arrive(&mut self, rules: Rules, call: usize, pick: usize) -> Option<()> {
        let Call { heard, batch, counted } = self.calls.remove(call);
        let fenced = !batch.opens && self.tables.baton(batch.lane, batch.cycle).is_none();
        if rules == Rules::UnlockedJoin && counted.is_none() && batch.arrivals() > 0 && !fenced {
            self.calls.push(Call { heard, batch, counted: Some(self.tables.join.unwrap_or(0)) });
            return (pick == 0).then_some(());
        }
        let (tables, answer) = self.tables.cycle(rules, &batch, pick, counted)?;
        self.tables = tables;
        if heard && let Some(lane) = self.lanes.iter_mut().find(|lane| lane.id == batch.lane) {
            match answer {
                Answer::Passed(held) => lane.goes_on(rules, batch, held),
                Answer::Nothing | Answer::Conflict => lane.phase = Phase::Unsure(batch),
            }
        }
        Some(())
    }

    /// At cycle n + 1: it happened. At n: it did not. Neither: the lane was fenced, or passed its baton and holds nothing, and starts under a new id.
    fn look(&mut self, rules: Rules, lane: usize) {
        let Phase::Unsure(batch) = std::mem::replace(&mut self.lanes[lane].phase, Phase::Free) else { return };
        if let Some(next) = self.tables.baton(batch.lane, batch.cycle + 1) {
            let held = next.held.clone();
            self.lanes[lane].goes_on(rules, batch, held);
        } else if self.tables.baton(batch.lane, batch.cycle).is_some()
            || batch.opens && rules == Rules::OpeningSentAgain
        {
            self.put_under_way(lane, batch);
        } else {
            self.lanes[lane] = Lane::fresh();
        }
    }

    fn stop_listening(&mut self, lane: usize) {
        let id = self.lanes[lane].id;
        self.calls.iter_mut().filter(|call| call.batch.lane == id).for_each(|call| call.heard = false);
    }

    fn is_minded(&self, baton: &Baton) -> bool {
        self.lanes.iter().any(|lane| lane.minds(baton))
    }

    /// A transaction that has begun holds the row of this baton.
    fn is_locked(&self, lane: u8, cycle: u8) -> bool {
        self.calls.iter().any(|call| call.counted.is_some() && (call.batch.lane, call.batch.cycle) == (lane, cycle))
    }
}
