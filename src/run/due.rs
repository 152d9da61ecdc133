//! Due: when a query is to run next.
//!
//! Serves the worker. Pure: what has been is read from the table of runs, and time comes in as an argument. A tick
//! that was missed, however many followed it, is made up once; a run that ended with the server is begun again, and
//! one that ends with it again and again is begun ever later, so that it cannot keep the server from working.
#![forbid(unsafe_code)]

use crate::schedule::{Schedule, UnixMicros};

/// What is known of a query's runs. Moments are the beginnings of runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// When the sync was activated.
    pub activated: UnixMicros,
    /// The last run that came to an end of its own, well or not.
    pub ended: Option<UnixMicros>,
    /// Runs since then that did not, and the last of them.
    pub broken: u32,
    pub broken_at: Option<UnixMicros>,
    /// Somebody asked for one, and none has ended since.
    pub asked: Option<UnixMicros>,
}

const MINUTE: UnixMicros = 60_000_000;
const LONGEST_WAIT: UnixMicros = 60 * MINUTE;

/// The moment from which the next run is due; none if nobody has asked for one and there is no schedule.
pub fn next(schedule: Option<&Schedule>, past: &Past) -> Option<UnixMicros> {
    let from = past.ended.unwrap_or(past.activated).max(past.activated);
    let tick = schedule.and_then(|schedule| schedule.next_after(from));
    let due = [tick, past.asked].into_iter().flatten().min()?;
    Some(match past.broken_at {
        Some(broken_at) => due.max(broken_at.saturating_add(wait_after(past.broken))),
        None => due,
    })
}

/// How long to wait after so many runs that did not come to an end: one may have been anybody's fault.
fn wait_after(broken: u32) -> UnixMicros {
    match broken.checked_sub(2) {
        None => 0,
        Some(doublings) => MINUTE.saturating_mul(1 << doublings.min(6)).min(LONGEST_WAIT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: UnixMicros = 1_000_000;

    fn every_ten_seconds() -> Schedule {
        Schedule::parse("every 10 s").expect("valid")
    }

    #[test]
    fn the_first_run_is_at_the_first_tick_after_activation() {
        let past = Past { activated: 21 * SECOND, ..Past::default() };
        assert_eq!(next(Some(&every_ten_seconds()), &past), Some(30 * SECOND));
        assert_eq!(next(None, &past), None, "without a schedule it runs when somebody asks");
    }

    #[test]
    fn ticks_that_were_missed_are_made_up_once() {
        let past = Past { ended: Some(30 * SECOND), ..Past::default() };
        assert_eq!(next(Some(&every_ten_seconds()), &past), Some(40 * SECOND), "however late it is");
        let made_up = Past { ended: Some(95 * SECOND), ..past };
        assert_eq!(next(Some(&every_ten_seconds()), &made_up), Some(100 * SECOND));
    }

    #[test]
    fn who_asks_does_not_wait_for_the_tick() {
        let past = Past { ended: Some(30 * SECOND), asked: Some(33 * SECOND), ..Past::default() };
        assert_eq!(next(Some(&every_ten_seconds()), &past), Some(33 * SECOND));
        assert_eq!(next(None, &past), Some(33 * SECOND));
    }

    #[test]
    fn a_run_that_did_not_end_is_begun_again_and_then_ever_later() {
        let after = |broken| {
            let past = Past { broken, broken_at: Some(40 * SECOND), ..Past::default() };
            next(Some(&every_ten_seconds()), &past)
        };
        assert_eq!(after(1), Some(40 * SECOND), "at once");
        assert_eq!(after(2), Some(40 * SECOND + MINUTE));
        assert_eq!(after(3), Some(40 * SECOND + 2 * MINUTE));
        assert_eq!(after(50), Some(40 * SECOND + LONGEST_WAIT));
    }

    proptest! {
        #[test]
        fn no_past_is_too_odd(
            activated in any::<i64>(), ended in any::<Option<i64>>(), broken in any::<u32>(),
            broken_at in any::<Option<i64>>(), asked in any::<Option<i64>>(),
        ) {
            let past = Past { activated, ended, broken, broken_at, asked };
            let due = next(Some(&every_ten_seconds()), &past);
            if let (Some(due), None) = (due, asked) {
                prop_assert!(due > ended.unwrap_or(activated).max(activated));
            }
        }
    }
}
