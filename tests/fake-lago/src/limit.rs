//! The rate limit in front of the API: a fixed window, and the headers that describe it.

use std::time::{Duration, Instant};

use crate::config::{Config, RateLimit};
use crate::traffic::Category;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Exceeded,
}

/// Where a request stands in its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub limit: u64,
    pub remaining: u64,
    /// Seconds until the window resets: a delta, not a point in time.
    pub reset: u64,
    pub verdict: Verdict,
}

impl Standing {
    pub fn headers(&self) -> [(String, String); 3] {
        [
            ("X-RateLimit-Limit".to_owned(), self.limit.to_string()),
            ("X-RateLimit-Remaining".to_owned(), self.remaining.to_string()),
            ("X-RateLimit-Reset".to_owned(), self.reset.to_string()),
        ]
    }
}

#[derive(Debug)]
pub struct Window {
    rule: RateLimit,
    started: Instant,
    used: u64,
}

impl Window {
    pub fn new(rule: RateLimit, now: Instant) -> Window {
        Window { rule, started: now, used: 0 }
    }

    /// Counts one request.
    pub fn take(&mut self, now: Instant) -> Standing {
        let length = Duration::from_secs(self.rule.window_seconds.max(1));
        let mut elapsed = now.saturating_duration_since(self.started);
        if elapsed >= length {
            *self = Window::new(self.rule, now);
            elapsed = Duration::ZERO;
        }
        let left = length - elapsed;
        let reset = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        let verdict = if self.used < self.rule.requests { Verdict::Pass } else { Verdict::Exceeded };
        self.used = self.used.saturating_add(1);
        let remaining = self.rule.requests.saturating_sub(self.used);
        Standing { limit: self.rule.requests, remaining, reset, verdict }
    }
}

/// The windows of the two categories, or the one they share.
#[derive(Debug)]
pub struct Windows {
    events: Option<Window>,
    everything_else: Option<Window>,
    shared: Shared,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shared {
    One,
    PerCategory,
}

impl Windows {
    pub fn new(config: &Config, now: Instant) -> Windows {
        let window = |rule: Option<RateLimit>| rule.map(|rule| Window::new(rule, now));
        let shared = match config.rate_limit_of_others {
            None => Shared::One,
            Some(_) => Shared::PerCategory,
        };
        let (events, everything_else) = (window(config.rate_limit), window(config.rate_limit_of_others));
        Windows { events, everything_else, shared }
    }

    /// Counts one request, if its category is limited.
    pub fn take(&mut self, category: Category, now: Instant) -> Option<Standing> {
        let window = match (category, self.shared) {
            (Category::Events, _) | (_, Shared::One) => &mut self.events,
            (Category::EverythingElse, Shared::PerCategory) => &mut self.everything_else,
        };
        window.as_mut().map(|window| window.take(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn categories_have_windows_of_their_own_if_both_are_limited() {
        let rule = |requests| Some(RateLimit { requests, window_seconds: 10 });
        let now = Instant::now();
        let limits = |events, others| {
            let config = Config { rate_limit: events, rate_limit_of_others: others, ..Config::default() };
            let mut windows = Windows::new(&config, now);
            let mut take = |category| windows.take(category, now).map(|standing| standing.verdict);
            [take(Category::Events), take(Category::EverythingElse)]
        };
        let (pass, exceeded) = (Some(Verdict::Pass), Some(Verdict::Exceeded));
        assert_eq!(limits(rule(1), rule(1)), [pass, pass]);
        assert_eq!(limits(rule(1), None), [pass, exceeded]);
        assert_eq!(limits(None, rule(1)), [None, pass]);
        assert_eq!(limits(None, None), [None, None]);
    }

    #[test]
    fn a_window_lets_its_number_through_and_says_when_it_resets() {
        let start = Instant::now();
        let mut window = Window::new(RateLimit { requests: 2, window_seconds: 10 }, start);
        let first = window.take(start);
        assert_eq!(first, Standing { limit: 2, remaining: 1, reset: 10, verdict: Verdict::Pass });
        assert_eq!(window.take(start).verdict, Verdict::Pass);
        let third = window.take(start + Duration::from_millis(3500));
        assert_eq!(third, Standing { limit: 2, remaining: 0, reset: 7, verdict: Verdict::Exceeded });
        assert_eq!(window.take(start + Duration::from_secs(10)).verdict, Verdict::Pass);
    }
}
