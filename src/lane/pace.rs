//! Pace: how fast requests follow each other, by the operator's limit. The server's is in [`super::quota`].
//!
//! Below the lane. It promises an operator who set a rate that it is kept over any stretch of time
//! and reached under backlog.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// The part of a second's requests that may go at once after a rest: one in so many.
const BURST_PART: f64 = 10.0;
/// The rest of a division must not make the last of a full bucket wait.
const ROUNDING: f64 = 1e-6;
/// A rate so small that its waits cannot be counted waits this long, and then anew.
const LONGEST_REFILL: Duration = Duration::from_secs(86_400);

/// A token bucket: each request takes a token, and tokens come at the operator's rate. Over any time
/// `t` it gives at most `rate * t`, a burst of a tenth of a second's requests (at least one), and one.
#[derive(Debug)]
pub struct Bucket {
    /// Tokens per second; none means as many as one likes.
    rate: Option<f64>,
    tokens: f64,
    filled_at: Option<Instant>,
    backlog: Backlog,
}

/// Whether somebody waits for the next token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backlog {
    None,
    Waits,
}

impl Bucket {
    pub fn new(rate: Option<f64>) -> Bucket {
        let rate = usable(rate);
        Bucket { rate, tokens: rate.map_or(0.0, burst), filled_at: None, backlog: Backlog::None }
    }

    /// A changed rate starts with the tokens that are there: changing it must not be a way around it.
    pub fn set_rate(&mut self, rate: Option<f64>, now: Instant) {
        let rate = usable(rate);
        if rate == self.rate {
            return;
        }
        self.fill(now);
        self.rate = rate;
        self.tokens = rate.map_or(0.0, |rate| self.tokens.min(burst(rate)));
        self.filled_at = Some(now);
    }

    /// The moment to wait for, if a request cannot go now.
    pub fn wait(&mut self, now: Instant) -> Option<Instant> {
        self.fill(now);
        let rate = self.rate?;
        if self.tokens >= 1.0 - ROUNDING {
            return None;
        }
        self.backlog = Backlog::Waits;
        let missing = Duration::try_from_secs_f64((1.0 - self.tokens) / rate).unwrap_or(LONGEST_REFILL);
        Some(now + missing.min(LONGEST_REFILL))
    }

    pub fn take(&mut self, now: Instant) {
        self.fill(now);
        if self.rate.is_some() {
            self.tokens -= 1.0;
        }
        self.backlog = Backlog::None;
    }

    /// There is nothing to send.
    pub fn rest(&mut self) {
        self.backlog = Backlog::None;
    }

    fn fill(&mut self, now: Instant) {
        let Some(rate) = self.rate else { return };
        let passed = self.filled_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        // Who waited for a token and comes a little late for it must not lose what came meanwhile, or
        // the rate would never be reached.
        let most = match self.backlog {
            Backlog::None => burst(rate),
            Backlog::Waits => burst(rate) + 1.0,
        };
        self.tokens = (self.tokens + passed.as_secs_f64() * rate).min(most);
        self.filled_at = self.filled_at.max(Some(now));
    }
}

fn usable(rate: Option<f64>) -> Option<f64> {
    rate.filter(|rate| rate.is_finite() && *rate > 0.0)
}

/// The most requests that go at once after a rest.
fn burst(rate: f64) -> f64 {
    (rate / BURST_PART).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::Dice;

    /// When requests go, if somebody always waits, and comes up to `late` seconds too late.
    fn taken(
        bucket: &mut Bucket,
        mut now: Instant,
        seconds: u64,
        late: f64,
        dice: &mut Dice,
    ) -> Vec<Instant> {
        let end = now + Duration::from_secs(seconds);
        let mut taken = Vec::new();
        while now < end {
            match bucket.wait(now) {
                Some(until) => now = until + Duration::from_secs_f64(late * dice.throw()),
                None => {
                    bucket.take(now);
                    taken.push(now);
                }
            }
        }
        taken
    }

    #[test]
    fn a_rate_is_reached_though_each_request_goes_a_little_late() {
        for (rate, late) in [(0.5, 0.3), (1.0, 0.5), (7.0, 0.05), (100.0, 0.01), (1000.0, 0.005)] {
            let mut bucket = Bucket::new(Some(rate));
            let count = taken(&mut bucket, Instant::now(), 1000, late, &mut Dice::new(7)).len();
            let expected = rate * 1000.0;
            assert!((count as f64 - expected).abs() <= burst(rate) + 2.0, "{rate}: {count}");
        }
    }

    #[test]
    fn no_stretch_of_time_holds_more_than_the_rate_and_a_burst() {
        let mut dice = Dice::new(3);
        for rate in [0.5, 1.0, 7.0, 60.0] {
            let (mut now, mut bucket) = (Instant::now(), Bucket::new(Some(rate)));
            let mut all: Vec<Instant> = Vec::new();
            for _ in 0..20 {
                all.extend(taken(&mut bucket, now, 5, 3.0 * dice.throw() / rate, &mut dice));
                bucket.rest();
                now = all.last().map_or(now, |last| now.max(*last))
                    + Duration::from_secs_f64(20.0 * dice.throw());
            }
            for (first, from) in all.iter().enumerate() {
                for (last, to) in all.iter().enumerate().skip(first) {
                    let most = rate * (*to - *from).as_secs_f64() + burst(rate) + 1.0;
                    assert!((last - first + 1) as f64 <= most + 0.001, "{rate}: more than {most}");
                }
            }
        }
    }

    #[test]
    fn after_a_rest_a_slow_rate_gives_one_request() {
        let (now, mut bucket) = (Instant::now(), Bucket::new(Some(0.5)));
        bucket.take(now);
        assert_eq!(bucket.wait(now), Some(now + Duration::from_secs(2)));
        bucket.rest();
        let later = now + Duration::from_secs(60);
        assert_eq!(bucket.wait(later), None);
        bucket.take(later);
        assert_eq!(bucket.wait(later), Some(later + Duration::from_secs(2)));
    }

    #[test]
    fn a_changed_rate_gives_no_fresh_burst() {
        let now = Instant::now();
        for before in [None, Some(0.5), Some(100.0)] {
            let mut bucket = Bucket::new(before);
            for _ in 0..10 {
                if bucket.wait(now).is_none() {
                    bucket.take(now);
                }
            }
            bucket.set_rate(Some(200.0), now);
            assert!(bucket.wait(now).is_some(), "{before:?}");
            bucket.set_rate(before, now);
            bucket.set_rate(Some(1.0), now);
            assert_eq!(bucket.wait(now), Some(now + Duration::from_secs(1)), "{before:?}");
        }
    }

    #[test]
    fn a_senseless_rate_is_none_and_a_tiny_one_waits() {
        let now = Instant::now();
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let mut bucket = Bucket::new(Some(rate));
            bucket.take(now);
            assert_eq!(bucket.wait(now), None);
        }
        let mut bucket = Bucket::new(Some(1e-300));
        bucket.take(now);
        assert_eq!(bucket.wait(now), Some(now + LONGEST_REFILL));
    }
}
