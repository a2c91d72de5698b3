//! The states of runs and steps, the outcomes of attempts, and which change may follow which.
//!
//! Legal changes live in one exhaustive match. Storage asks it and nobody re-derives it; the schema's check
//! constraints say the same with the codes given here.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that names no state or outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {what}: use one of {known}")]
pub struct UnknownWord {
    text: String,
    what: &'static str,
    known: String,
}

/// A stored code that stands for no state or outcome: the row was written by something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code} is the code of no {what}")]
pub struct UnknownCode {
    code: i16,
    what: &'static str,
}

/// A change that a run in this state cannot make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a {state} run cannot {event}")]
pub struct IllegalEvent {
    /// The state the run is in.
    pub state: RunState,
    /// What was to happen to it.
    pub event: RunEvent,
}

/// Gives an enum its lowercase words: `as_str`, `Display`, `FromStr` and the list of all.
macro_rules! words {
    ($name:ident, $what:literal, { $($variant:ident => $word:literal),+ $(,)? }) => {
        impl $name {
            /// Every one, in the order of a life.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word used in JSON, in text output and in SQL views.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                Self::ALL.iter().copied().find(|word| word.as_str() == text).ok_or_else(|| UnknownWord {
                    text: text.chars().take(100).collect(),
                    what: $what,
                    known: Self::ALL.iter().map(|word| word.as_str()).collect::<Vec<_>>().join(", "),
                })
            }
        }
    };
}

/// Where a run stands. `Queued` and `Running` are both stored as live: a run is queued until its first attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// Started, no attempt of it claimed yet.
    Queued,
    /// At least one attempt was claimed.
    Running,
    /// Its steps are not claimed until it is resumed.
    Paused,
    /// Every sink was resolved; it has an output.
    Completed,
    /// A step gave up with no edge for it, or the run was terminated so; it has an error.
    Failed,
    /// Canceled by request, or terminated so.
    Canceled,
}

words!(RunState, "run state", {
    Queued => "queued", Running => "running", Paused => "paused",
    Completed => "completed", Failed => "failed", Canceled => "canceled",
});

/// What happens to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunEvent {
    /// An attempt of one of its steps was claimed.
    StepClaimed,
    /// The last sink was resolved.
    SinksResolved,
    /// A step gave up and no edge takes that.
    StepGaveUp,
    /// A `terminate` node ended it as completed.
    TerminatedCompleted,
    /// A `terminate` node ended it as failed.
    TerminatedFailed,
    /// A `terminate` node ended it as canceled.
    TerminatedCanceled,
    /// An operator holds it.
    Pause,
    /// An operator lets it go on.
    Resume,
    /// It was canceled.
    Cancel,
}

impl fmt::Display for RunEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StepClaimed => "have a step claimed",
            Self::SinksResolved => "complete",
            Self::StepGaveUp => "fail",
            Self::TerminatedCompleted | Self::TerminatedFailed | Self::TerminatedCanceled => "be terminated",
            Self::Pause => "be paused",
            Self::Resume => "be resumed",
            Self::Cancel => "be canceled",
        })
    }
}

impl RunState {
    /// The state after `event`, or why there is none. Steps that were out when a run was paused may still end
    /// it, so every end is legal from every live state.
    pub fn next(self, event: RunEvent) -> Result<Self, IllegalEvent> {
        use {RunEvent as E, RunState as S};
        match (self, event) {
            (S::Queued | S::Running, E::StepClaimed) => Ok(S::Running),
            (S::Queued | S::Running, E::Pause) => Ok(S::Paused),
            (S::Paused, E::Resume) => Ok(S::Running),
            (S::Queued | S::Running | S::Paused, E::SinksResolved | E::TerminatedCompleted) => Ok(S::Completed),
            (S::Queued | S::Running | S::Paused, E::StepGaveUp | E::TerminatedFailed) => Ok(S::Failed),
            (S::Queued | S::Running | S::Paused, E::Cancel | E::TerminatedCanceled) => Ok(S::Canceled),
            (state, event) => Err(IllegalEvent { state, event }),
        }
    }

    /// True once the run is completed, failed or canceled: nothing changes it any more.
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Canceled)
    }

    /// The code in `workflow_runs.state`.
    pub const fn code(self) -> i16 {
        match self {
            Self::Queued | Self::Running => 1,
            Self::Paused => 2,
            Self::Completed => 3,
            Self::Failed => 4,
            Self::Canceled => 5,
        }
    }

    /// The state of a stored code. A live run reads as `Running`; whether it is still queued is derived from
    /// its attempts by who needs to know.
    pub const fn from_code(code: i16) -> Result<Self, UnknownCode> {
        match code {
            1 => Ok(Self::Running),
            2 => Ok(Self::Paused),
            3 => Ok(Self::Completed),
            4 => Ok(Self::Failed),
            5 => Ok(Self::Canceled),
            _ => Err(UnknownCode { code, what: "run state" }),
        }
    }
}

/// Where a step stands. It is never stored: the table that holds the step's one row says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepState {
    /// May be claimed now.
    Ready,
    /// Due later: a retry's backoff, a timer.
    Delayed,
    /// Held by a lane.
    Running,
    /// Waits for something outside: a signal, a child run.
    Waiting,
    /// An attempt of it was accepted as completed.
    Completed,
    /// It gave up.
    Failed,
    /// An edge or join decided that it does not run.
    Skipped,
    /// Its run ended first.
    Canceled,
}

words!(StepState, "step state", {
    Ready => "ready", Delayed => "delayed", Running => "running", Waiting => "waiting",
    Completed => "completed", Failed => "failed", Skipped => "skipped", Canceled => "canceled",
});

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The handler's output was accepted.
    Completed,
    /// The handler failed; the retry policy decides what follows.
    Failed,
    /// The lane that held it did not renew its lease.
    Lost,
    /// Its run had ended.
    Canceled,
    /// The step never ran (attempt 0, with a reason).
    Skipped,
    /// A graceful stop gave it back; it costs no budget.
    Released,
}

words!(Outcome, "attempt outcome", {
    Completed => "completed", Failed => "failed", Lost => "lost",
    Canceled => "canceled", Skipped => "skipped", Released => "released",
});

impl Outcome {
    /// The code in `execution_step_attempts.outcome`.
    pub const fn code(self) -> i16 {
        match self {
            Self::Completed => 1,
            Self::Failed => 2,
            Self::Lost => 3,
            Self::Canceled => 4,
            Self::Skipped => 5,
            Self::Released => 6,
        }
    }

    /// The outcome of a stored code.
    pub const fn from_code(code: i16) -> Result<Self, UnknownCode> {
        match code {
            1 => Ok(Self::Completed),
            2 => Ok(Self::Failed),
            3 => Ok(Self::Lost),
            4 => Ok(Self::Canceled),
            5 => Ok(Self::Skipped),
            6 => Ok(Self::Released),
            _ => Err(UnknownCode { code, what: "outcome" }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn an_ended_run_never_changes() {
        use RunEvent as E;
        let events = [
            E::StepClaimed,
            E::SinksResolved,
            E::StepGaveUp,
            E::TerminatedCompleted,
            E::TerminatedFailed,
            E::TerminatedCanceled,
            E::Pause,
            E::Resume,
            E::Cancel,
        ];
        for &state in RunState::ALL {
            for event in events {
                let next = state.next(event);
                assert!(!state.has_ended() || next.is_err(), "{state} {event:?}");
            }
        }
        let refused = RunState::Completed.next(E::Cancel).unwrap_err();
        assert_eq!(refused.to_string(), "a completed run cannot be canceled");
        assert_eq!(RunState::Paused.next(E::Resume), Ok(RunState::Running));
        assert!(RunState::Running.next(E::Resume).is_err());
    }

    #[test]
    fn words_and_codes_read_back() {
        for &state in RunState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
            let back = RunState::from_code(state.code()).unwrap();
            assert!(back == state || (state == RunState::Queued && back == RunState::Running));
        }
        for &outcome in Outcome::ALL {
            assert_eq!(outcome.as_str().parse(), Ok(outcome));
            assert_eq!(Outcome::from_code(outcome.code()), Ok(outcome));
        }
        for &state in StepState::ALL {
            assert_eq!(state.to_string().parse(), Ok(state));
        }
        assert_eq!(
            "lots".parse::<Outcome>().unwrap_err().to_string(),
            "`lots` is no attempt outcome: use one of completed, failed, lost, canceled, skipped, released",
        );
        assert!(RunState::from_code(0).is_err() && Outcome::from_code(7).is_err());
    }
}
