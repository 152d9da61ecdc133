//! Speed: how many messages a second leave the outbox, for the view `workers`.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// Messages settled per second, over the last few seconds.
pub struct Speed {
    since: Instant,
    count: usize,
    last: f64,
}

impl Speed {
    const WINDOW: Duration = Duration::from_secs(2);

    pub fn new(now: Instant) -> Speed {
        Speed { since: now, count: 0, last: 0.0 }
    }

    pub fn count(&mut self, messages: usize, now: Instant) {
        self.count += messages;
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= Self::WINDOW {
            self.last = self.count as f64 / elapsed.as_secs_f64();
            (self.since, self.count) = (now, 0);
        }
    }

    pub fn per_second(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed > Self::WINDOW * 2 { self.count as f64 / elapsed.as_secs_f64() } else { self.last }
    }
}
