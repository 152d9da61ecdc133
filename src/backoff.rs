//! Backoff: how long to wait before trying again. Pure, so its schedule can be read in its test.
#![forbid(unsafe_code)]

use std::time::Duration;

/// The wait before the first retry: short, because most failures are one broken connection.
const FIRST: Duration = Duration::from_millis(200);
/// The longest wait: after an outage of hours, deliveries resume within this time of its end.
const LONGEST: Duration = Duration::from_secs(60);

/// The longest wait after `failures` failures in a row (1 for the first): doubling, then capped.
pub fn ceiling(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    LONGEST.min(FIRST * 2u32.pow(doublings))
}

/// The wait after `failures` failures in a row. `dice` is uniform in 0..1: full jitter, so that many
/// databases that lost the same Lago do not all come back at once. Never below a tenth of the
/// ceiling, so that a row of lucky throws cannot become a hot loop.
pub fn wait(failures: u32, dice: f64) -> Duration {
    ceiling(failures).mul_f64(0.1 + 0.9 * dice.clamp(0.0, 1.0))
}

/// A small generator for the jitter above; it needs to differ between processes, nothing more.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice(seed | 1)
    }

    /// Uniform in 0..1 (xorshift64*: the upper 53 bits are good enough for spreading waits).
    pub fn throw(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_doubles_from_a_fifth_of_a_second_to_a_minute() {
        let milliseconds: Vec<_> = (1..=11).map(|n| ceiling(n).as_millis()).collect();
        assert_eq!(milliseconds, [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000]);
        assert_eq!(ceiling(u32::MAX), LONGEST);
    }

    #[test]
    fn jitter_spreads_over_the_whole_range_and_never_beyond() {
        let mut dice = Dice::new(42);
        let waits: Vec<_> = (0..10_000).map(|_| wait(4, dice.throw())).collect();
        let (least, most) = (ceiling(4).mul_f64(0.1), ceiling(4));
        assert!(waits.iter().all(|wait| (least..=most).contains(wait)));
        assert!(
            waits.iter().any(|wait| *wait < most.mul_f64(0.15))
                && waits.iter().any(|wait| *wait > most.mul_f64(0.95))
        );
    }
}
