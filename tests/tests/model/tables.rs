//! The tables of the model and the transactions on them: the cycle, the reaper, a look at where a baton stands. Each is one atomic step, but for
//! what a broken rule takes apart. It says what Postgres does with a call, never when the call arrives: that is `fleet.rs`.
//!
//! Keys that would stop a wrong write by chance (of attempts, of the join's count) are left out, so that the baton alone has to hold.

/// The graph: `a` and `b` meet in the join `c`, `d` comes after it and ends the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    A,
    B,
    C,
    D,
}

pub const STEPS: [Step; 4] = [Step::A, Step::B, Step::C, Step::D];

/// In-edges of the join.
const INDEGREE: u8 = 2;

/// Steps a lane holds at most.
pub const SLOTS: usize = 2;

/// What the transactions do: as the engine does it, or with one thing left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// As it should be.
    Sound,
    /// A cycle takes effect although its baton is gone.
    Unfenced,
    /// A join is read, then written: nothing keeps another cycle from reading the same count in between.
    UnlockedJoin,
    /// What follows from an attempt is written in a second transaction.
    LateSuccessor,
    /// An opening, which deletes no baton and so has no fence, is sent again under the number of its first copy.
    OpeningSentAgain,
}

/// A step job: this try of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Job {
    pub step: Step,
    pub attempt: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    Completed,
    Lost,
}

/// The lease of what one lane holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Baton {
    pub lane: u8,
    pub cycle: u8,
    pub held: Vec<Job>,
}

/// What a lane sends to pass baton `cycle`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Batch {
    pub lane: u8,
    pub cycle: u8,
    /// The lane holds no baton: there is none to delete.
    pub opens: bool,
    pub ends: Vec<Job>,
    pub holds: Vec<Job>,
    /// What follows stays with the lane where there is room.
    pub keeps: bool,
    pub claims: bool,
}

impl Batch {
    pub fn arrivals(&self) -> u8 {
        arrivals(&self.ends)
    }
}

/// How Postgres answers a cycle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Committed: the lane holds this.
    Passed(Vec<Job>),
    /// No row: there was no such baton.
    Nothing,
    /// The next baton stands already, so everything was rolled back.
    Conflict,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tables {
    pub ready: Vec<Job>,
    pub batons: Vec<Baton>,
    pub attempts: Vec<(Job, Outcome)>,
    /// What the join has counted; none: its row is not there.
    pub join: Option<u8>,
    pub ended: bool,
}

impl Tables {
    /// A run whose start has spread: both entry nodes are ready.
    pub fn started() -> Self {
        let ready = [Step::A, Step::B].map(first).to_vec();
        Self { ready, batons: Vec::new(), attempts: Vec::new(), join: None, ended: false }
    }

    pub fn baton(&self, lane: u8, cycle: u8) -> Option<&Baton> {
        self.batons.iter().find(|baton| (baton.lane, baton.cycle) == (lane, cycle))
    }

    /// One cycle in one transaction. `pick` says which ready row it finds first, since rows that others are taking are skipped; there is nothing after
    /// it if there is no such row. `counted` is what an unlocked join was read as.
    pub fn cycle(&self, rules: Rules, batch: &Batch, pick: usize, counted: Option<u8>) -> Option<(Self, Answer)> {
        let mut after = self.clone();
        if !batch.opens && !after.delete(batch.lane, batch.cycle) && rules != Rules::Unfenced {
            return (pick == 0).then_some((after, Answer::Nothing));
        }
        let mut held = batch.holds.clone();
        after.attempts.extend(batch.ends.iter().map(|job| (*job, Outcome::Completed)));
        if rules != Rules::LateSuccessor {
            let room = if batch.keeps { SLOTS - held.len() } else { 0 };
            held.extend(after.follow(&batch.ends, room, counted));
        }
        if batch.claims && held.len() < SLOTS && !after.ready.is_empty() {
            after.ready.sort_unstable(); // so that one pick is one row
            if pick >= after.ready.len() {
                return None;
            }
            held.push(after.ready.remove(pick));
        } else if pick > 0 {
            return None;
        }
        held.sort_unstable();
        if !held.is_empty() {
            let next = Baton { lane: batch.lane, cycle: batch.cycle + 1, held: held.clone() };
            if self.baton(next.lane, next.cycle).is_some() {
                return Some((self.clone(), Answer::Conflict));
            }
            after.batons.push(next);
        }
        Some((after, Answer::Passed(held)))
    }

    /// What follows from steps that completed; gives what the lane keeps of it.
    pub fn follow(&mut self, ended: &[Job], room: usize, counted: Option<u8>) -> Vec<Job> {
        let mut kept = Vec::new();
        let mut enqueue = |ready: &mut Vec<Job>, step| {
            let place = if kept.len() < room { &mut kept } else { ready };
            place.push(first(step));
        };
        if arrivals(ended) > 0 {
            let count = counted.or(self.join).unwrap_or(0) + arrivals(ended);
            self.join = Some(count);
            if count == INDEGREE {
                enqueue(&mut self.ready, Step::C);
            }
        }
        for job in ended {
            match job.step {
                Step::A | Step::B => {}
                Step::C => {
                    self.join = None; // in a later cycle than the one that fired it
                    enqueue(&mut self.ready, Step::D);
                }
                Step::D => self.ended = true,
            }
        }
        kept
    }

    /// Take back what a lane held: the baton goes for good, each try is recorded as lost, each step is ready again.
    pub fn reap(&mut self, lane: u8, cycle: u8) {
        let Some(baton) = self.baton(lane, cycle).cloned() else { return };
        self.delete(lane, cycle);
        for job in baton.held {
            self.attempts.push((job, Outcome::Lost));
            if !self.ended {
                self.ready.push(Job { step: job.step, attempt: job.attempt + 1 });
            }
        }
    }

    pub fn completions(&self, step: Step) -> usize {
        self.attempts.iter().filter(|(job, outcome)| job.step == step && *outcome == Outcome::Completed).count()
    }

    /// Step jobs that are ready or held.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.ready.iter().chain(self.batons.iter().flat_map(|baton| &baton.held))
    }

    /// Rows have no order: states that differ in it alone are one.
    pub fn sort(&mut self) {
        self.ready.sort_unstable();
        self.batons.sort_unstable();
        self.attempts.sort_unstable();
    }

    fn delete(&mut self, lane: u8, cycle: u8) -> bool {
        let before = self.batons.len();
        self.batons.retain(|baton| (baton.lane, baton.cycle) != (lane, cycle));
        self.batons.len() < before
    }
}

fn first(step: Step) -> Job {
    Job { step, attempt: 1 }
}

fn arrivals(ended: &[Job]) -> u8 {
    ended.iter().map(|job| u8::from(matches!(job.step, Step::A | Step::B))).sum()
}
