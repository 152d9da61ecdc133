//! Counters of what waits, for the syncs whose outbox has a cap.
//!
//! Between capture and worker: whoever commits messages adds them, the worker takes off what has left,
//! and capture asks for the sum instead of counting the outbox. The numbers are kept close to the truth,
//! not on it: after a start, or where a place was needed for another sync, they are unknown until
//! somebody counts; and whenever the worker sees that nothing waits, it takes away what is left over.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::SeqCst};

/// Syncs with a cap that are counted at a time, in all databases. One more takes another's place, which
/// is counted anew when it is asked for.
const PLACES: usize = 1024;

/// One that died while it counted holds up the next for so long.
const COUNTING_MICROSECONDS: i64 = 60_000_000;

#[repr(C)]
pub struct Caps {
    /// Places from here on were never taken: nobody has to look there.
    used: AtomicU32,
    places: [Place; PLACES],
}

/// The counter of one sync.
#[repr(C)]
pub struct Place {
    /// Database and sync in one number, so that both are claimed together; 0 when free.
    owner: AtomicU64,
    waiting: AtomicI64,
    /// Which of the three it is: see [`Known`]. When somebody began to count, where it is positive.
    state: AtomicI64,
}

const UNKNOWN: i64 = 0;
const EXACT: i64 = -1;
const AT_LEAST: i64 = -2;

/// How many messages of a sync wait, those of unfinished transactions aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Exactly(i64),
    /// Whoever counted stopped there.
    AtLeast(i64),
    Nothing,
}

/// What a count found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    All(i64),
    /// There are more.
    UpTo(i64),
}

/// The right to count, and what stood on the counter before: whatever is added meanwhile is not lost.
pub struct Turn<'a> {
    place: &'a Place,
    owner: u64,
    before: i64,
    began: i64,
}

fn owner(database: u32, sync: i32) -> u64 {
    u64::from(database) << 32 | u64::from(sync.unsigned_abs())
}

impl Caps {
    /// Whether any sync was ever counted: if not, there is nothing to add to.
    pub fn in_use(&self) -> bool {
        self.used.load(SeqCst) > 0
    }

    fn taken(&self) -> &[Place] {
        let used = usize::try_from(self.used.load(SeqCst)).unwrap_or(PLACES);
        &self.places[..used.min(PLACES)]
    }

    /// The counter of a sync, if it has one.
    pub fn find(&self, database: u32, sync: i32) -> Option<&Place> {
        let own = owner(database, sync);
        self.taken().iter().find(|place| place.owner.load(SeqCst) == own)
    }

    /// The counter of a sync that is capped; its own, a free one, or another sync's.
    pub fn claim(&self, database: u32, sync: i32) -> &Place {
        if let Some(place) = self.find(database, sync) {
            return place;
        }
        let own = owner(database, sync);
        for (index, place) in self.places.iter().enumerate() {
            match place.owner.compare_exchange(0, own, SeqCst, SeqCst) {
                Ok(_) => {
                    self.used.fetch_max(u32::try_from(index + 1).unwrap_or(u32::MAX), SeqCst);
                    place.doubt();
                    return place;
                }
                // Somebody of the same sync was faster.
                Err(taken) if taken == own => return place,
                Err(_) => {}
            }
        }
        let place = &self.places[(own % PLACES as u64) as usize];
        place.owner.store(own, SeqCst);
        place.doubt();
        place
    }

    /// Messages of a sync were committed, or have left. Cannot fail.
    pub fn add(&self, database: u32, sync: i32, messages: i64) {
        if let Some(place) = self.find(database, sync) {
            place.waiting.fetch_add(messages, SeqCst);
        }
    }

    /// The counters of a database, by sync.
    pub fn of(&self, database: u32) -> impl Iterator<Item = (i32, &Place)> {
        self.taken().iter().filter_map(move |place| {
            let owner = place.owner.load(SeqCst);
            (owner >> 32 == u64::from(database) && owner != 0).then_some((owner as u32 as i32, place))
        })
    }
}

impl Place {
    /// Whether it is still that sync's.
    pub fn is_of(&self, database: u32, sync: i32) -> bool {
        self.owner.load(SeqCst) == owner(database, sync)
    }

    pub fn known(&self) -> Known {
        let waiting = self.waiting.load(SeqCst);
        match self.state.load(SeqCst) {
            EXACT => Known::Exactly(waiting),
            AT_LEAST => Known::AtLeast(waiting),
            _ => Known::Nothing,
        }
    }

    /// The number is not to be relied on: whoever needs it counts.
    pub fn doubt(&self) {
        self.state.store(UNKNOWN, SeqCst);
    }

    pub fn free(&self) {
        self.doubt();
        self.owner.store(0, SeqCst);
    }

    /// The right to count, unless somebody else is at it. To be asked for before the snapshot is taken:
    /// what becomes visible to it and is added after this is counted twice, and nothing is left out.
    pub fn begin_count(&self, now: i64) -> Option<Turn<'_>> {
        let state = self.state.load(SeqCst);
        if state > 0 && now.saturating_sub(state) < COUNTING_MICROSECONDS {
            return None;
        }
        let began = now.max(1);
        self.state.compare_exchange(state, began, SeqCst, SeqCst).ok()?;
        let (owner, before) = (self.owner.load(SeqCst), self.waiting.load(SeqCst));
        Some(Turn { place: self, owner, before, began })
    }

    /// What stands on the counter, to be taken away by [`Place::settle_to_nothing`].
    pub fn waiting(&self) -> i64 {
        self.waiting.load(SeqCst)
    }

    /// Nothing of what stood for `left_over` waits any more.
    pub fn settle_to_nothing(&self, left_over: i64) {
        self.waiting.fetch_sub(left_over, SeqCst);
        // Where somebody counts just now, that count stands.
        let _ = self.state.compare_exchange(AT_LEAST, EXACT, SeqCst, SeqCst);
    }
}

impl Turn<'_> {
    /// Ends the count.
    pub fn end(self, counted: Counted) {
        let (found, state) = match counted {
            Counted::All(found) => (found, EXACT),
            Counted::UpTo(found) => (found, AT_LEAST),
        };
        if self.place.owner.load(SeqCst) == self.owner {
            self.place.waiting.fetch_add(found.saturating_sub(self.before), SeqCst);
            let _ = self.place.state.compare_exchange(self.began, state, SeqCst, SeqCst);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // It was cancelled; after `end` this does nothing.
        let _ = self.place.state.compare_exchange(self.began, UNKNOWN, SeqCst, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps() -> Caps {
        let place =
            || Place { owner: AtomicU64::new(0), waiting: AtomicI64::new(0), state: AtomicI64::new(0) };
        Caps { used: AtomicU32::new(0), places: std::array::from_fn(|_| place()) }
    }

    fn counted(place: &Place, found: Counted) {
        place.begin_count(1).expect("nobody else counts").end(found);
    }

    #[test]
    fn a_sync_is_unknown_until_somebody_counts() {
        let caps = caps();
        assert!(!caps.in_use() && caps.find(5, 1).is_none());
        let place = caps.claim(5, 1);
        assert!(caps.in_use());
        assert_eq!(place.known(), Known::Nothing);
        counted(place, Counted::All(3));
        assert_eq!(place.known(), Known::Exactly(3));
        caps.add(5, 1, 2);
        caps.add(6, 1, 100);
        assert_eq!(caps.claim(5, 1).known(), Known::Exactly(5));
    }

    #[test]
    fn what_is_added_during_a_count_is_not_lost() {
        let caps = caps();
        let place = caps.claim(5, 1);
        caps.add(5, 1, 7);
        let turn = place.begin_count(1).expect("nobody else counts");
        caps.add(5, 1, 2);
        turn.end(Counted::All(10));
        assert_eq!(place.known(), Known::Exactly(12));
    }

    #[test]
    fn one_counts_at_a_time_and_one_that_died_is_replaced() {
        let caps = caps();
        let place = caps.claim(5, 1);
        let turn = place.begin_count(1_000).expect("nobody else counts");
        assert!(place.begin_count(2_000).is_none());
        // As if its process had ended without unwinding.
        std::mem::forget(turn);
        assert!(place.begin_count(2_000).is_none());
        let next = place.begin_count(1_000 + COUNTING_MICROSECONDS).expect("the other has had its time");
        next.end(Counted::All(1));
        assert_eq!(place.known(), Known::Exactly(1));
    }

    #[test]
    fn a_cancelled_count_leaves_it_unknown_and_free() {
        let caps = caps();
        let place = caps.claim(5, 1);
        drop(place.begin_count(1));
        assert_eq!(place.known(), Known::Nothing);
        assert!(place.begin_count(2).is_some());
    }

    #[test]
    fn a_count_that_stopped_is_a_lower_bound_until_nothing_waits() {
        let caps = caps();
        let place = caps.claim(5, 1);
        counted(place, Counted::UpTo(11));
        caps.add(5, 1, -4);
        assert_eq!(place.known(), Known::AtLeast(7));
        place.settle_to_nothing(place.waiting());
        assert_eq!(place.known(), Known::Exactly(0));
    }

    #[test]
    fn the_worker_takes_away_what_is_left_over_and_keeps_what_came_meanwhile() {
        let caps = caps();
        let place = caps.claim(5, 1);
        counted(place, Counted::All(3));
        let left_over = place.waiting();
        caps.add(5, 1, 2);
        place.settle_to_nothing(left_over);
        assert_eq!(place.known(), Known::Exactly(2));
    }

    #[test]
    fn a_full_table_gives_a_place_to_the_next_and_the_other_is_counted_anew() {
        let caps = caps();
        for sync in 1..=PLACES as i32 {
            counted(caps.claim(5, sync), Counted::All(1));
        }
        let place = caps.claim(5, PLACES as i32 + 1);
        assert_eq!(place.known(), Known::Nothing);
        assert!(place.is_of(5, PLACES as i32 + 1));
        assert_eq!(caps.of(5).count(), PLACES);
        let lost = (1..=PLACES as i32).filter(|sync| caps.find(5, *sync).is_none()).count();
        assert_eq!(lost, 1);
    }

    #[test]
    fn a_freed_place_is_of_nobody() {
        let caps = caps();
        let place = caps.claim(5, 1);
        counted(place, Counted::All(3));
        place.free();
        assert!(caps.find(5, 1).is_none());
        assert_eq!(caps.claim(6, 9).known(), Known::Nothing);
    }
}
