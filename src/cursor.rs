//! Cursor: how far the worker has read the outbox, and which ids behind that point may still appear.
//!
//! Ids are given out before commit, so a message may become visible after messages with higher ids
//! were delivered. The argument that none is skipped: a writer has its transaction id before it
//! draws a message id, so when a read sees id 9 but not 8, the writer of 8 either rolled back or is
//! among the transactions running in the very snapshot of that read. The hole therefore waits for
//! exactly those transactions and is read again whenever one of them ends; when all have ended,
//! nothing can fill it any more. Reading twice is harmless, because the worker knows what it holds
//! and what was settled is deleted.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

/// A transaction id as snapshots list them. Compared only for equality, so wraparound is harmless.
pub type Xid = u32;

/// Both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub from: i64,
    pub to: i64,
}

#[derive(Debug)]
struct Sighting {
    holes: Vec<Range>,
    /// Transactions that ran when the holes were seen and have not ended since.
    waiting: Vec<Xid>,
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

    /// Takes note of a read: `ids`, ascending and above [`Cursor::last`], were visible in a snapshot
    /// in which `running` were the transactions under way.
    pub fn advance(&mut self, ids: impl Iterator<Item = i64>, running: &[Xid]) {
        let mut holes = Vec::new();
        for id in ids {
            if id > self.last + 1 {
                holes.push(Range { from: self.last + 1, to: id - 1 });
            }
            self.last = id;
        }
        if holes.is_empty() || running.is_empty() {
            return;
        }
        fold(&mut holes, MOST_HOLES);
        self.sightings.push(Sighting { holes, waiting: running.to_vec() });
        if self.sightings.len() > MOST_SIGHTINGS {
            let mut all = Sighting { holes: Vec::new(), waiting: Vec::new() };
            for sighting in self.sightings.drain(..) {
                all.holes.extend(sighting.holes);
                all.waiting.extend(sighting.waiting);
            }
            all.waiting.sort_unstable();
            all.waiting.dedup();
            fold(&mut all.holes, MOST_HOLES);
            self.sightings.push(all);
        }
    }

    /// Takes note of which transactions run now. Holes one of whose transactions has ended are to be
    /// read again, with this snapshot or a later one: see [`Cursor::next_again`].
    pub fn observe(&mut self, running: &[Xid]) {
        let again = &mut self.again;
        self.sightings.retain_mut(|sighting| {
            let before = sighting.waiting.len();
            sighting.waiting.retain(|xid| running.contains(xid));
            if sighting.waiting.len() < before {
                again.extend(
                    sighting
                        .holes
                        .iter()
                        .filter(|hole| !again_covers(again, **hole))
                        .copied()
                        .collect::<Vec<_>>(),
                );
            }
            !sighting.waiting.is_empty()
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

    #[test]
    fn a_hole_is_read_again_when_a_transaction_that_ran_then_has_ended() {
        let mut cursor = Cursor::default();
        cursor.advance([1, 2, 5].into_iter(), &[100, 101]);
        assert_eq!(cursor.next_again(), None);
        cursor.observe(&[100, 101, 102]);
        assert_eq!(cursor.next_again(), None);
        cursor.observe(&[101, 102]);
        assert_eq!(cursor.next_again(), Some(Range { from: 3, to: 4 }));
        cursor.read_again(Progress::UpTo(3));
        assert_eq!(cursor.next_again(), Some(Range { from: 4, to: 4 }));
        cursor.read_again(Progress::Complete);
        assert_eq!(cursor.next_again(), None);
        cursor.observe(&[]);
        assert_eq!(cursor.next_again(), Some(Range { from: 3, to: 4 }));
        cursor.read_again(Progress::Complete);
        cursor.observe(&[]);
        assert_eq!(cursor.next_again(), None, "nothing can fill it any more");
    }

    #[test]
    fn holes_of_rolled_back_transactions_cost_nothing() {
        let mut cursor = Cursor::default();
        cursor.advance([10, 20].into_iter(), &[]);
        assert!(cursor.sightings.is_empty());
        assert_eq!(cursor.last(), 20);
    }

    #[test]
    fn many_holes_are_folded_and_still_covered() {
        let mut cursor = Cursor::default();
        for round in 0..10_000 {
            cursor.advance([round * 2 + 2].into_iter(), &[7]);
        }
        assert!(cursor.sightings.len() <= MOST_SIGHTINGS + 1);
        cursor.observe(&[]);
        let mut covered = BTreeSet::new();
        while let Some(range) = cursor.next_again() {
            covered.extend(range.from..=range.to);
            cursor.read_again(Progress::Complete);
        }
        assert!((0..10_000).all(|round| covered.contains(&(round * 2 + 1))));
    }

    proptest! {
        /// Transactions draw ids and end in any order; a reader looks at random moments, with a
        /// bounded read. In the end it has seen exactly the committed ids.
        #[test]
        fn no_committed_id_is_ever_skipped(actions in prop::collection::vec((0u8..4, any::<u16>()), 0..300)) {
            let mut cursor = Cursor::default();
            let mut open: Vec<(Xid, Vec<i64>)> = Vec::new();
            let (mut committed, mut seen) = (BTreeSet::new(), BTreeSet::new());
            let (mut next_xid, mut next_id) = (3, 1);
            let mut read = |cursor: &mut Cursor, committed: &BTreeSet<i64>, open: &[(Xid, Vec<i64>)], most: usize| {
                let running: Vec<Xid> = open.iter().map(|(xid, _)| *xid).collect();
                cursor.observe(&running);
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
                cursor.advance(rows.into_iter(), &running);
                cursor.next_again().is_some() || committed.range(cursor.last() + 1..).next().is_some()
            };
            for (action, pick) in actions {
                let pick = usize::from(pick);
                match action {
                    0 => { open.push((next_xid, vec![])); next_xid += 1; }
                    1 if !open.is_empty() => { let at = pick % open.len(); open[at].1.push(next_id); next_id += 1; }
                    2 if !open.is_empty() => {
                        let (xid, ids) = open.swap_remove(pick % open.len());
                        if xid % 5 != 0 { committed.extend(ids); }
                    }
                    _ => { read(&mut cursor, &committed, &open, 1 + pick % 4); }
                }
            }
            while read(&mut cursor, &committed, &open, 3) {}
            open.clear();
            while read(&mut cursor, &committed, &open, 3) {}
            prop_assert_eq!(seen, committed);
        }
    }
}
