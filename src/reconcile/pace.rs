//! Pace: how fast Lago may be asked, so that deliveries keep the larger part of what it takes.
//!
//! At most half of the destination's `rate_limit`; and where Lago says how much it takes, at most half of
//! each of its windows.
#![forbid(unsafe_code)]

use crate::verdict::Allowance;
use std::time::{Duration, Instant};

/// A longer window is not waited for: the next answer tells anew.
const LONGEST_WINDOW: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Pace {
    between: Duration,
    next: Instant,
}

impl Pace {
    /// `rate` is how many requests a second the destination is given, if that is limited.
    pub fn new(rate: Option<f64>, now: Instant) -> Pace {
        let between =
            rate.filter(|rate| *rate > 0.0).and_then(|rate| Duration::try_from_secs_f64(2.0 / rate).ok());
        Pace { between: between.unwrap_or_default(), next: now }
    }

    /// How long to wait before the next request.
    pub fn wait(&self, now: Instant) -> Duration {
        self.next.saturating_duration_since(now)
    }

    /// A request goes out.
    pub fn asks(&mut self, now: Instant) {
        self.next = now + self.between;
    }

    /// What its answer says may still be asked.
    pub fn hears(&mut self, allowance: Option<Allowance>, now: Instant) {
        let Some(Allowance { limit, remaining, reset }) = allowance else { return };
        // Without a limit only the end of a window tells anything.
        if remaining <= limit.unwrap_or(0) / 2 {
            self.next = self.next.max(now + reset.min(LONGEST_WINDOW));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_rate_is_left_to_deliveries() {
        let now = Instant::now();
        let mut pace = Pace::new(Some(10.0), now);
        assert_eq!(pace.wait(now), Duration::ZERO);
        pace.asks(now);
        assert_eq!(pace.wait(now), Duration::from_millis(200));
        assert_eq!(pace.wait(now + Duration::from_millis(150)), Duration::from_millis(50));
        assert_eq!(pace.wait(now + Duration::from_secs(9)), Duration::ZERO);
        let mut free = Pace::new(None, now);
        free.asks(now);
        assert_eq!(free.wait(now), Duration::ZERO);
    }

    #[test]
    fn half_of_each_window_is_left_to_deliveries() {
        let now = Instant::now();
        let wait = |limit, remaining, reset| {
            let mut pace = Pace::new(None, now);
            pace.asks(now);
            pace.hears(Some(Allowance { limit, remaining, reset: Duration::from_secs(reset) }), now);
            pace.wait(now).as_secs()
        };
        assert_eq!(wait(Some(50), 26, 1), 0);
        assert_eq!(wait(Some(50), 25, 1), 1);
        assert_eq!(wait(Some(50), 0, 3600), 60);
        assert_eq!(wait(None, 1, 1), 0);
        assert_eq!(wait(None, 0, 1), 1);
    }
}
