//! A run with a block, and what may be done to it: cycles of lanes, a cancel, settling, a lane that dies. The block's body starts a child run and may
//! fail; beside the block is a node that has nothing to do with it.
//!
//! ```text
//! run      block ─► K      O
//! body     X ─► S ─► J ◄─ F      S starts the child and waits for it; F may fail, which closes the frame; J is a join, and the body's end
//! child    Y
//! ```
//! A cycle is two events, for others may do anything between them: it *begins* with all it reads (the fence, what it claims and locks, the states of
//! that) and it *commits* all it writes. Batons, leases and calls that come late or twice are in `fleet.rs`: here a cycle begins with its baton or not
//! at all.

use super::sets::{CHILD, FRAME, RUN, Set, Step};

/// What is done: as the engine does it, or with one thing left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// As it should be.
    Sound,
    /// The fence heeds closings of runs, and none of frames.
    FramesUnfenced,
    /// A closing goes although a baton holds steps of what is closed.
    HeldForgotten,
    /// Settling waits neither for lanes that have a baton nor for what is being claimed.
    NotAwaited,
    /// Settling waits for lanes that have a baton alone.
    LockedForgotten,
    /// Settling closes no child runs.
    ChildForgotten,
}

/// Of a run or a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Life {
    Live,
    /// As it should: nothing of it is out.
    Completed,
    /// By its closing: steps of it may be out.
    Closed,
}

/// A cycle that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Call {
    /// What it completes.
    pub ends: Set,
    /// What it ends without consequences.
    pub drops: Set,
    /// F is completed by failing.
    pub fails: bool,
    /// What follows stays with the lane.
    pub keeps: bool,
    /// What it claims; locked until it commits.
    pub claims: Set,
    /// Of that, what was found dead.
    pub dead: Set,
    /// Closings that were there when it began, settled ones too.
    pub seen: Set,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane {
    /// Its baton lists these; none: it has no baton.
    pub held: Set,
    /// What it holds and must not run.
    pub dead: Set,
    /// Closings it heeds.
    pub known: Set,
    pub call: Option<Call>,
    /// Settling waits until it passes its baton.
    pub awaited: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub ready: Set,
    pub lanes: Vec<Lane>,
    pub run: Life,
    pub frame: Life,
    /// None: it was not started.
    pub child: Option<Life>,
    /// S waits for the child.
    pub waits: bool,
    /// What J has counted; 0: its row is not there.
    pub join: u8,
    /// Accepted, and recorded without consequences.
    pub completed: Set,
    pub canceled: Set,
    /// Rows of `closed`, and the closings there ever were.
    pub closed: Set,
    pub closings: Set,
    /// Closings that are being settled, and how far that is.
    pub settling: Option<(Set, Settling)>,
    pub crashes: u8,
    /// A step was accepted though the cycle began after the closing of what it belongs to.
    pub late: bool,
}

/// How far settling is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Settling {
    /// What is closed was read.
    Read,
    /// The lanes are known that are waited for.
    Awaits,
    /// What is left of it was removed.
    Removed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Begin {
        lane: usize,
        ends: Set,
        fails: bool,
        keeps: bool,
        claims: Set,
    },
    Commit {
        lane: usize,
    },
    /// A lane passes its baton and does nothing else.
    Beat {
        lane: usize,
    },
    /// A lane dies and is reaped.
    Reap {
        lane: usize,
    },
    Cancel,
    /// What is closed is read, then where the lanes stand; then, when they have moved, what is left goes.
    SettleRead,
    SettleStand,
    Settle,
    SettleEnd,
}

/// Steps a lane holds at most.
const SLOTS: u32 = 2;

impl State {
    pub fn first(lanes: usize, crashes: u8) -> Self {
        Self {
            ready: Step::X.and(Step::F).with(Step::O.only()),
            lanes: vec![Lane::default(); lanes],
            run: Life::Live,
            frame: Life::Live,
            child: None,
            waits: false,
            join: 0,
            completed: Set::NONE,
            canceled: Set::NONE,
            closed: Set::NONE,
            closings: Set::NONE,
            settling: None,
            crashes,
            late: false,
        }
    }

    pub fn actions(&self, actions: &mut Vec<Action>) {
        for (lane, it) in self.lanes.iter().enumerate() {
            if lane > 0 && self.lanes[lane - 1] == *it {
                continue; // nothing tells them apart
            }
            if it.call.is_some() {
                actions.push(Action::Commit { lane });
                continue;
            }
            for ends in it.held.subsets() {
                let room = it.held.len() - ends.len() < SLOTS;
                let claims = self.claimable().each().map(Step::only).filter(|_| room).chain([Set::NONE]);
                for claims in claims.filter(|claims| !claims.with(ends).is_empty()) {
                    for keeps in [false, true] {
                        let may_fail = ends.has(Step::F) && !it.drops(ends).has(Step::F);
                        if !keeps || follows(ends.without(it.drops(ends))) {
                            actions.push(Action::Begin { lane, ends, fails: false, keeps, claims });
                            actions.extend(may_fail.then_some(Action::Begin {
                                lane,
                                ends,
                                fails: true,
                                keeps,
                                claims,
                            }));
                        }
                    }
                }
            }
            if it.awaited {
                actions.push(Action::Beat { lane });
            }
            if self.crashes > 0 && !it.held.is_empty() {
                actions.push(Action::Reap { lane });
            }
        }
        if self.run == Life::Live {
            actions.push(Action::Cancel);
        }
        match self.settling {
            None if self.closed.is_empty() => {}
            None => actions.push(Action::SettleRead),
            Some((_, Settling::Read)) => actions.push(Action::SettleStand),
            Some((_, Settling::Awaits)) if self.lanes.iter().any(|lane| lane.awaited) => {}
            Some((_, Settling::Awaits)) => actions.push(Action::Settle),
            Some((_, Settling::Removed)) => actions.push(Action::SettleEnd),
        }
    }

    pub fn after(&self, rules: Rules, action: Action) -> Self {
        let mut next = self.clone();
        match action {
            Action::Begin { lane, ends, fails, keeps, claims } => next.begin(rules, lane, ends, fails, keeps, claims),
            Action::Commit { lane } => next.commit(lane),
            Action::Beat { lane } => next.lanes[lane].awaited = false,
            Action::Reap { lane } => next.reap(lane),
            Action::Cancel => next.cancel(),
            Action::SettleRead => next.settling = Some((self.closed, Settling::Read)),
            Action::SettleStand => next.stand(rules),
            Action::Settle => next.settle(rules),
            Action::SettleEnd => next.settle_end(rules),
        }
        next.normalize();
        next
    }

    /// What makes no difference any more is forgotten, and lanes have no names.
    fn normalize(&mut self) {
        for lane in &mut self.lanes {
            let held = lane.call.map_or(lane.held, |call| lane.held.with(call.claims));
            let matters =
                |closing: &Set| self.closed.has_any(*closing) || held.each().any(|step| step.is_closed_by(*closing));
            lane.known = lane.known.bits().filter(matters).fold(Set::NONE, Set::with);
            if let Some(call) = &mut lane.call {
                let matters = |closing: &Set| call.ends.each().any(|step| step.is_closed_by(*closing));
                call.seen = call.seen.bits().filter(matters).fold(Set::NONE, Set::with);
            }
        }
        self.lanes.sort_unstable();
    }

    /// Nothing is left to do.
    pub fn is_final(&self) -> bool {
        let idle = self.lanes.iter().all(|lane| lane.held.is_empty() && lane.call.is_none());
        idle && self.ready.is_empty() && self.closed.is_empty()
    }

    /// Ready, and locked by nobody.
    fn claimable(&self) -> Set {
        self.lanes.iter().filter_map(|lane| lane.call).fold(self.ready, |ready, call| ready.without(call.claims))
    }

    /// It is live, and all that is around it.
    fn lives(&self, step: Step) -> bool {
        match step {
            Step::K | Step::O => self.run == Life::Live,
            Step::Y => self.child == Some(Life::Live),
            Step::X | Step::S | Step::W | Step::F => self.run == Life::Live && self.frame == Life::Live,
        }
    }

    /// Refused by the fence, it hears of the closings and begins again.
    fn begin(&mut self, rules: Rules, lane: usize, ends: Set, fails: bool, keeps: bool, claims: Set) {
        let dead = claims.each().filter(|step| !self.lives(*step)).fold(Set::NONE, |dead, step| dead.with(step.only()));
        let fenced = if rules == Rules::FramesUnfenced { self.closed.without(FRAME) } else { self.closed };
        // by run: a step outside of the frame is refused, too, and sent again
        let of_runs = ends.each().fold(Set::NONE, |all, step| all.with(step.closings_of_its_run()));
        let (seen, hits) = (self.closings, fenced.and(of_runs).without(self.lanes[lane].known));
        let it = &mut self.lanes[lane];
        if hits.is_empty() {
            let drops = it.drops(ends);
            it.call = Some(Call { ends: ends.without(drops), drops, fails, keeps, claims, dead, seen });
        } else {
            it.known = it.known.with(hits);
        }
    }

    fn commit(&mut self, lane: usize) {
        let Some(call) = self.lanes[lane].call.take() else { return };
        self.late |= call.ends.each().any(|step| step.is_closed_by(call.seen));
        self.completed = self.completed.with(call.ends);
        self.canceled = self.canceled.with(call.drops);
        let it = &self.lanes[lane];
        let mut held = it.held.without(call.ends).without(call.drops);
        let dead = it.dead.and(held).with(call.dead);
        let mut known = it.known;
        let mut next = Set::NONE;
        for step in call.ends.each() {
            match step {
                Step::X => next = next.with(Step::S.only()),
                Step::S => {
                    (self.child, self.waits) = (Some(Life::Live), true);
                    self.ready = self.ready.with(Step::Y.only());
                }
                Step::Y if self.child == Some(Life::Live) => {
                    self.child = Some(Life::Completed);
                    if std::mem::take(&mut self.waits) {
                        next = next.with(Step::W.only());
                    }
                }
                Step::Y => {}
                Step::F if call.fails => {
                    if self.ends_frame(Life::Closed) {
                        (self.closed, self.closings) = (self.closed.with(FRAME), self.closings.with(FRAME));
                        (next, known) = (next.with(Step::K.only()), known.with(FRAME));
                    }
                }
                Step::W | Step::F => {
                    self.join += 1;
                    if self.join == 2 {
                        self.join = 0;
                        if self.ends_frame(Life::Completed) {
                            next = next.with(Step::K.only());
                        }
                    }
                }
                Step::K | Step::O => {
                    if self.run == Life::Live && self.completed.has(Step::K) && self.completed.has(Step::O) {
                        self.run = Life::Completed;
                    }
                }
            }
        }
        for step in next.each() {
            let room = held.len() + call.claims.len() < SLOTS;
            if call.keeps && room {
                held = held.with(step.only());
            } else {
                self.ready = self.ready.with(step.only());
            }
        }
        self.ready = self.ready.without(call.claims);
        self.lanes[lane] = Lane { held: held.with(call.claims), dead, known, call: None, awaited: false };
    }

    fn ends_frame(&mut self, to: Life) -> bool {
        let ends = self.frame == Life::Live;
        if ends {
            self.frame = to;
        }
        ends
    }

    fn reap(&mut self, lane: usize) {
        self.crashes -= 1;
        self.ready = self.ready.with(self.lanes[lane].held);
        self.lanes[lane] = Lane::default();
    }

    fn cancel(&mut self) {
        self.run = Life::Closed;
        (self.closed, self.closings) = (self.closed.with(RUN), self.closings.with(RUN));
        self.close_child();
    }

    fn close_child(&mut self) {
        if self.child == Some(Life::Live) {
            self.child = Some(Life::Closed);
            (self.closed, self.closings) = (self.closed.with(CHILD), self.closings.with(CHILD));
        }
    }

    /// Whoever has a baton now may be in a cycle that began before the closings.
    fn stand(&mut self, rules: Rules) {
        let Some((closings, _)) = self.settling.take() else { return };
        for lane in &mut self.lanes {
            lane.awaited = rules != Rules::NotAwaited && !lane.held.is_empty();
        }
        self.settling = Some((closings, Settling::Awaits));
    }

    fn settle(&mut self, rules: Rules) {
        let Some((closings, _)) = self.settling.take() else { return };
        let closings = closings.and(self.closed);
        if closings.has_any(FRAME.with(RUN)) {
            (self.join, self.waits) = (0, false);
            if rules != Rules::ChildForgotten {
                self.close_child();
            }
        }
        if closings.has_any(RUN) {
            self.ends_frame(Life::Closed);
        }
        let gone: Set = self
            .claimable()
            .each()
            .filter(|step| step.is_closed_by(closings))
            .fold(Set::NONE, |all, step| all.with(step.only()));
        self.ready = self.ready.without(gone);
        self.canceled = self.canceled.with(gone);
        // what could not be removed is being claimed, and whoever claims may have begun before the closings
        let left = closings.bits().filter(|closing| self.ready.each().any(|step| step.is_closed_by(*closing)));
        let left = left.fold(Set::NONE, Set::with);
        let forgets = rules == Rules::NotAwaited || rules == Rules::LockedForgotten;
        let closings = if forgets { closings } else { closings.without(left) };
        self.settling = Some((closings, Settling::Removed)).filter(|_| !closings.is_empty());
    }

    /// A later statement: who claimed before what was removed has committed by now, and holds it.
    fn settle_end(&mut self, rules: Rules) {
        let Some((closings, _)) = self.settling.take() else { return };
        for closing in closings.bits() {
            let held = self.lanes.iter().any(|lane| lane.held.each().any(|step| step.is_closed_by(closing)));
            if !held || rules == Rules::HeldForgotten {
                self.closed = self.closed.without(closing);
            }
        }
    }
}

impl Lane {
    /// Of these steps, those that it must not run.
    fn drops(&self, steps: Set) -> Set {
        let dropped = steps.each().filter(|step| self.dead.has(*step) || step.is_closed_by(self.known));
        dropped.fold(Set::NONE, |all, step| all.with(step.only()))
    }
}

/// Something follows in the lane's own hands.
fn follows(ends: Set) -> bool {
    ends.has_any(Step::X.and(Step::Y).with(Step::F.and(Step::W)))
}
