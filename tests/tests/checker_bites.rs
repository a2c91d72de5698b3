//! The fault harness's checker bites: engines with one rule left out are found out within a minute (three, where the machine does other work too).
//! Needs the feature `broken` (`cargo nextest run -p longshore-tests --features broken --test checker_bites`, as `ops/test` does).
#![cfg(feature = "broken")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::process::{Command, Output};
use std::time::{Duration, Instant};

fn chaos(arguments: &[&str]) -> Output {
    let began = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_longshore-chaos"))
        .args(["--seconds", "12", "--workers", "4", "--lease", "2s", "--seed", "7"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(began.elapsed() < Duration::from_secs(180), "it took {:?}", began.elapsed());
    output
}

/// The variant under this fault breaks one of these promises, and the harness says so.
fn finds_out(variant: &str, fault: &str, promises: &[&str]) {
    let output = chaos(&["--broken", variant, "--faults", fault]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}{}", String::from_utf8_lossy(&output.stderr));
    for promise in promises {
        assert!(said.contains(&format!("BROKEN {promise}")), "{promise}:\n{said}");
    }
}

#[test]
fn a_completion_that_is_not_fenced_is_found_out() {
    finds_out("unfenced", "freeze", &["promise 2: one attempt of a step is accepted and none follows it"]);
}

#[test]
fn a_join_counted_without_its_row_lock_is_found_out() {
    finds_out("unlocked-join", "none", &["every run ends", "promise 1: a live run waits for something"]);
}

#[test]
fn a_successor_written_in_a_second_transaction_is_found_out() {
    finds_out("second-transaction", "kill", &["every run ends", "promise 1: a live run waits for something"]);
}

#[test]
fn a_signal_that_is_taken_twice_is_found_out() {
    finds_out("signal-twice", "none", &["a taken signal is the output of the step that took it, and of no other"]);
}

#[test]
fn a_signal_that_nobody_is_told_of_is_found_out() {
    finds_out("deaf", "none", &["a wait misses no signal"]);
}

#[test]
fn the_engine_as_it_is_passes_under_the_same_faults() {
    let output = chaos(&["--faults", "freeze,kill"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("0 violations"), "{said}");
}

/// Each window shows its rules damage; this one has rows for all of it.
#[test]
fn the_rules_of_child_runs_contexts_and_pauses_find_what_is_damaged_by_hand() {
    let output = chaos(&["--faults", "none", "--kinds", "parents,strays,polite,begged,persistent,sums,parks,stubborn"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("; 28 kinds of damage done by hand"), "{said}");
}
