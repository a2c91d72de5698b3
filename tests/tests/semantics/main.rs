//! What other products say of their own semantics, in our terms and on a real fleet: recorded executions of state
//! machines through the importer, the tests of another definition language, and the rules of two engines. The cases
//! are where `LONGSHORE_CASES` says; without it there is nothing to do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

mod aws;
mod choice;
mod ctk;
mod own;
mod seeds;
mod yaml;

use std::path::PathBuf;

use longshore_tests::dags::CASES_VARIABLE;
use serde_json::Value;

/// The folder of the cases; none, with a word to the reader, where there are no cases.
fn cases() -> Option<PathBuf> {
    let Some(cases) = std::env::var_os(CASES_VARIABLE) else {
        eprintln!("skipped: no cases ({CASES_VARIABLE} names their folder)");
        return None;
    };
    Some(PathBuf::from(cases).join("semantics"))
}

fn text(path: &std::path::Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn json(path: &std::path::Path) -> Value {
    serde_json::from_str(&text(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// One line a case. The test fails at its end, when all have been told.
#[derive(Default)]
struct Told {
    passed: usize,
    failed: Vec<String>,
}

impl Told {
    fn tell(&mut self, case: &str, result: Result<String, String>) {
        match result {
            Ok(how) => {
                eprintln!("ok      {case}: {how}");
                self.passed += 1;
            }
            Err(why) => {
                eprintln!("FAILED  {case}: {why}");
                self.failed.push(case.to_owned());
            }
        }
    }

    fn end(self, expected: usize) {
        eprintln!("{} of {expected} passed", self.passed);
        assert!(self.failed.is_empty(), "{:?}", self.failed);
        assert_eq!(self.passed, expected, "as many cases as there are known to be");
    }
}

/// An error unless the two are equal.
fn same<T: PartialEq + std::fmt::Debug>(what: &str, given: &T, expected: &T) -> Result<(), String> {
    if given == expected { Ok(()) } else { Err(format!("{what}: {given:?}, expected {expected:?}")) }
}
