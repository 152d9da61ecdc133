//! Cursor: how far the worker has read the outbox, and which ids behind that point may still appear.
//!
//! Ids are given out before commit, so a message may become visible after messages with higher ids
//! were delivered. The argument that none is skipped: a writer has its transaction id before it
//! draws a message id, so when a read sees id 9 but not 8, the writer of 8 has rolled back, or it has
//! a transaction id already and has not ended in the very snapshot of that read. Such a transaction is
//! either listed by the snapshot, or it is younger than all transactions that had ended by then: a
//! snapshot lists none of those ([`Running::unlisted`]). The hole therefore waits for exactly these
//! and is read again whenever one of them ends; when all have ended, nothing can fill it any more.
//! Reading twice is harmless, because the worker knows what it holds and what was settled is deleted.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

/// A transaction id, epoch included, so that it never wraps around.
pub type Xid = u64;

/// Which transactions had not ended in a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// Those it lists.
    pub listed: Vec<Xid>,
    /// From here on it lists none, whether they run or have not begun: one past the last to have ended.
    pub unlisted: Xid,
    /// The next id to be given out, asked for after the snapshot was taken.
    pub next: Xid,
}

impl Running {
    fn has_ended(&self, xid: Xid) -> bool {
        xid < self.unlisted && !self.listed.contains(&xid)
    }
}

/// Both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub from: i64,
    pub to: i64,
}

#[derive(Debug)]
struct Sighting {
    holes: Vec<Range>,
    /// Transactions that had not ended when the holes were seen, and have not since.
    waiting: Vec<Xid>,
    /// More of them: ids given out by then to transactions the snapshot did not list.
    unlisted: std::ops::Range<Xid>,
}

impl Sighting {
    /// Drops what has ended; says whether anything had.
    fn observe(&mut self, running: &Running) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|xid| !running.has_ended(*xid));
        let mut ended = self.waiting.len() < before;
        // Of the unlisted ones, the new snapshot tells about those below its own limit.
        let told = self.unlisted.start..self.unlisted.end.min(running.unlisted).max(self.unlisted.start);
        if !told.is_empty() {
            let still = running.listed.iter().filter(|xid| told.contains(xid));
            let still_count = {
                self.waiting.extend(still.clone());
                still.count() as u64
            };
            ended |= still_count < told.end - told.start;
            self.unlisted.start = told.end;
        }
        ended
    }

    fn is_closed(&self) -> bool {
        self.waiting.is_empty() && self.unlisted.is_empty()
    }
}

#[derive(Debug, Default)]
pub struct Cursor {
    last: i64,
    sightings: Vec<Sighting>,
    again: VecDeque<Range>,
}

/// Sightings beyond this many are folded into one: memory stays bounded, at the price of reading a
/// wider range again.
const MOST_SIGHTINGS: usize = 128;
/// The same for holes of one sighting.
const MOST_HOLES: usize = 512;

impl Cursor {
    /// The highest id passed; the next read starts behind it.
    pub fn last(&self) -> i64 {
        self.last
    }

    /// The lowest id that may still appear without having been seen.
    pub fn first_unseen(&self) -> i64 {
        let holes = self.sightings.iter().flat_map(|sighting| &sighting.holes);
        let lowest = holes.chain(&self.again).map(|range| range.from).min();
        lowest.unwrap_or(i64::MAX).min(self.last + 1)
    }

    /// Takes note of a read: `ids`, ascending and above [`Cursor::last`], were visible in a snapshot
    /// in which `running` were the transactions that had not ended.
    pub fn advance(&mut self, ids: impl Iterator<Item = i64>, running: &Running) {
        let mut holes = Vec::new();
        for id in ids {
            if id > self.last + 1 {
                holes.push(Range { from: self.last + 1, to: id - 1 });
            }
            self.last = id;
        }
        let sighting = Sighting {
            holes: Vec::new(),
            waiting: running.listed.clone(),
            unlisted: running.unlisted..running.next,
        };
        if holes.is_empty() || sighting.is_closed() {
            return;
        }
        fold(&mut holes, MOST_HOLES);
        self.sightings.push(Sighting { holes, ..sighting });
        if self.sightings.len() > MOST_SIGHTINGS {
            let mut all =
                Sighting { holes: Vec::new(), waiting: Vec::new(), unlisted: running.unlisted..running.next };
            for mut sighting in self.sightings.drain(..) {
                // Brings all of them to the same limit; the last was seen in this very snapshot.
                if sighting.observe(running) {
                    self.again.extend(sighting.holes.iter().copied());
                }
                all.holes.extend(sighting.holes);
                all.waiting.extend(sighting.waiting);
            }
            all.waiting.sort_unstable();
            all.waiting.dedup();
            fold(&mut all.holes, MOST_HOLES);
            self.sightings.push(all);
        }
    }

    /// Takes note of which transactions have not ended now. Holes one of whose transactions has are to
    /// be read again, with this snapshot or a later one: see [`Cursor::next_again`].
    pub fn observe(&mut self, running: &Running) {
        let again = &mut self.again;
        self.sightings.retain_mut(|sighting| {
            if sighting.observe(running) {
                let new: Vec<Range> =
                    sighting.holes.iter().filter(|hole| !again_covers(again, **hole)).copied().collect();
                again.extend(new);
            }
            !sighting.is_closed()
        });
    }

    /// The next range to read again.
    pub fn next_again(&self) -> Option<Range> {
        self.again.front().copied()
    }

    /// Takes note of a second read of [`Cursor::next_again`], complete or up to `reached`.
    pub fn read_again(&mut self, progress: Progress) {
        match (progress, self.again.front_mut()) {
            (Progress::UpTo(reached), Some(range)) if reached < range.to => range.from = reached + 1,
            _ => drop(self.again.pop_front()),
        }
    }
}

/// How much of a range a bounded read covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Complete,
    UpTo(i64),
}

fn again_covers(again: &VecDeque<Range>, hole: Range) -> bool {
    again.iter().any(|range| range.from <= hole.from && hole.to <= range.to)
}

/// Reduces `holes` to at most `most` by joining neighbours.
fn fold(holes: &mut Vec<Range>, most: usize) {
    holes.sort_unstable_by_key(|hole| hole.from);
    let per_fold = holes.len().div_ceil(most).max(1);
    *holes = holes
        .chunks(per_fold)
        .map(|chunk| Range {
            from: chunk[0].from,
            to: chunk.iter().map(|hole| hole.to).max().unwrap_or(chunk[0].to),
        })
        .collect();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// A snapshot that lists these, all older than any transaction that has ended.
    fn listed(xids: &[Xid]) -> Running {
        Running { listed: xids.to_vec(), unlisted: 1000, next: 1000 }
    }

    #[test]
    fn a_hole_is_read_again_when_a_transaction_that_ran_then_has_ended() {
        let mut cursor = Cursor::default();
        cursor.advance([1, 2, 5].into_iter(), &listed(&[100, 101]));
        assert_eq!(cursor.next_again(), None);
        cursor.observe(&listed(&[100, 101, 102]));
        assert_eq!(cursor.next_again(), None);
        assert_eq!(cursor.first_unseen(), 3);
        cursor.observe(&listed(&[101, 102]));
        assert_eq!(cursor.next_again(), Some(Range { from: 3, to: 4 }));
        cursor.read_again(Progress::UpTo(3));
        assert_eq!(cursor.next_again(), Some(Range { from: 4, to: 4 }));
        cursor.read_again(Progress::Complete);
        assert_eq!(cursor.next_again(), None);
        cursor.observe(&listed(&[]));
        assert_eq!(cursor.next_again(), Some(Range { from: 3, to: 4 }));
        cursor.read_again(Progress::Complete);
        cursor.observe(&listed(&[]));
        assert_eq!(cursor.next_again(), None, "nothing can fill it any more");
        assert_eq!(cursor.first_unseen(), 6);
    }

    #[test]
    fn a_hole_waits_for_transactions_too_young_to_be_listed() {
        let mut cursor = Cursor::default();
        // 100 has ended, so the snapshot's limit is 101; 101 and 102 have ids and run.
        cursor.advance([2].into_iter(), &Running { listed: vec![], unlisted: 101, next: 103 });
        cursor.observe(&Running { listed: vec![], unlisted: 101, next: 103 });
        assert_eq!(cursor.next_again(), None);
        cursor.observe(&Running { listed: vec![101], unlisted: 103, next: 103 });
        assert_eq!(cursor.next_again(), Some(Range { from: 1, to: 1 }), "102 has ended");
        cursor.read_again(Progress::Complete);
        cursor.observe(&Running { listed: vec![], unlisted: 103, next: 104 });
        assert_eq!(cursor.next_again(), Some(Range { from: 1, to: 1 }), "101 has ended");
        cursor.read_again(Progress::Complete);
        assert!(cursor.sightings.is_empty());
    }

    #[test]
    fn holes_of_rolled_back_transactions_cost_nothing() {
        let mut cursor = Cursor::default();
        cursor.advance([10, 20].into_iter(), &listed(&[]));
        assert!(cursor.sightings.is_empty());
        assert_eq!(cursor.last(), 20);
    }

    #[test]
    fn many_holes_are_folded_and_still_covered() {
        let mut cursor = Cursor::default();
        for round in 0..10_000 {
            cursor.advance([round * 2 + 2].into_iter(), &listed(&[7]));
        }
        assert!(cursor.sightings.len() <= MOST_SIGHTINGS + 1);
        cursor.observe(&listed(&[]));
        let mut covered = BTreeSet::new();
        while let Some(range) = cursor.next_again() {
            covered.extend(range.from..=range.to);
            cursor.read_again(Progress::Complete);
        }
        assert!((0..10_000).all(|round| covered.contains(&(round * 2 + 1))));
    }

    /// What PostgreSQL knows of transactions, as far as snapshots show it.
    #[derive(Default)]
    struct Server {
        open: Vec<(Xid, Vec<i64>)>,
        next: Xid,
        latest_ended: Xid,
    }

    impl Server {
        fn begin(&mut self) {
            self.next += 1;
            self.open.push((self.next, vec![]));
        }

        fn end(&mut self, at: usize) -> (Xid, Vec<i64>) {
            let ended = self.open.swap_remove(at);
            self.latest_ended = self.latest_ended.max(ended.0);
            ended
        }

        fn snapshot(&self) -> Running {
            let unlisted = self.latest_ended + 1;
            let listed = self.open.iter().map(|(xid, _)| *xid).filter(|xid| *xid < unlisted).collect();
            Running { listed, unlisted, next: self.next + 1 }
        }
    }

    proptest! {
        /// Transactions draw ids and end in any order; a reader looks at random moments, with a
        /// bounded read. In the end it has seen exactly the committed ids.
        #[test]
        fn no_committed_id_is_ever_skipped(actions in prop::collection::vec((0u8..4, any::<u16>()), 0..300)) {
            let mut cursor = Cursor::default();
            let mut server = Server::default();
            let (mut committed, mut seen) = (BTreeSet::new(), BTreeSet::new());
            let mut next_id = 1;
            let mut read = |cursor: &mut Cursor, committed: &BTreeSet<i64>, running: &Running, most: usize| {
                cursor.observe(running);
                if let Some(range) = cursor.next_again() {
                    let rows: Vec<i64> = committed.range(range.from..=range.to).take(most).copied().collect();
                    seen.extend(rows.iter().copied());
                    cursor.read_again(match rows.last() {
                        Some(last) if rows.len() == most => Progress::UpTo(*last),
                        _ => Progress::Complete,
                    });
                }
                let rows: Vec<i64> = committed.range(cursor.last() + 1..).take(most).copied().collect();
                seen.extend(rows.iter().copied());
                cursor.advance(rows.into_iter(), running);
                cursor.next_again().is_some() || committed.range(cursor.last() + 1..).next().is_some()
            };
            for (action, pick) in actions {
                let pick = usize::from(pick);
                let open = server.open.len();
                match action {
                    0 => server.begin(),
                    1 if open > 0 => {
                        server.open[pick % open].1.push(next_id);
                        next_id += 1;
                    }
                    2 if open > 0 => {
                        let (xid, ids) = server.end(pick % open);
                        if xid % 5 != 0 {
                            committed.extend(ids);
                        }
                    }
                    _ => {
                        read(&mut cursor, &committed, &server.snapshot(), 1 + pick % 4);
                    }
                }
            }
            while read(&mut cursor, &committed, &server.snapshot(), 3) {}
            let unseen = server.open.iter().flat_map(|(_, ids)| ids).copied().min();
            prop_assert!(unseen.is_none_or(|unseen| cursor.first_unseen() <= unseen));
            while !server.open.is_empty() {
                server.end(0);
            }
            while read(&mut cursor, &committed, &server.snapshot(), 3) {}
            prop_assert_eq!(seen, committed);
        }
    }
}
