//! When a failed attempt is tried again, and after how long.
//!
//! Pure arithmetic: the caller brings the random number and the time since the first attempt, and stores the due
//! time by Postgres' clock.

use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use crate::duration;
use crate::error::{ErrorKind, StepError};

/// How often and how patiently a task is tried. Build one and [`validate`](Self::validate) it, or take the
/// default: 3 attempts, 1 s doubling up to 1 min, spread by 20 %.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryPolicy {
    /// Attempts that may fail, the first included; at least 1. Lost and released attempts do not count.
    pub max_attempts: u32,
    /// Pause after the first failure.
    #[serde(with = "duration")]
    pub initial: Duration,
    /// What each pause is multiplied by to get the next; at least 1.
    pub factor: f64,
    /// The longest pause before jitter.
    #[serde(with = "duration")]
    pub max: Duration,
    /// How far a pause is spread, as a part of it, in both directions: with 0.2 a pause of 10 s becomes 8 s to 12 s.
    pub jitter: f64,
    /// No attempt starts later than this after the first one was claimed.
    #[serde(with = "duration::option", skip_serializing_if = "Option::is_none")]
    pub total: Option<Duration>,
    /// Only errors with one of these names or kinds are retried; all retryable ones when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_on: Option<Vec<String>>,
    /// What happens when no attempt is left.
    #[serde(skip_serializing_if = "GiveUp::is_usual")]
    pub give_up: GiveUp,
}

/// What happens when no attempt is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GiveUp {
    /// The step gives up: its edges and its policy on errors say what that means.
    #[default]
    Fail,
    /// The run is paused. When it is resumed the step is tried again, as often as before.
    Pause,
}

impl GiveUp {
    fn is_usual(&self) -> bool {
        *self == Self::Fail
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            initial: Duration::from_secs(1),
            factor: 2.0,
            max: Duration::from_secs(60),
            jitter: 0.2,
            total: None,
            retry_on: None,
            give_up: GiveUp::Fail,
        }
    }
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Try again when this much time has passed.
    After(Duration),
    /// The step has failed.
    GiveUp,
}

impl RetryPolicy {
    /// What is wrong with the policy: field, what it says, and the fix. Empty when it can be used.
    pub fn validate(&self) -> Vec<(&'static str, String, &'static str)> {
        let mut wrong = Vec::new();
        if !(1..=1_000_000).contains(&self.max_attempts) {
            wrong.push((
                "max_attempts",
                format!("{} is out of range", self.max_attempts),
                "use 1 to 1000000; 1 means no retry",
            ));
        }
        if !(1.0..=1_000.0).contains(&self.factor) {
            wrong.push(("factor", format!("{} is out of range", self.factor), "use 1 to 1000"));
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            wrong.push(("jitter", format!("{} is out of range", self.jitter), "use 0 to 1"));
        }
        if self.max < self.initial {
            let (max, initial) = (duration::format(self.max), duration::format(self.initial));
            wrong.push(("max", format!("{max} is shorter than `initial`, {initial}"), "use at least `initial`"));
        }
        if self.retry_on.as_ref().is_some_and(Vec::is_empty) {
            wrong.push((
                "retry_on",
                "it is empty, so nothing would be retried".to_owned(),
                "list error names or kinds, or use \"max_attempts\": 1",
            ));
        }
        wrong
    }

    /// Decides what follows an attempt that failed with `error`.
    ///
    /// `failed_before`: earlier failures that this policy decided, this one not counted. Permanent and canceled errors give up at once.
    fn next(
        &self,
        failed_before: u32,
        error: &StepError,
        retry_after: Option<Duration>,
        since_first: Option<Duration>,
        random: f64,
    ) -> Retry {
        let hopeless = matches!(error.kind, ErrorKind::Permanent | ErrorKind::Canceled);
        let covered = self.covers(&error.name, error.kind.as_str());
        if hopeless || failed_before.saturating_add(1) >= self.max_attempts || !covered {
            return Retry::GiveUp;
        }
        let pause = retry_after.map_or_else(|| self.pause(failed_before, random), |asked| asked.min(duration::MAX));
        match (self.total, since_first) {
            (Some(total), Some(since)) if since.saturating_add(pause) > total => Retry::GiveUp,
            _ => Retry::After(pause),
        }
    }

    fn covers(&self, name: &str, kind: &str) -> bool {
        self.retry_on.as_ref().is_none_or(|list| list.iter().any(|word| word == name || word == kind))
    }

    /// The pause after failure number `failed_before + 1`, spread by the jitter.
    fn pause(&self, failed_before: u32, random: f64) -> Duration {
        let exponent = i32::try_from(failed_before).unwrap_or(i32::MAX);
        let grown = self.initial.as_secs_f64() * self.factor.powi(exponent);
        let spread = 1.0 + self.jitter * (2.0 * random.clamp(0.0, 1.0) - 1.0);
        let seconds = grown.min(self.max.as_secs_f64()) * spread;
        Duration::try_from_secs_f64(seconds).unwrap_or(self.max).min(duration::MAX)
    }
}

/// The policies of a node, at least one. Of each failure the first that lists its error decides; where none does, the last, which gives up then. Each counts
/// the failures that it decided, and no others.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicies(Vec<RetryPolicy>);

/// Earlier failures of a step under one name and kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failures {
    /// The name of the error.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// How many.
    pub count: u32,
}

/// Earlier failures of a step, since its policies began to count.
#[derive(Clone, Copy, Debug, Default)]
pub struct FailedBefore<'a> {
    /// How many in all.
    pub count: u32,
    /// What they were; needed where [`RetryPolicies::count_by_error`] says so.
    pub errors: &'a [Failures],
}

impl RetryPolicies {
    /// The most policies of a node.
    pub const MOST: usize = 100;

    /// These policies; none where there is none.
    pub fn of(policies: Vec<RetryPolicy>) -> Option<Self> {
        (!policies.is_empty()).then_some(Self(policies))
    }

    /// One attempt: for what is not tried again by itself, since what is in it is.
    pub fn once() -> Self {
        RetryPolicy { max_attempts: 1, ..RetryPolicy::default() }.into()
    }

    /// What is wrong with them: path below `retry`, what it says, and the fix. Empty when they can be used.
    pub fn validate(&self) -> Vec<(String, String, &'static str)> {
        let mut wrong = Vec::new();
        for (place, policy) in self.0.iter().enumerate() {
            let path = if self.count_by_error() { format!("[{place}]") } else { String::new() };
            wrong.extend(policy.validate().into_iter().map(|(field, why, fix)| (format!("{path}.{field}"), why, fix)));
            if policy.retry_on.is_none() && place + 1 < self.0.len() {
                let why = "it takes every failure, so those behind it take none".to_owned();
                wrong.push((path, why, "give it `retry_on`, or put it last"));
            }
        }
        wrong
    }

    /// Decides what follows an attempt that failed with `error`, and what happens when none is left.
    ///
    /// - `before`: earlier attempts of the step that failed, this one not counted.
    /// - `retry_after`: what the handler asked for; it replaces the pause and is not spread.
    /// - `since_first`: time since the step's first attempt was claimed, for `total`.
    /// - `random`: uniform in 0..1.
    pub fn next(
        &self,
        before: FailedBefore<'_>,
        error: &StepError,
        retry_after: Option<Duration>,
        since_first: Option<Duration>,
        random: f64,
    ) -> (Retry, GiveUp) {
        let place = self.deciding(&error.name, error.kind.as_str());
        let decided = |failures: &&Failures| self.deciding(&failures.name, &failures.kind) == place;
        let count = match self.count_by_error() {
            true => before.errors.iter().filter(decided).map(|failures| failures.count).sum(),
            false => before.count,
        };
        match self.0.get(place) {
            Some(policy) => (policy.next(count, error, retry_after, since_first, random), policy.give_up),
            None => (Retry::GiveUp, GiveUp::Fail),
        }
    }

    /// What earlier failures were must be known, and not only how many: there are several policies.
    pub fn count_by_error(&self) -> bool {
        self.0.len() > 1
    }

    /// One of them bounds the time since the step's first attempt.
    pub fn bound_total(&self) -> bool {
        self.0.iter().any(|policy| policy.total.is_some())
    }

    /// The place of the policy that decides a failure.
    fn deciding(&self, name: &str, kind: &str) -> usize {
        self.0.iter().position(|policy| policy.covers(name, kind)).unwrap_or(self.0.len() - 1)
    }
}

impl From<RetryPolicy> for RetryPolicies {
    fn from(policy: RetryPolicy) -> Self {
        Self(vec![policy])
    }
}

impl Default for RetryPolicies {
    fn default() -> Self {
        RetryPolicy::default().into()
    }
}

/// One policy is an object, several are a list.
impl Serialize for RetryPolicies {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [only] => only.serialize(serializer),
            several => several.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    const NONE: Option<Duration> = None;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let policy = RetryPolicy { max_attempts: 100, ..RetryPolicy::default() };
        let error = StepError::retryable("x", "y");
        let pauses: Vec<_> = (0..8).map(|n| policy.next(n, &error, NONE, NONE, 0.5)).collect();
        let expected = [1, 2, 4, 8, 16, 32, 60, 60].map(|n| Retry::After(secs(n)));
        assert_eq!(pauses, expected);
        assert_eq!(policy.next(98, &error, NONE, NONE, 0.5), Retry::After(secs(60)));
    }

    #[test]
    fn the_third_failure_of_three_gives_up() {
        let policy = RetryPolicy::default();
        let error = StepError::retryable("x", "y");
        assert!(matches!(policy.next(1, &error, NONE, NONE, 0.5), Retry::After(_)));
        assert_eq!(policy.next(2, &error, NONE, NONE, 0.5), Retry::GiveUp);
    }

    #[test]
    fn permanent_canceled_and_unlisted_errors_give_up() {
        let policy = RetryPolicy { retry_on: Some(vec!["busy".into(), "timeout".into()]), ..RetryPolicy::default() };
        let after = |error: StepError| policy.next(0, &error, NONE, NONE, 0.5) != Retry::GiveUp;
        assert!(after(StepError::retryable("busy", "")));
        assert!(after(StepError::new("slow", ErrorKind::Timeout, "")));
        assert!(!after(StepError::retryable("other", "")));
        assert!(!after(StepError::permanent("busy", "")));
        assert!(!after(StepError::new("busy", ErrorKind::Canceled, "")));
    }

    #[test]
    fn a_handler_may_ask_for_a_pause_within_the_total() {
        let policy = RetryPolicy { total: Some(secs(100)), ..RetryPolicy::default() };
        let error = StepError::retryable("x", "y");
        assert_eq!(policy.next(0, &error, Some(secs(30)), Some(secs(70)), 0.9), Retry::After(secs(30)));
        assert_eq!(policy.next(0, &error, Some(secs(31)), Some(secs(70)), 0.9), Retry::GiveUp);
    }

    #[test]
    fn wrong_policies_are_told_field_by_field() {
        let policy = RetryPolicy {
            max_attempts: 0,
            factor: 0.5,
            jitter: f64::NAN,
            max: secs(0),
            retry_on: Some(vec![]),
            ..RetryPolicy::default()
        };
        let fields: Vec<_> = policy.validate().into_iter().map(|(field, ..)| field).collect();
        assert_eq!(fields, ["max_attempts", "factor", "jitter", "max", "retry_on"]);
        assert!(RetryPolicy::default().validate().is_empty());
    }

    #[test]
    fn the_first_policy_that_lists_the_error_decides_and_counts_its_own() {
        let policy = |on: &[&str], max_attempts| RetryPolicy {
            max_attempts,
            retry_on: (!on.is_empty()).then(|| on.iter().map(|word| (*word).to_owned()).collect()),
            jitter: 0.0,
            ..RetryPolicy::default()
        };
        let policies =
            RetryPolicies::of(vec![policy(&["a", "b"], 3), policy(&["timeout"], 2), policy(&[], 2)]).unwrap();
        let mut failed: Vec<Failures> = Vec::new();
        let mut decided = Vec::new();
        for (name, kind) in [
            ("a", ErrorKind::Retryable),
            ("x", ErrorKind::Timeout),
            ("b", ErrorKind::Retryable),
            ("other", ErrorKind::Retryable),
            ("a", ErrorKind::Retryable),
        ] {
            let count = u32::try_from(failed.len()).unwrap();
            let before = FailedBefore { count, errors: &failed };
            decided.push(policies.next(before, &StepError::new(name, kind, ""), NONE, NONE, 0.5).0);
            failed.push(Failures { name: name.to_owned(), kind: kind.as_str().to_owned(), count: 1 });
        }
        let after = |seconds| Retry::After(secs(seconds));
        assert_eq!(decided, [after(1), after(1), after(2), after(1), Retry::GiveUp]);
    }

    #[test]
    fn where_none_lists_the_error_the_last_policy_gives_up_in_its_way() {
        let on = |word: &str, give_up| RetryPolicy {
            retry_on: Some(vec![word.to_owned()]),
            give_up,
            ..RetryPolicy::default()
        };
        let policies = RetryPolicies::of(vec![on("a", GiveUp::Fail), on("b", GiveUp::Pause)]).unwrap();
        let next = |error: StepError| policies.next(FailedBefore::default(), &error, NONE, NONE, 0.5);
        assert_eq!(next(StepError::retryable("c", "")), (Retry::GiveUp, GiveUp::Pause));
        assert_eq!(next(StepError::permanent("a", "")), (Retry::GiveUp, GiveUp::Fail));
        assert!(RetryPolicies::of(Vec::new()).is_none());
    }

    proptest! {
        #[test]
        fn a_pause_stays_within_the_jitter(failed in 0_u32..90, random in 0.0..=1.0_f64, jitter in 0.0..=1.0_f64) {
            let policy = RetryPolicy { max_attempts: 100, jitter, ..RetryPolicy::default() };
            let Retry::After(pause) = policy.next(failed, &StepError::retryable("x", ""), NONE, NONE, random) else {
                return Err(TestCaseError::fail("gave up"));
            };
            let plain = (2.0_f64).powi(failed as i32).min(60.0);
            prop_assert!(pause.as_secs_f64() >= plain * (1.0 - jitter) - 1e-6);
            prop_assert!(pause.as_secs_f64() <= plain * (1.0 + jitter) + 1e-6);
        }
    }
}
