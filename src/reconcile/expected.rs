//! Expected: the events that should be in Lago, and which of them were seen there.
//!
//! Between the rows and the listing. An event takes a few dozen bytes: who it is as a hash, what it holds
//! as a hash, and its time. The texts are read once more for the few that something is wrong with.
#![forbid(unsafe_code)]

use super::event::{Content, Differences, Key, Sent, Shown};
use std::collections::HashMap;

/// What says that an event should be there. Of those that speak of the same event the last counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Witness {
    /// A row of the source, rendered as it is now.
    Row,
    /// A reply that was kept, with the payload as it was sent.
    Reply,
    /// A message or dead letter: whether Lago has it is the worker's or somebody's business.
    Unsettled,
}

struct Entry {
    key: Key,
    unix_micros: Option<i64>,
    content: Content,
    code: u32,
    witness: Witness,
    seen: Seen,
}

/// What was seen in Lago under the key; kept at the first entry of each key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// An event with the same code and time, and what else of it differs. Of copies, the first that is
    /// seen counts, which is the last that was written.
    twin: Option<Differences>,
    /// Another one, and what of it differs.
    other: Option<Differences>,
    told: bool,
}

#[derive(Default)]
pub struct Expected {
    entries: Vec<Entry>,
    codes: Vec<String>,
    code_numbers: HashMap<String, u32>,
}

/// What is known of an event that was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    Expected,
    Stranger,
}

/// What became of an expected event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is there as it should be, or not yet settled, or was told before.
    Fine,
    Missing,
    /// It is there, and these of its fields differ.
    Differing(Differences),
    /// It is there as it should be, and so is another one with its id.
    Twice(Differences),
    Unknown,
}

impl Expected {
    /// A code whose events are to be listed, even if none is expected.
    pub fn know_code(&mut self, code: &str) -> u32 {
        if let Some(number) = self.code_numbers.get(code) {
            return *number;
        }
        let number = u32::try_from(self.codes.len()).unwrap_or(u32::MAX);
        self.codes.push(code.to_owned());
        self.code_numbers.insert(code.to_owned(), number);
        number
    }

    pub fn push(&mut self, witness: Witness, sent: &Sent) {
        let code = self.know_code(&sent.code);
        self.entries.push(Entry {
            key: sent.key(),
            unix_micros: sent.unix_micros,
            content: sent.content,
            code,
            witness,
            seen: Seen::default(),
        });
    }

    /// Makes ready for being searched: to be called after the last push.
    pub fn seal(&mut self) {
        // Stable, so that of replies the later one stays behind the earlier.
        self.entries.sort_by_key(|entry| (entry.key, entry.witness));
    }

    pub fn codes(&self) -> &[String] {
        &self.codes
    }

    fn group(&self, key: Key) -> std::ops::Range<usize> {
        let from = self.entries.partition_point(|entry| entry.key < key);
        let same = self.entries.iter().skip(from).take_while(|entry| entry.key == key).count();
        from..from + same
    }

    /// Notes an event that Lago shows.
    pub fn meet(&mut self, shown: &Shown) -> Met {
        let range = self.group(shown.key());
        let Some(group) = self.entries.get_mut(range) else { return Met::Stranger };
        let Some(best) = group.iter().map(|entry| entry.witness).max() else { return Met::Stranger };
        if best != Witness::Unsettled {
            let compared = group.iter().filter(|entry| entry.witness == best).map(|entry| {
                let code = self.codes.get(entry.code as usize).map_or("", String::as_str);
                shown.differences(code, entry.unix_micros, entry.content)
            });
            let least = compared.min_by_key(|found| (!found.same_place(), found.names().len()));
            if let (Some(found), Some(first)) = (least, group.first_mut()) {
                let place = if found.same_place() { &mut first.seen.twin } else { &mut first.seen.other };
                place.get_or_insert(found);
            }
        }
        Met::Expected
    }

    /// What became of an event, if its text comes from the witness that counts. Told once: later it is
    /// fine.
    pub fn tell(&mut self, key: Key, witness: Witness) -> Fate {
        let range = self.group(key);
        let Some(group) = self.entries.get_mut(range) else { return Fate::Unknown };
        let Some(best) = group.iter().map(|entry| entry.witness).max() else { return Fate::Unknown };
        let Some(first) = group.first_mut() else { return Fate::Unknown };
        if best == Witness::Unsettled || best != witness || first.seen.told {
            return Fate::Fine;
        }
        first.seen.told = true;
        match first.seen {
            Seen { twin: None, other: None, .. } => Fate::Missing,
            Seen { twin: None, other: Some(differences), .. } => Fate::Differing(differences),
            Seen { twin: Some(differences), .. } if !differences.none() => Fate::Differing(differences),
            Seen { twin: Some(_), other: Some(differences), .. } => Fate::Twice(differences),
            Seen { twin: Some(_), other: None, .. } => Fate::Fine,
        }
    }

    /// Whether there is anything to tell.
    pub fn is_flawless(&self) -> bool {
        self.entries.chunk_by(|one, next| one.key == next.key).all(|group| {
            let settled = group.iter().all(|entry| entry.witness != Witness::Unsettled);
            let seen = group.first().map(|entry| entry.seen);
            !settled
                || seen.is_some_and(|seen| seen.twin.is_some_and(Differences::none) && seen.other.is_none())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_events_fit_into_eighty_megabytes() {
        assert!(size_of::<Entry>() <= 80, "{} bytes", size_of::<Entry>());
    }
}
