//! Cap: how many messages of a sync may wait, and what becomes of rows beyond.
//!
//! Serves capture, which asks before it keeps a message whether there is room for it. What waits is what
//! others have committed, by the counters in shared memory, and what this very transaction has captured.
//! What others have captured and not committed is not counted: so many more may wait in the end. A sync
//! without a cap costs one look at an `Option`.
//!
//! Whatever writes messages reports them here; when the transaction ends well, they are added for all
//! to see. It is also where the worker takes off what has left.
#![forbid(unsafe_code)]

use crate::buffer::Subtransaction;
use crate::pg::process;
use crate::pg::report::Words;
use crate::shared;
use crate::shared::caps::{Counted, Known, Place};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What to do with a row for which there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    Warn,
    DeadLetter,
    Raise,
}

/// The cap of one sync.
pub struct Cap {
    pub most: i64,
    pub when_full: WhenFull,
    sync: i32,
    /// Where it was last found; it may have become another's since.
    place: Cell<Option<&'static Place>>,
}

/// Whether there is room for one more message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Left,
    /// So many wait already, at least.
    None(i64),
}

/// Messages counted beyond what fits, so that what is far too much need not be counted again soon.
const COUNTED_BEYOND: i64 = 10_000;

/// How long a backend that has warned leaves the log alone.
const LOG_PAUSE: Duration = Duration::from_secs(60);

thread_local! {
    /// What the transaction under way has written, by subtransaction and sync; innermost last.
    static WRITTEN: RefCell<Vec<Written>> = const { RefCell::new(Vec::new()) };
    static LOGGED_AT: Cell<Option<Instant>> = const { Cell::new(None) };
}

#[derive(Debug, PartialEq, Eq)]
struct Written {
    under: Subtransaction,
    sync: i32,
    messages: i64,
}

impl Cap {
    pub fn new(sync: i32, most: i64, when_full: WhenFull) -> Cap {
        Cap { most, when_full, sync, place: Cell::new(None) }
    }

    /// Whether one more message may wait; `buffered` are those captured here and not written yet.
    /// `count` counts those of a sync that are committed, up to a number.
    pub fn room(&self, buffered: i64, count: impl Fn(i32, i64) -> Counted) -> Room {
        let own = buffered.saturating_add(written(self.sync));
        let elsewhere = match self.place() {
            Some(place) => self.elsewhere(place, count),
            // Not preloaded: there is no server like that.
            None => 0,
        };
        decide(elsewhere.saturating_add(own), self.most)
    }

    /// Why a row is a dead letter.
    pub fn reason(&self, waiting: i64) -> String {
        format!(
            "the outbox held {waiting} messages of this sync, and max_pending is {}; lago_push.redrive() sends this row",
            self.most
        )
    }

    /// Why a write is refused.
    pub fn refusal(&self, name: &str, waiting: i64) -> Words {
        Words {
            message: format!("sync \"{name}\" takes no more rows: {waiting} of its messages wait"),
            detail: format!("Its max_pending is {}, and when_full is raise.", self.most),
            hint: "See in lago_push.status and lago_push.destinations why they wait. To let such writes through: lago_push.alter_sync(…, when_full => 'warn')."
                .to_owned(),
        }
    }

    /// What a writer is told whose row is captured all the same.
    pub fn warning(&self, name: &str) -> Words {
        Words {
            message: format!("the outbox holds as many messages of sync \"{name}\" as it may"),
            detail: format!(
                "Its max_pending is {}. The row is captured all the same: when_full is warn.",
                self.most
            ),
            hint: "See in lago_push.status and lago_push.destinations why they wait.".to_owned(),
        }
    }

    fn place(&self) -> Option<&'static Place> {
        let database = own_database();
        let kept = self.place.get().filter(|place| place.is_of(database, self.sync));
        kept.or_else(|| {
            let place = shared::caps()?.claim(database, self.sync);
            self.place.set(Some(place));
            Some(place)
        })
    }

    /// What others have committed, as far as it is known. Who needs to know what nobody does counts; who
    /// comes while another counts does not wait for that.
    fn elsewhere(&self, place: &Place, count: impl Fn(i32, i64) -> Counted) -> i64 {
        match place.known() {
            Known::Exactly(waiting) => return waiting,
            Known::AtLeast(waiting) if waiting >= self.most => return waiting,
            Known::AtLeast(_) | Known::Nothing => {}
        }
        if let Some(turn) = place.begin_count(process::now()) {
            turn.end(count(self.sync, self.most.saturating_add(COUNTED_BEYOND)));
        }
        match place.known() {
            Known::Exactly(waiting) | Known::AtLeast(waiting) => waiting,
            Known::Nothing => 0,
        }
    }
}

fn decide(waiting: i64, most: i64) -> Room {
    if waiting < most { Room::Left } else { Room::None(waiting) }
}

/// Whether a warning should reach the log as well as the writer: a backend that writes a million rows
/// says it once a minute.
pub fn may_log() -> bool {
    let now = Instant::now();
    let may = LOGGED_AT.get().is_none_or(|logged_at| now - logged_at >= LOG_PAUSE);
    if may {
        LOGGED_AT.set(Some(now));
    }
    may
}

fn own_database() -> u32 {
    u32::from(process::own_database())
}

// ---- the writers' side -------------------------------------------------------------------------

/// The transaction under way has written messages of a sync.
pub fn wrote(under: Subtransaction, sync: i32, messages: i64) {
    if shared::caps().is_none_or(|caps| !caps.in_use()) {
        return;
    }
    WRITTEN.with_borrow_mut(|written| add(written, Written { under, sync, messages }));
}

fn add(written: &mut Vec<Written>, new: Written) {
    let same = |known: &&mut Written| known.under == new.under && known.sync == new.sync;
    match written.iter_mut().rev().take_while(|known| known.under == new.under).find(same) {
        Some(known) => known.messages = known.messages.saturating_add(new.messages),
        None => written.push(new),
    }
}

fn written(sync: i32) -> i64 {
    WRITTEN.with_borrow(|written| {
        written.iter().filter(|known| known.sync == sync).map(|known| known.messages).sum()
    })
}

/// A subtransaction committed: what it wrote is its parent's now.
pub fn merge(child: Subtransaction, parent: Subtransaction) {
    WRITTEN.with_borrow_mut(|written| {
        while written.last().is_some_and(|last| last.under == child) {
            let Some(last) = written.pop() else { break };
            // Those of the parent lie below those of the child.
            let place = written.iter().rposition(|known| known.under != child).map_or(0, |index| index + 1);
            let mut of_child = written.split_off(place);
            add(written, Written { under: parent, ..last });
            written.append(&mut of_child);
        }
    });
}

/// A subtransaction rolled back: what it wrote is gone.
pub fn forget(aborted: Subtransaction) {
    WRITTEN.with_borrow_mut(|written| {
        while written.last().is_some_and(|last| last.under == aborted) {
            written.pop();
        }
    });
}

/// The transaction has committed, or is prepared: what it wrote waits. Cannot fail.
pub fn publish() {
    WRITTEN.with(|written| {
        // Never in use here, but this runs where an error would take the server down.
        let Ok(mut written) = written.try_borrow_mut() else { return };
        if let Some(caps) = shared::caps() {
            for known in written.iter() {
                caps.add(own_database(), known.sync, known.messages);
            }
        }
        written.clear();
    });
}

/// The transaction has rolled back.
pub fn give_up() {
    WRITTEN.with(|written| {
        if let Ok(mut written) = written.try_borrow_mut() {
            written.clear();
        }
    });
}

/// A prepared transaction has been rolled back: nobody here knows what it had captured.
pub fn doubt_all() {
    for (_, place) in shared::caps().into_iter().flat_map(|caps| caps.of(own_database())) {
        place.doubt();
    }
}

/// What waits of this database's syncs that have a cap, as far as it is known.
pub fn waiting() -> Vec<(i32, i64)> {
    let places = shared::caps().into_iter().flat_map(|caps| caps.of(own_database()));
    let known = |(sync, place): (i32, &'static Place)| match place.known() {
        Known::Exactly(waiting) | Known::AtLeast(waiting) => Some((sync, waiting.max(0))),
        Known::Nothing => None,
    };
    places.filter_map(known).collect()
}

// ---- the worker's side -------------------------------------------------------------------------

/// What the worker knows of the counters: what stood on them before it last looked at the outbox, less
/// what has left since. When nothing of a sync waits any more, that is by how much its counter is wrong.
#[derive(Debug, Default)]
pub struct Watch {
    left_over: BTreeMap<i32, i64>,
}

impl Watch {
    /// To be called before the snapshot is taken: all that stands on the counters is visible to it.
    pub fn look(&mut self) {
        self.left_over.clear();
        let places = shared::caps().into_iter().flat_map(|caps| caps.of(own_database()));
        self.left_over.extend(places.map(|(sync, place)| (sync, place.waiting())));
    }

    /// Messages have left the outbox, and that is committed.
    pub fn left(&mut self, sync: i32, messages: i64) {
        let Some(caps) = shared::caps().filter(|caps| caps.in_use()) else { return };
        caps.add(own_database(), sync, -messages);
        if let Some(left_over) = self.left_over.get_mut(&sync) {
            *left_over -= messages;
        }
    }

    /// Puts right the counters of syncs of which `nothing_waits`.
    pub fn put_right(&mut self, nothing_waits: impl Fn(i32) -> bool) {
        for (sync, left_over) in &mut self.left_over {
            if let Some(place) = shared::caps().and_then(|caps| caps.find(own_database(), *sync))
                && nothing_waits(*sync)
            {
                place.settle_to_nothing(std::mem::take(left_over));
            }
        }
    }

    /// Gives back the places of syncs that are there no more.
    pub fn keep(&self, is_there: impl Fn(i32) -> bool) {
        for (sync, place) in shared::caps().into_iter().flat_map(|caps| caps.of(own_database())) {
            if !is_there(sync) {
                place.free();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_message_that_fits_is_the_one_that_makes_it_full() {
        assert_eq!(decide(9, 10), Room::Left);
        assert_eq!(decide(10, 10), Room::None(10));
        assert_eq!(decide(-3, 1), Room::Left, "delivered before it was counted");
    }

    fn wrote(under: Subtransaction, sync: i32, messages: i64) {
        WRITTEN.with_borrow_mut(|written| add(written, Written { under, sync, messages }));
    }

    #[test]
    fn what_a_subtransaction_wrote_shares_its_fate() {
        wrote(1, 7, 1);
        wrote(2, 7, 2);
        wrote(2, 8, 1);
        wrote(3, 7, 4);
        assert_eq!((written(7), written(8)), (7, 1));
        forget(3);
        assert_eq!(written(7), 3);
        wrote(4, 7, 8);
        merge(4, 2);
        wrote(2, 7, 16);
        assert_eq!(written(7), 27);
        merge(2, 1);
        assert_eq!((written(7), written(8)), (27, 1));
        WRITTEN.with_borrow(|written| {
            assert_eq!(written.len(), 2, "one entry for each sync: {written:?}");
        });
        forget(1);
        assert_eq!((written(7), written(8)), (0, 0));
    }
}
