//! Ticks: which messages of scheduled syncs wait for which tick, and which have had theirs.
//!
//! Beside reading. Pure. It holds ranges of ids, never messages, so what waits costs nothing however
//! much it is; and it promises that a message goes at the first tick after it was committed, and none
//! is forgotten.
#![forbid(unsafe_code)]

use crate::cursor::{Progress, Range};
use crate::schedule::{Schedule, UnixMicros};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Ticks {
    /// By sync and tick.
    waiting: BTreeMap<(i32, UnixMicros), Range>,
    /// What had its tick and is to be read as there is room, by sync.
    due: BTreeMap<i32, Range>,
    /// The stretch of time in which a sync's last message fell, and the tick that ends it: asking a
    /// cron expression costs far more than a message should.
    stretch: BTreeMap<i32, (UnixMicros, UnixMicros)>,
}

impl Ticks {
    /// Messages that were not committed before `since` wait for their tick.
    pub fn wait(&mut self, sync: i32, schedule: &Schedule, range: Range, since: UnixMicros) {
        let known = self.stretch.get(&sync).filter(|(from, tick)| (*from..*tick).contains(&since));
        let tick = match known {
            Some((_, tick)) => Some(*tick),
            None => schedule.next_after(since),
        };
        match tick {
            Some(tick) => {
                if known.is_none() {
                    self.stretch.insert(sync, (since, tick));
                }
                widen(self.waiting.entry((sync, tick)).or_insert(range), range);
            }
            // The calendar has come to its end.
            None => self.put_due(sync, range),
        }
    }

    /// These messages had their tick.
    pub fn put_due(&mut self, sync: i32, range: Range) {
        widen(self.due.entry(sync).or_insert(range), range);
    }

    /// The moment is `now`: what has had its tick is due. Syncs that are not open miss theirs, and are
    /// due when they open.
    pub fn come_to(&mut self, now: UnixMicros, is_open: impl Fn(i32) -> bool) {
        let passed: Vec<(i32, UnixMicros)> = self
            .waiting
            .keys()
            .filter(|(sync, tick)| *tick <= now && (is_open(*sync) || self.waits_for_earlier(*sync, *tick)))
            .copied()
            .collect();
        for (sync, tick) in passed {
            let Some(range) = self.waiting.remove(&(sync, tick)) else { continue };
            if is_open(sync) {
                self.put_due(sync, range);
            } else if let Some((_, earliest)) = self.waiting.range_mut((sync, UnixMicros::MIN)..).next() {
                // So that a long pause does not pile up one range per tick.
                widen(earliest, range);
            }
        }
    }

    fn waits_for_earlier(&self, sync: i32, tick: UnixMicros) -> bool {
        self.waiting.range((sync, UnixMicros::MIN)..(sync, tick)).next().is_some()
    }

    /// The next tick anything open waits for.
    pub fn next(&self, is_open: impl Fn(i32) -> bool) -> Option<UnixMicros> {
        self.waiting.keys().filter(|(sync, _)| is_open(*sync)).map(|(_, tick)| *tick).min()
    }

    /// The lowest id of what waits for the clock, or had its tick and is still to be read.
    pub fn first_id(&self) -> Option<i64> {
        self.waiting.values().chain(self.due.values()).map(|range| range.from).min()
    }

    /// Whether anything of a sync waits here.
    pub fn holds(&self, sync: i32) -> bool {
        self.due.contains_key(&sync)
            || self.waiting.range((sync, UnixMicros::MIN)..=(sync, UnixMicros::MAX)).next().is_some()
    }

    /// The syncs that have something to be read.
    pub fn due_syncs(&self) -> impl Iterator<Item = i32> {
        self.due.keys().copied()
    }

    pub fn due(&self, sync: i32) -> Option<Range> {
        self.due.get(&sync).copied()
    }

    /// Takes note of a read of [`Ticks::due`].
    pub fn read(&mut self, sync: i32, progress: Progress) {
        match (progress, self.due.get_mut(&sync)) {
            (Progress::UpTo(reached), Some(range)) if reached < range.to => range.from = reached + 1,
            _ => drop(self.due.remove(&sync)),
        }
    }

    /// A sync's schedule has changed: what waits does so for a tick of the new one, or no longer.
    pub fn reschedule(&mut self, sync: i32, schedule: Option<&Schedule>, now: UnixMicros) {
        self.stretch.remove(&sync);
        let keys: Vec<_> = self
            .waiting
            .range((sync, UnixMicros::MIN)..=(sync, UnixMicros::MAX))
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            match (self.waiting.remove(&key), schedule) {
                (Some(range), Some(schedule)) => self.wait(sync, schedule, range, now),
                (Some(range), None) => self.put_due(sync, range),
                (None, _) => {}
            }
        }
    }

    /// Forgets syncs that are gone.
    pub fn retain(&mut self, is_known: impl Fn(i32) -> bool) {
        self.waiting.retain(|(sync, _), _| is_known(*sync));
        self.due.retain(|sync, _| is_known(*sync));
        self.stretch.retain(|sync, _| is_known(*sync));
    }
}

fn widen(range: &mut Range, other: Range) {
    range.from = range.from.min(other.from);
    range.to = range.to.max(other.to);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: UnixMicros = 1_000_000;

    fn every_ten_seconds() -> Schedule {
        Schedule::parse("every 10 s").expect("valid")
    }

    fn one(id: i64) -> Range {
        Range { from: id, to: id }
    }

    /// Ids 1 to 3 of sync 1, committed at seconds 1, 9 and 10.
    fn three() -> Ticks {
        let mut ticks = Ticks::default();
        for (id, second) in [(1, 1), (2, 9), (3, 10)] {
            ticks.wait(1, &every_ten_seconds(), one(id), second * SECOND);
        }
        ticks
    }

    #[test]
    fn a_message_goes_at_the_first_tick_after_it_was_committed() {
        let mut ticks = three();
        assert_eq!(ticks.next(|_| true), Some(10 * SECOND));
        ticks.come_to(10 * SECOND - 1, |_| true);
        assert_eq!(ticks.due(1), None);
        ticks.come_to(10 * SECOND, |_| true);
        assert_eq!(ticks.due(1), Some(Range { from: 1, to: 2 }));
        assert_eq!(ticks.first_id(), Some(1));
        assert_eq!(ticks.next(|_| true), Some(20 * SECOND));
        ticks.come_to(25 * SECOND, |_| true);
        assert_eq!(ticks.due(1), Some(Range { from: 1, to: 3 }));
        assert_eq!(ticks.next(|_| true), None, "nothing waits, so no tick is needed");
    }

    #[test]
    fn what_is_due_is_read_in_portions() {
        let mut ticks = three();
        ticks.come_to(10 * SECOND, |_| true);
        ticks.read(1, Progress::UpTo(1));
        assert_eq!(ticks.due(1), Some(one(2)));
        ticks.read(1, Progress::Complete);
        assert_eq!(ticks.due_syncs().count(), 0);
        assert_eq!(ticks.first_id(), Some(3));
    }

    #[test]
    fn a_paused_sync_misses_its_ticks_and_is_due_when_it_resumes() {
        let mut ticks = three();
        ticks.wait(2, &every_ten_seconds(), one(9), SECOND);
        ticks.come_to(60 * SECOND, |sync| sync == 2);
        assert_eq!(ticks.due_syncs().collect::<Vec<_>>(), [2]);
        assert_eq!(ticks.next(|sync| sync == 2), None);
        assert_eq!(ticks.waiting.len(), 1, "one range however many ticks it missed");
        ticks.wait(1, &every_ten_seconds(), one(4), 61 * SECOND);
        ticks.come_to(62 * SECOND, |_| true);
        assert_eq!(ticks.due(1), Some(Range { from: 1, to: 3 }), "what came since has its tick before it");
    }

    #[test]
    fn a_changed_schedule_holds_for_what_waits_and_none_lets_it_go() {
        let mut ticks = three();
        ticks.wait(2, &every_ten_seconds(), one(9), SECOND);
        ticks.reschedule(1, Some(&Schedule::parse("every 60 s").expect("valid")), 5 * SECOND);
        assert_eq!(ticks.next(|sync| sync == 1), Some(60 * SECOND));
        assert_eq!(ticks.next(|sync| sync == 2), Some(10 * SECOND));
        ticks.reschedule(1, None, 5 * SECOND);
        assert_eq!(ticks.due(1), Some(Range { from: 1, to: 3 }));
        ticks.retain(|sync| sync != 1);
        assert_eq!(ticks.due(1), None);
    }
}
