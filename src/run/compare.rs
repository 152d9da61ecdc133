//! Compare: a query's rows beside those remembered, both in the order of their keys.
//!
//! Second step of a run. Pure. It promises that every key of either side is met once, and says which side has it.
#![forbid(unsafe_code)]

use std::cmp::Ordering;

/// Which of two sequences has the next key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The row alone: it is new.
    Row,
    /// What is remembered alone: the row is gone.
    Remembered,
    Both,
}

/// The side of the lower of two keys; none when both sequences have ended.
pub fn next(row: Option<&[u8]>, remembered: Option<&[u8]>) -> Option<Side> {
    match (row, remembered) {
        (None, None) => None,
        (Some(_), None) => Some(Side::Row),
        (None, Some(_)) => Some(Side::Remembered),
        (Some(row), Some(remembered)) => Some(match row.cmp(remembered) {
            Ordering::Less => Side::Row,
            Ordering::Greater => Side::Remembered,
            Ordering::Equal => Side::Both,
        }),
    }
}

/// What is wrong with the key of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFault {
    Null,
    /// The row before has the same one.
    Repeated,
    /// The row before has a higher one: the rows are not sorted as the memory is.
    Unsorted,
}

/// Checks a key against the one before it.
pub fn check_key<'a>(before: Option<&[u8]>, key: Option<&'a [u8]>) -> Result<&'a [u8], KeyFault> {
    let key = key.ok_or(KeyFault::Null)?;
    match before.map(|before| before.cmp(key)) {
        None | Some(Ordering::Less) => Ok(key),
        Some(Ordering::Equal) => Err(KeyFault::Repeated),
        Some(Ordering::Greater) => Err(KeyFault::Unsorted),
    }
}

/// What a run has come to so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub rows_read: u64,
    pub added: u64,
    pub changed: u64,
    pub removed: u64,
    pub unchanged: u64,
}

impl Counts {
    /// How many rows there are after it, of which so many were remembered before it.
    pub fn remain(&self, remembered: u64) -> u64 {
        remembered.saturating_add(self.added).saturating_sub(self.removed)
    }
}

/// How many rows a run may take for removed: a source that came back empty, or half, is not to bill the end of all.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Rows that were remembered when the run began.
    pub remembered: u64,
    /// The share of them that may be gone; none if any may.
    pub share: Option<f64>,
}

impl Limit {
    /// Whether so many may be gone.
    pub fn allows(&self, removed: u64) -> bool {
        self.share.is_none_or(|share| removed as f64 <= share * self.remembered as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Goes along two maps as a run does.
    fn compared(rows: &BTreeMap<Vec<u8>, u8>, remembered: &BTreeMap<Vec<u8>, u8>) -> Counts {
        let (mut rows, mut old) = (rows.iter().peekable(), remembered.iter().peekable());
        let mut counts = Counts::default();
        loop {
            let side =
                next(rows.peek().map(|(key, _)| key.as_slice()), old.peek().map(|(key, _)| key.as_slice()));
            match side {
                None => return counts,
                Some(Side::Row) => {
                    rows.next();
                    counts.added += 1;
                }
                Some(Side::Remembered) => {
                    old.next();
                    counts.removed += 1;
                }
                Some(Side::Both) => match (rows.next(), old.next()) {
                    (Some((_, new)), Some((_, old))) if new != old => counts.changed += 1,
                    _ => counts.unchanged += 1,
                },
            }
        }
    }

    proptest! {
        #[test]
        fn every_key_is_met_once_and_told_by_its_sides(
            rows in prop::collection::btree_map(prop::collection::vec(0u8..3, 0..3), 0u8..2, 0..20),
            remembered in prop::collection::btree_map(prop::collection::vec(0u8..3, 0..3), 0u8..2, 0..20),
        ) {
            let counts = compared(&rows, &remembered);
            let both = rows.iter().filter_map(|(key, value)| Some((value, remembered.get(key)?)));
            let (same, other): (Vec<_>, Vec<_>) = both.partition(|(new, old)| new == old);
            prop_assert_eq!(counts.added as usize, rows.keys().filter(|key| !remembered.contains_key(*key)).count());
            prop_assert_eq!(counts.removed as usize, remembered.keys().filter(|key| !rows.contains_key(*key)).count());
            prop_assert_eq!((counts.unchanged as usize, counts.changed as usize), (same.len(), other.len()));
            prop_assert_eq!(counts.remain(remembered.len() as u64) as usize, rows.len());
        }
    }

    #[test]
    fn a_key_is_there_once_and_after_the_one_before() {
        assert_eq!(check_key(None, Some(b"")), Ok(&b""[..]));
        assert_eq!(check_key(Some(b"a"), Some(b"ab")), Ok(&b"ab"[..]));
        assert_eq!(check_key(Some(b"a"), None), Err(KeyFault::Null));
        assert_eq!(check_key(Some(b"a"), Some(b"a")), Err(KeyFault::Repeated));
        assert_eq!(check_key(Some(b"b"), Some(b"a")), Err(KeyFault::Unsorted));
    }

    #[test]
    fn a_share_of_what_was_remembered_may_be_gone_and_no_more() {
        let half = Limit { remembered: 5, share: Some(0.5) };
        assert!(half.allows(0) && half.allows(2) && !half.allows(3));
        assert!(!Limit { remembered: 5, share: Some(0.0) }.allows(1));
        assert!(Limit { remembered: 5, share: Some(1.0) }.allows(5));
        assert!(Limit { remembered: 5, share: None }.allows(5));
        assert!(Limit { remembered: 0, share: Some(0.5) }.allows(0));
    }
}
