//! When a worker looks again from the start of its queues. A claim looks above its low-water mark only, so a row whose insert was committed late
//! lies below it; a sweep finds it. Under a pinned snapshot a sweep walks over dead rows: its pace bounds that to a twentieth of the time, as long as
//! one takes less than 100 ms.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A busy worker sweeps at least this often (promise: a start that was held open begins within about a second of its commit).
const AT_LEAST_EVERY: Duration = Duration::from_millis(500);

/// A lane that found nothing above its marks may sweep this soon after the last sweep.
const SOON: Duration = Duration::from_millis(20);

/// How long to rest after a look that took so long: a twentieth of the time goes to looking, but within two seconds there is another look, unless
/// looking alone takes half a second.
pub(crate) fn rest_after(took: Duration) -> Duration {
    (took * 20).min(Duration::from_secs(2)).max(took * 4)
}

/// The pace of sweeps of one worker: one lane at a time.
#[derive(Debug)]
pub(crate) struct Sweeps(Mutex<State>);

#[derive(Debug)]
struct State {
    last_end: Instant,
    last_took: Duration,
    running: Option<Instant>,
}

impl Default for Sweeps {
    fn default() -> Self {
        Self(Mutex::new(State { last_end: Instant::now(), last_took: Duration::ZERO, running: None }))
    }
}

impl Sweeps {
    /// True when the caller shall sweep now; it then calls `done`. `dry`: its last claim found less than it had slots for.
    pub(crate) fn begin(&self, now: Instant, dry: bool) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // a sweep that never came back (its lane lost its connection) does not stop the others for ever
        if state.running.is_some_and(|began| now.duration_since(began) < Duration::from_secs(10)) {
            return false;
        }
        let pause = if dry { SOON } else { AT_LEAST_EVERY }.max(rest_after(state.last_took));
        let due = now.duration_since(state.last_end) >= pause;
        if due {
            state.running = Some(now);
        }
        due
    }

    /// The sweep ended; Postgres took so long for it, if it said so.
    pub(crate) fn done(&self, now: Instant, took: Option<Duration>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.running = None;
        state.last_took = took.unwrap_or(state.last_took);
        state.last_end = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_keep_to_a_twentieth_of_the_time() {
        let sweeps = Sweeps::default();
        let start = Instant::now() + Duration::from_secs(1);
        assert!(sweeps.begin(start, true));
        assert!(!sweeps.begin(start, true), "one lane at a time");
        sweeps.done(start, Some(Duration::from_millis(10)));
        assert!(!sweeps.begin(start + Duration::from_millis(199), true));
        assert!(sweeps.begin(start + Duration::from_millis(200), true));
        assert_eq!(rest_after(Duration::from_secs(1)), Duration::from_secs(4));
    }

    #[test]
    fn a_busy_worker_sweeps_within_a_second() {
        let sweeps = Sweeps::default();
        let start = Instant::now();
        assert!(!sweeps.begin(start, false));
        assert!(sweeps.begin(start + Duration::from_millis(550), false));
    }
}
