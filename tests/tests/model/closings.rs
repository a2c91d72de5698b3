//! Closing frames, runs and the child runs of both, explored to the last state like the model beside it. PROTOCOL's rules for them are few: the fence,
//! what a lane does with the news, and when settling may forget a closing. Each is left out once, and the explorer must find what goes wrong then.

use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::frames::{Action, Lane, Life, Rules, State};
use super::sets::{FRAME, RUN, Step};

const NOT_LATE: &str = "nothing of what is closed is accepted by a cycle that began after its closing";
const OUTSIDE: &str = "nothing is dropped but what is closed";
const ONCE: &str = "a step is accepted or dropped, and once";
const GUARDED: &str = "what a baton lists of something closed is known to its lane, or refused by a closing";
const NOTHING_LEFT: &str = "where nothing is left to do, nothing is left of what is closed";
const CHILD_ENDS: &str = "where the closing of what started it is settled, the child has ended";
const ENDS: &str = "where nothing is left to do, the run has ended";
const CAUGHT: &str = "the run can complete though the frame was closed";
const REFUSED: &str = "what completes after its frame was closed can be dropped, and what is outside goes on";
const TAKEN_ALONG: &str = "a child that was started while its frame was being closed can be closed with it";

struct Closings {
    rules: Rules,
    lanes: usize,
    crashes: u8,
}

impl Model for Closings {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::first(self.lanes, self.crashes)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        state.actions(actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        Some(state.after(self.rules, action))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NOT_LATE, |_, state: &State| !state.late),
            Property::always(OUTSIDE, |_, state: &State| {
                state.canceled.each().all(|step| step.is_closed_by(state.closings))
            }),
            Property::always(ONCE, |_, state: &State| {
                let mine = state.lanes.iter().fold(state.ready, |all, lane| all.with(lane.held));
                state.completed.and(state.canceled).is_empty()
                    && mine.and(state.completed.with(state.canceled)).is_empty()
            }),
            Property::always(GUARDED, |_, state: &State| state.lanes.iter().all(|lane| is_guarded(state, lane))),
            Property::always(NOTHING_LEFT, |_, state: &State| {
                !state.is_final() || state.join == 0 && !state.waits && state.frame != Life::Live
            }),
            Property::always(CHILD_ENDS, |_, state: &State| {
                let settled = state.closings.without(state.closed).has_any(FRAME.with(RUN));
                !settled || state.child != Some(Life::Live)
            }),
            Property::always(ENDS, |_, state: &State| !state.is_final() || state.run != Life::Live),
            Property::sometimes(CAUGHT, |_, state: &State| {
                state.is_final() && state.frame == Life::Closed && state.run == Life::Completed
            }),
            Property::sometimes(REFUSED, |_, state: &State| {
                let knows = |lane: &Lane| lane.known == FRAME && lane.held.has(Step::X) && lane.held.has(Step::O);
                state.lanes.iter().any(knows)
            }),
            Property::sometimes(TAKEN_ALONG, |_, state: &State| {
                state.is_final() && state.child == Some(Life::Closed) && !state.closings.has_any(RUN)
            }),
        ]
    }
}

/// A lane in a cycle holds what its last baton lists: what is to come of it is asked when it has passed it.
fn is_guarded(state: &State, lane: &Lane) -> bool {
    let guards = |step: &Step| lane.dead.has(*step) || step.is_closed_by(lane.known.with(state.closed));
    lane.call.is_some() || lane.held.each().filter(|step| step.is_closed_by(state.closings)).all(|step| guards(&step))
}

fn explore(lanes: usize, crashes: u8) -> usize {
    let checker = Closings { rules: Rules::Sound, lanes, crashes }.checker().threads(2).spawn_bfs().join();
    eprintln!(
        "{lanes} lanes, {crashes} crashes: {} states, {} deep",
        checker.unique_state_count(),
        checker.max_depth()
    );
    checker.assert_properties();
    checker.unique_state_count()
}

/// A short way to break this property.
fn counterexample(rules: Rules, property: &'static str) -> Vec<Action> {
    let found = HasDiscoveries::AllOf(BTreeSet::from([property]));
    let checker = Closings { rules, lanes: 2, crashes: 0 }.checker().finish_when(found).spawn_bfs().join();
    let way = checker.assert_any_discovery(property).into_actions();
    eprintln!("{rules:?}, {} states, not so: {property}", checker.unique_state_count());
    way.iter().for_each(|action| eprintln!("  {action:?}"));
    way
}

#[test]
fn frames_runs_and_child_runs_close_without_losing_or_keeping_anything() {
    let states = explore(2, 1);
    assert!(states > 100_000, "{states}");
}

#[test]
fn without_the_fence_for_frames_a_late_completion_is_accepted() {
    counterexample(Rules::FramesUnfenced, NOT_LATE);
}

#[test]
fn a_closing_that_goes_while_a_baton_holds_steps_of_it_lets_them_be_accepted() {
    counterexample(Rules::HeldForgotten, NOT_LATE);
    counterexample(Rules::HeldForgotten, GUARDED);
}

#[test]
fn settling_that_waits_for_no_lane_forgets_a_closing_too_early() {
    counterexample(Rules::NotAwaited, NOT_LATE);
}

#[test]
fn settling_that_waits_for_no_opening_lets_what_it_claims_be_accepted() {
    let way = counterexample(Rules::LockedForgotten, NOT_LATE);
    let opening = |action: &Action| matches!(action, Action::Begin { ends, .. } if ends.is_empty());
    assert!(way.iter().any(opening));
}

#[test]
fn a_child_that_settling_does_not_close_outlives_its_parent() {
    let way = counterexample(Rules::ChildForgotten, CHILD_ENDS);
    assert!(way.iter().any(|action| matches!(action, Action::Settle)));
}
