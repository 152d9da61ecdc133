//! Backlog: what waits, told without counting all of it.
//!
//! Beside the outbox, for the views. Pure. Ids are given out in order and without many gaps, so a few short
//! stretches of them, spread over all there are, tell how many messages there are and whose. What is promised:
//! what was seen whole is exact, and what was not is marked.
#![forbid(unsafe_code)]

use crate::cursor::Range;
use std::collections::BTreeMap;

/// How many stretches are looked at.
const STRETCHES: i128 = 256;
/// How many ids one of them has: not many more than a page holds messages.
const STRETCH_IDS: i64 = 32;

/// What a look finds of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub sync: i32,
    /// How many captured rows are counted with it.
    pub entered: i32,
    pub bytes: usize,
    /// Microseconds since 2000.
    pub enqueued_at: i64,
}

/// What is known of the messages of one sync. Not whole numbers where they are estimated.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    pub messages: f64,
    pub entered: f64,
    pub bytes: f64,
    /// Those of them that are recent.
    pub recent: f64,
    pub recent_bytes: f64,
    /// When the oldest that was seen was captured.
    pub oldest: Option<i64>,
}

/// What is known of all.
#[derive(Clone, Debug, PartialEq)]
pub struct Backlog {
    /// What was captured after that is recent.
    recent_since: i64,
    pub by_sync: BTreeMap<i32, Tally>,
}

impl Backlog {
    pub fn new(recent_since: i64) -> Backlog {
        Backlog { recent_since, by_sync: BTreeMap::new() }
    }

    /// A message that stands for so many.
    pub fn add(&mut self, seen: Seen, stands_for: f64) {
        let recent = if seen.enqueued_at > self.recent_since { stands_for } else { 0.0 };
        let bytes = seen.bytes as f64;
        let tally = self.by_sync.entry(seen.sync).or_default();
        tally.messages += stands_for;
        tally.entered += f64::from(seen.entered) * stands_for;
        tally.bytes += bytes * stands_for;
        tally.recent += recent;
        tally.recent_bytes += bytes * recent;
        tally.oldest = Some(tally.oldest.map_or(seen.enqueued_at, |oldest| oldest.min(seen.enqueued_at)));
    }

    pub fn messages(&self) -> f64 {
        self.by_sync.values().map(|tally| tally.messages).sum()
    }
}

/// A stretch of ids to look at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stretch {
    pub ids: Range,
    /// How many ids each of its ids stands for.
    pub stands_for: f64,
}

/// Stretches that stand for all of `range`. They are closer together towards its two ends. What came last tells how
/// much is coming, and in a long backlog that is a small part; and what was left behind long ago, by a sync that is
/// paused, may be all there is before a long gap. The same range always gives the same ones, so that two looks at
/// what has not changed agree.
pub fn stretches(range: Range) -> impl Iterator<Item = Stretch> {
    let span = i128::from(range.to) - i128::from(range.from) + 1;
    // The first id of part `number`; part STRETCHES begins behind the end. The parts follow 3x² - 2x³.
    let begin = move |number: i128| {
        let share = number * number * (3 * STRETCHES - 2 * number);
        i128::from(range.from) + span * share / (STRETCHES * STRETCHES * STRETCHES)
    };
    (0..STRETCHES).filter_map(move |number| {
        let (from, behind) = (begin(number), begin(number + 1));
        let part = behind - from;
        if part <= 0 {
            return None;
        }
        let ids = part.min(i128::from(STRETCH_IDS));
        let first = from + scatter(number as u64) as i128 % (part - ids + 1);
        Some(Stretch {
            ids: Range { from: i64::try_from(first).ok()?, to: i64::try_from(first + ids - 1).ok()? },
            stands_for: part as f64 / ids as f64,
        })
    })
}

/// A number that looks like chance: rows are often written in patterns, which stretches must not follow.
fn scatter(number: u64) -> u64 {
    // The finalizer of SplitMix64.
    let mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seen(sync: i32, enqueued_at: i64) -> Seen {
        Seen { sync, entered: 1, bytes: 100, enqueued_at }
    }

    /// What the stretches make of messages with ids for which `sync` gives one.
    fn estimate(range: Range, sync: impl Fn(i64) -> Option<i32>) -> Backlog {
        let mut backlog = Backlog::new(range.to - 1000);
        for stretch in stretches(range) {
            for id in stretch.ids.from..=stretch.ids.to {
                if let Some(sync) = sync(id) {
                    backlog.add(seen(sync, id), stretch.stands_for);
                }
            }
        }
        backlog
    }

    #[test]
    fn what_is_seen_whole_is_counted() {
        let mut backlog = Backlog::new(15);
        for (sync, at) in [(1, 20), (1, 10), (2, 15)] {
            backlog.add(seen(sync, at), 1.0);
        }
        let first = Tally {
            messages: 2.0,
            entered: 2.0,
            bytes: 200.0,
            recent: 1.0,
            recent_bytes: 100.0,
            oldest: Some(10),
        };
        let second =
            Tally { messages: 1.0, entered: 1.0, bytes: 100.0, oldest: Some(15), ..Tally::default() };
        assert_eq!(backlog.by_sync, BTreeMap::from([(1, first), (2, second)]));
    }

    #[test]
    fn ids_without_gaps_are_counted_to_the_last_one() {
        let backlog = estimate(Range { from: 7, to: 10_000_006 }, |_| Some(1));
        assert!((backlog.messages() - 1e7).abs() < 0.5, "{}", backlog.messages());
    }

    #[test]
    fn mixed_syncs_are_told_apart() {
        let backlog = estimate(Range { from: 1, to: 10_000_000 }, |id| Some(if id % 10 < 3 { 2 } else { 1 }));
        let share = backlog.by_sync[&2].messages / 1e7;
        assert!((share - 0.3).abs() < 0.03, "{share}");
    }

    #[test]
    fn gaps_are_left_out() {
        // Half is gone, in blocks as bulk loads leave them.
        let backlog = estimate(Range { from: 1, to: 10_000_000 }, |id| (id / 5000 % 2 == 0).then_some(1));
        let share = backlog.messages() / 1e7;
        assert!((share - 0.5).abs() < 0.1, "{share}");
    }

    #[test]
    fn what_came_last_is_seen_in_a_long_backlog() {
        // The last thousand of ten million. Stretches that are evenly apart would make none of them, or 39,000.
        let backlog = estimate(Range { from: 1, to: 10_000_000 }, |_| Some(1));
        let recent = backlog.by_sync[&1].recent;
        assert!((250.0..4000.0).contains(&recent), "{recent}");
    }

    #[test]
    fn what_was_left_behind_long_ago_is_seen() {
        let backlog = estimate(Range { from: 1, to: 10_000_000 }, |id| (id <= 100_000).then_some(1));
        assert!((90_000.0..110_000.0).contains(&backlog.messages()), "{}", backlog.messages());
    }

    #[test]
    fn two_looks_agree() {
        let range = Range { from: 5, to: 9_999_999 };
        assert!(stretches(range).eq(stretches(range)));
    }

    proptest! {
        #[test]
        fn stretches_lie_apart_within_the_range_and_stand_for_all_of_it(
            from in prop_oneof![0i64..100, Just(1i64 << 40)], ids in 1i64..20_000_000
        ) {
            let range = Range { from, to: from + ids - 1 };
            let (mut last, mut stand_for) = (from - 1, 0.0);
            for stretch in stretches(range) {
                prop_assert!(last < stretch.ids.from && stretch.ids.from <= stretch.ids.to && stretch.ids.to <= range.to);
                prop_assert!(stretch.ids.to - stretch.ids.from < STRETCH_IDS);
                prop_assert!(stretch.stands_for >= 1.0);
                stand_for += stretch.stands_for * (stretch.ids.to - stretch.ids.from + 1) as f64;
                last = stretch.ids.to;
            }
            prop_assert!((stand_for - ids as f64).abs() < 1e-6 * ids as f64, "{} of {}", stand_for, ids);
        }
    }
}
