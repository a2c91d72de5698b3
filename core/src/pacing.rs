//! How long to wait before trying again, or before looking again.
//!
//! The one place that knows the crate `backoff`. It paces statements and polls; when a failed step is tried again
//! is the retry policy's business (`retry.rs`).

use std::time::Duration;

use backoff::backoff::Backoff;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};

/// A series of pauses that grow by half each time, each varied at random so that many callers spread out.
#[derive(Debug)]
pub struct Pacing {
    backoff: ExponentialBackoff,
    max: Duration,
}

impl Pacing {
    /// Between attempts to reach Postgres again: 50 ms to 5 s.
    pub fn reconnect() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_secs(5))
    }

    /// Between looks for something that has not happened yet: from `shortest` to `longest`.
    pub fn idle(shortest: Duration, longest: Duration) -> Self {
        Self::new(shortest, longest)
    }

    /// The next pause: at most the longest, never zero unless the shortest is.
    pub fn pause(&mut self) -> Duration {
        self.backoff.next_backoff().map_or(self.max, |pause| pause.min(self.max))
    }

    /// Start again from the shortest pause: something happened.
    pub fn reset(&mut self) {
        self.backoff.reset();
    }

    fn new(shortest: Duration, longest: Duration) -> Self {
        let backoff = ExponentialBackoffBuilder::new()
            .with_initial_interval(shortest)
            .with_max_interval(longest)
            .with_multiplier(1.5)
            .with_randomization_factor(0.2)
            .with_max_elapsed_time(None)
            .build();
        Self { backoff, max: longest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_begin_again_after_a_reset() {
        let mut pacing = Pacing::reconnect();
        let first = pacing.pause();
        assert!(first >= Duration::from_millis(40) && first <= Duration::from_millis(61), "{first:?}");
        let later: Vec<Duration> = (0..40).map(|_| pacing.pause()).collect();
        assert!(later.iter().all(|pause| *pause <= Duration::from_secs(5)));
        assert!(later.last().is_some_and(|pause| *pause >= Duration::from_secs(4)));
        pacing.reset();
        assert!(pacing.pause() <= Duration::from_millis(61));
    }
}
