//! Start: where the outbox begins, noted for those who look at it.
//!
//! Beside settling. A snapshot that somebody holds open keeps the index entries of all that was delivered since, and
//! whoever reads the outbox from its beginning passes every one of them. So the worker, which does not, notes now and
//! then below which id nothing is left. The note is written by a settlement: who sees it sees what it says. The worker
//! itself does not rely on it.

use super::Worker;
use std::time::{Duration, Instant};

/// So few entries are passed quickly: not worth a write.
const FEWEST_IDS: i64 = 1000;
/// How often it is looked at, which means looking through all ids held.
const PAUSE: Duration = Duration::from_millis(100);

impl Worker {
    /// The id below which nothing is left once the settlement under way is written, if it is to be noted.
    pub(super) fn new_start(&mut self) -> Option<i64> {
        if self.cursor.last().saturating_sub(self.start) < FEWEST_IDS {
            return None;
        }
        let now = Instant::now();
        if self.start_looked_at.is_some_and(|looked_at| now - looked_at < PAUSE) {
            return None;
        }
        self.start_looked_at = Some(now);
        Some(self.first_id()).filter(|first| first.saturating_sub(self.start) >= FEWEST_IDS)
    }

    /// The lowest id of a message that has not been settled, or may still be committed.
    fn first_id(&self) -> i64 {
        let behind = self.lanes.values().filter_map(|lane| lane.behind);
        let ranges = self.paused.values().copied().chain(behind).map(|range| range.from);
        let held = self.known.iter().copied().chain(self.lost.iter().map(|message| message.id));
        ranges.chain(held).chain(self.ticks.first_id()).fold(self.cursor.first_unseen(), i64::min)
    }
}
