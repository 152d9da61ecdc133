//! Speed: how many messages a second leave the outbox, and how many a destination takes when there are enough.
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

/// Messages per second that a destination takes while more wait than can go. What it took while there
/// was not enough to do says nothing of how long a backlog will last, and neither does an outage.
#[derive(Debug, Default)]
pub struct Pace {
    average: Option<f64>,
    /// Since when more wait than can go, and how many have gone.
    pressed: Option<(Instant, usize)>,
}

impl Pace {
    /// Shorter stretches say little.
    const SHORTEST: Duration = Duration::from_millis(250);
    /// A stretch of this length moves the average more than half of the way.
    const MEMORY: Duration = Duration::from_secs(60);

    /// More wait than can go now.
    pub fn press(&mut self, now: Instant) {
        self.pressed.get_or_insert((now, 0));
    }

    /// All that can go has gone, or nothing may go.
    pub fn rest(&mut self, now: Instant) {
        self.learn(now);
        self.pressed = None;
    }

    pub fn count(&mut self, messages: usize) {
        if let Some((_, count)) = &mut self.pressed {
            *count += messages;
        }
    }

    /// The average, while more wait than can go.
    pub fn per_second(&mut self, now: Instant) -> Option<f64> {
        self.learn(now);
        self.pressed.and(self.average)
    }

    fn learn(&mut self, now: Instant) {
        let Some((since, count)) = self.pressed else { return };
        let elapsed = now.saturating_duration_since(since);
        if elapsed < Self::SHORTEST {
            return;
        }
        let seen = count as f64 / elapsed.as_secs_f64();
        let part = -(-elapsed.as_secs_f64() / Self::MEMORY.as_secs_f64()).exp_m1();
        self.average = Some(self.average.map_or(seen, |average| average + (seen - average) * part));
        self.pressed = Some((now, 0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A destination that takes `per_second` for so many seconds.
    fn press(pace: &mut Pace, from: Instant, seconds: u32, per_second: usize) -> Instant {
        let mut now = from;
        for _ in 0..seconds * 10 {
            pace.press(now);
            now += Duration::from_millis(100);
            pace.count(per_second / 10);
            pace.per_second(now);
        }
        now
    }

    #[test]
    fn a_pace_is_known_after_a_quarter_of_a_second_of_backlog() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        pace.press(start);
        pace.count(100);
        assert_eq!(pace.per_second(start + Duration::from_millis(249)), None);
        assert_eq!(pace.per_second(start + Duration::from_millis(250)), Some(400.0));
    }

    #[test]
    fn what_goes_while_there_is_not_enough_to_do_does_not_count() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let now = press(&mut pace, start, 5, 1000);
        pace.rest(now);
        pace.count(1);
        assert_eq!(pace.per_second(now + Duration::from_secs(3600)), None);
        let now = press(&mut pace, now + Duration::from_secs(3600), 5, 1000);
        let average = pace.per_second(now).expect("known");
        assert!((average - 1000.0).abs() < 1.0, "{average}");
    }

    #[test]
    fn the_pace_follows_a_change_within_minutes() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let now = press(&mut pace, start, 60, 1000);
        let now = press(&mut pace, now, 10, 2000);
        let soon = pace.per_second(now).expect("known");
        assert!((1100.0..1300.0).contains(&soon), "{soon}");
        let now = press(&mut pace, now, 300, 2000);
        let later = pace.per_second(now).expect("known");
        assert!((later - 2000.0).abs() < 20.0, "{later}");
    }
}
