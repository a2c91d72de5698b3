//! Lane, baton, join and reclaim as a model that is explored to its last state: every order in which calls arrive, late or twice, lanes crash, doubt
//! and wake up, and leases run out. It proves the rules, not the SQL that follows them: that is for the tests beside it, which also have
//! retries, timers, skips and the poison cap. Closings are a model of their own (`model/closings.rs`).
//!
//! What the rules rest on is left out, one thing at a time, and the explorer must find what goes wrong then; `--no-capture` shows a short way there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs, unreachable_pub)]

#[path = "model/closings.rs"]
mod closings;
#[path = "model/fleet.rs"]
mod fleet;
#[path = "model/frames.rs"]
mod frames;
#[path = "model/names.rs"]
mod names;
#[path = "model/sets.rs"]
mod sets;
#[path = "model/tables.rs"]
mod tables;

use std::collections::BTreeSet;

use fleet::{Action, Bounds, Phase, State};
use stateright::{Checker, HasDiscoveries, Model, Property};
use tables::{Batch, Outcome, Rules, STEPS, Step};

const ONE_ACCEPTED: &str = "at most one attempt of a step is accepted";
const ONE_HOME: &str = "a step has one home from when its predecessors completed";
const GAPLESS: &str = "attempts are numbered from 1 without gaps";
const FIRES_ONCE: &str = "a join fires once, when both predecessors completed";
const NEVER_STUCK: &str = "until the run ends a step is ready or held";
const KNOWN: &str = "a lane holds what its baton lists";
const ENDS: &str = "wherever nothing more can happen the run has ended";
const CAN_END: &str = "the run can end";
const LATE: &str = "a completion after the reclaim can be dropped";

struct Fleet {
    rules: Rules,
    lanes: usize,
    bounds: Bounds,
}

impl Model for Fleet {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::first(self.lanes, self.bounds)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        state.actions(actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        state.after(self.rules, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_ACCEPTED, |_, state: &State| {
                STEPS.iter().all(|step| state.tables.completions(*step) <= 1)
            }),
            Property::always(ONE_HOME, |_, state: &State| STEPS.iter().all(|step| has_its_home(state, *step))),
            Property::always(GAPLESS, |_, state: &State| STEPS.iter().all(|step| is_gapless(state, *step))),
            Property::always(FIRES_ONCE, |_, state: &State| join_fired_rightly(state)),
            Property::always(NEVER_STUCK, |_, state: &State| {
                state.tables.ended || state.tables.jobs().next().is_some() || is_owed(state)
            }),
            Property::always(KNOWN, |_, state: &State| lanes_know_what_they_hold(state)),
            // a run that has ended stays so: this fails in exactly those last states in which it has not
            Property::eventually(ENDS, |_, state: &State| state.tables.ended),
            Property::sometimes(CAN_END, |_, state: &State| state.tables.ended),
            Property::sometimes(LATE, |_, state: &State| a_late_completion_was_dropped(state)),
        ]
    }
}

fn completed(state: &State, step: Step) -> bool {
    state.tables.completions(step) > 0
}

fn has_its_home(state: &State, step: Step) -> bool {
    let due = match step {
        Step::A | Step::B => true,
        Step::C => completed(state, Step::A) && completed(state, Step::B),
        Step::D => completed(state, Step::C),
    };
    let jobs = state.tables.jobs().filter(|job| job.step == step).count();
    let homes = jobs + usize::from(completed(state, step));
    homes == usize::from(due) || homes == 0 && is_owed(state)
}

/// Numbers of the tries of a step, ended or not, in order.
fn tries(state: &State, step: Step) -> Vec<u8> {
    let ended = state.tables.attempts.iter().map(|(job, _)| job);
    let mut numbers: Vec<u8> =
        ended.chain(state.tables.jobs()).filter(|job| job.step == step).map(|job| job.attempt).collect();
    numbers.sort_unstable();
    numbers
}

fn is_gapless(state: &State, step: Step) -> bool {
    tries(state, step).into_iter().zip(1..).all(|(number, expected)| number == expected)
}

fn join_fired_rightly(state: &State) -> bool {
    let fired = tries(state, Step::C).into_iter().filter(|number| *number == 1).count();
    let both = completed(state, Step::A) && completed(state, Step::B);
    fired == usize::from(both) || fired == 0 && is_owed(state)
}

/// A lane is between its two transactions, which alone breaks nothing: only what is lost there counts.
fn is_owed(state: &State) -> bool {
    state.lanes.iter().any(|lane| matches!(lane.phase, Phase::Owes(_)))
}

fn lanes_know_what_they_hold(state: &State) -> bool {
    let sure = state.lanes.iter().filter(|lane| lane.phase == Phase::Free && !lane.held.is_empty());
    sure.filter_map(|lane| state.tables.baton(lane.id, lane.cycle).map(|baton| (lane, baton)))
        .all(|(lane, baton)| lane.held == baton.held)
}

/// A lane was refused with a completion of a try that is recorded as lost.
fn a_late_completion_was_dropped(state: &State) -> bool {
    let late = |batch: &Batch| batch.ends.iter().any(|job| state.tables.attempts.contains(&(*job, Outcome::Lost)));
    state.lanes.iter().any(|lane| matches!(&lane.phase, Phase::Unsure(batch) if late(batch)))
}

/// Explore all there is, and find nothing wrong with it; gives how many states there are.
fn explore(lanes: usize, bounds: Bounds) -> usize {
    let checker = Fleet { rules: Rules::Sound, lanes, bounds }.checker().spawn_bfs().join();
    eprintln!("{lanes} lanes, {bounds:?}: {} states, {} deep", checker.unique_state_count(), checker.max_depth());
    checker.assert_properties();
    checker.unique_state_count()
}

/// A short way to break this property.
fn counterexample(rules: Rules, bounds: Bounds, property: &'static str) -> Vec<Action> {
    let found = HasDiscoveries::AllOf(BTreeSet::from([property]));
    let checker = Fleet { rules, lanes: 2, bounds }.checker().finish_when(found).spawn_bfs().join();
    let way = checker.assert_any_discovery(property).into_actions();
    eprintln!("{rules:?}, {} states, not so: {property}", checker.unique_state_count());
    way.iter().for_each(|action| eprintln!("  {action:?}"));
    way
}

const NOTHING: Bounds = Bounds { crashes: 0, stalls: 0, doubts: 0 };

#[test]
fn two_lanes_keep_every_promise_through_a_crash_a_stall_and_a_lost_answer() {
    let states = explore(2, Bounds { crashes: 1, stalls: 1, doubts: 1 });
    assert!(states > 100_000, "{states}");
}

#[test]
fn two_lanes_keep_every_promise_when_answers_are_lost_again_and_again() {
    let states = explore(2, Bounds { crashes: 0, stalls: 1, doubts: 2 });
    assert!(states > 50_000, "{states}");
}

#[test]
fn three_lanes_keep_every_promise_through_a_crash_and_a_stall() {
    let states = explore(3, Bounds { crashes: 1, stalls: 1, doubts: 0 });
    assert!(states > 30_000, "{states}");
}

#[test]
fn without_the_fence_two_attempts_of_a_step_are_accepted() {
    let bounds = Bounds { stalls: 1, ..NOTHING };
    let way = counterexample(Rules::Unfenced, bounds, ONE_ACCEPTED);
    assert!(way.iter().any(|action| matches!(action, Action::Reap { .. })));
    counterexample(Rules::Unfenced, bounds, ONE_HOME);
}

#[test]
fn a_join_that_is_counted_without_its_row_lock_never_fires() {
    // nothing has to go wrong for that
    counterexample(Rules::UnlockedJoin, NOTHING, NEVER_STUCK);
    counterexample(Rules::UnlockedJoin, NOTHING, FIRES_ONCE);
}

#[test]
fn a_successor_written_in_a_second_transaction_is_lost_in_a_crash() {
    let bounds = Bounds { crashes: 1, ..NOTHING };
    let way = counterexample(Rules::LateSuccessor, bounds, NEVER_STUCK);
    assert!(way.iter().any(|action| matches!(action, Action::Crash { .. })));
    counterexample(Rules::LateSuccessor, bounds, ONE_HOME);
}

#[test]
fn an_opening_sent_twice_under_one_number_takes_a_step_along() {
    counterexample(Rules::OpeningSentAgain, Bounds { stalls: 1, doubts: 1, ..NOTHING }, ONE_HOME);
    counterexample(Rules::OpeningSentAgain, Bounds { doubts: 2, ..NOTHING }, NEVER_STUCK);
}
