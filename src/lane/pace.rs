//! Pace: how fast requests follow each other, by the operator's limit and by the server's.
//!
//! Below the lane. It promises an operator who set a rate that it is kept over any stretch of time
//! and reached under backlog, and a server that says how much it still takes that it is not asked for
//! more.
#![forbid(unsafe_code)]

use crate::call::Category;
use crate::verdict::Allowance;
use std::time::{Duration, Instant};

/// No server is believed that wants to be left alone for longer: Lago's windows are seconds long.
const LONGEST_WINDOW: Duration = Duration::from_secs(60);
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

/// What the server said it still takes, of each category.
#[derive(Debug, Default)]
pub struct Quotas {
    events: Told,
    other: Told,
}

#[derive(Debug, Default)]
struct Told {
    /// Of the window that has not ended.
    quota: Option<Quota>,
    /// How many requests a whole window takes, as far as it was ever said.
    limit: Option<u32>,
}

/// When to look again for the first answer of a new window, if it does not come before.
const ANSWER_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct Quota {
    limit: Option<u32>,
    /// The least any answer of this window named: answers may come in another order than that in which
    /// the server counted.
    remaining: usize,
    resets_at: Instant,
    /// When the next request keeps the rest spread over the window.
    next_at: Option<Instant>,
}

impl Quotas {
    /// An answer came, which says what is left or does not.
    pub fn observe(&mut self, category: Category, said: Option<Allowance>, now: Instant) {
        let told = self.told(category, now);
        told.limit = said.and_then(|said| said.limit).or(told.limit);
        let slot = &mut told.quota;
        match (slot.as_mut(), said) {
            (None, None) => {}
            (Some(quota), None) => quota.remaining = quota.remaining.saturating_sub(1),
            (None, Some(Allowance { limit, remaining, reset })) => {
                *slot = Some(Quota {
                    limit,
                    remaining: remaining as usize,
                    resets_at: now + reset.min(LONGEST_WINDOW),
                    next_at: None,
                });
            }
            (Some(quota), Some(Allowance { limit, remaining, reset })) => {
                quota.limit = limit.or(quota.limit);
                quota.remaining = quota.remaining.min(remaining as usize);
                // An answer that was long on its way counts from when it was written, so the earliest
                // end is nearest to the truth.
                quota.resets_at = quota.resets_at.min(now + reset.min(LONGEST_WINDOW));
            }
        }
    }

    /// The moment to wait for, if no request of this category should go now. `unanswered` ones are
    /// under way: the server may or may not have counted them.
    pub fn wait(&mut self, category: Category, unanswered: usize, now: Instant) -> Option<Instant> {
        let told = self.told(category, now);
        let Some(quota) = &told.quota else {
            // A new window has begun: what is left of it is not said yet, but it is no more than a whole one.
            let limit = told.limit?.max(1) as usize;
            return (unanswered >= limit).then(|| now + ANSWER_PAUSE);
        };
        if quota.remaining <= unanswered {
            return Some(quota.resets_at);
        }
        quota.next_at.filter(|next_at| *next_at > now)
    }

    /// A request goes; `unanswered` went before it.
    pub fn take(&mut self, category: Category, unanswered: usize, now: Instant) {
        let Some(quota) = &mut self.told(category, now).quota else { return };
        let left = quota.remaining.saturating_sub(unanswered).max(1);
        let scarce = quota.limit.is_none_or(|limit| left.saturating_mul(2) < limit as usize);
        let window = quota.resets_at.saturating_duration_since(now);
        let share = u32::try_from(left).unwrap_or(u32::MAX);
        quota.next_at = scarce.then(|| now + window / share);
    }

    /// What is known of a category, without the window that has ended.
    fn told(&mut self, category: Category, now: Instant) -> &mut Told {
        let told = match category {
            Category::Events => &mut self.events,
            Category::Other => &mut self.other,
        };
        if told.quota.as_ref().is_some_and(|quota| quota.resets_at <= now) {
            told.quota = None;
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::Dice;

    #[test]
    fn a_new_window_is_not_met_with_more_than_a_whole_one_before_its_first_answer() {
        let (mut quotas, now) = (Quotas::default(), Instant::now());
        assert_eq!(quotas.wait(Category::Events, 99, now), None, "nothing is known yet");
        let reset = Duration::from_secs(1);
        quotas.observe(Category::Events, Some(Allowance { limit: Some(10), remaining: 0, reset }), now);
        assert_eq!(quotas.wait(Category::Events, 0, now), Some(now + reset));
        assert_eq!(quotas.wait(Category::Events, 9, now + reset), None);
        assert!(quotas.wait(Category::Events, 10, now + reset).is_some());
        assert_eq!(quotas.wait(Category::Other, 10, now + reset), None);
    }

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

    #[test]
    fn an_answer_that_says_nothing_counts_as_one_request() {
        let now = Instant::now();
        let mut quotas = Quotas::default();
        let said = Allowance { limit: Some(4), remaining: 1, reset: Duration::from_secs(1) };
        quotas.observe(Category::Events, Some(said), now);
        assert_eq!(quotas.wait(Category::Events, 0, now), None);
        quotas.observe(Category::Events, None, now);
        assert_eq!(quotas.wait(Category::Events, 0, now), Some(now + Duration::from_secs(1)));
        assert_eq!(quotas.wait(Category::Other, 0, now), None);
    }
}
