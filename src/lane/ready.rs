//! Ready: messages that may go now, by id.
//!
//! Below the queue. Nearly all messages come in the order of their ids and leave in it, so that a plain line
//! holds them; only what comes back, or was committed late, has to find its place.
#![forbid(unsafe_code)]

use crate::message::Message;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

#[derive(Debug, Default)]
pub struct Ready {
    /// In ascending order.
    line: VecDeque<Message>,
    /// What came when a message behind it, and one before it, stood in the line. None is in both.
    strays: BTreeMap<i64, Message>,
}

impl Ready {
    pub fn len(&self) -> usize {
        self.line.len() + self.strays.len()
    }

    pub fn is_empty(&self) -> bool {
        self.line.is_empty() && self.strays.is_empty()
    }

    /// In no particular order.
    pub fn messages(&self) -> impl Iterator<Item = &Message> {
        self.line.iter().chain(self.strays.values())
    }

    pub fn insert(&mut self, message: Message) {
        let id = message.id;
        match (self.line.front(), self.line.back()) {
            (_, None) => self.line.push_back(message),
            (_, Some(last)) if last.id < id => self.line.push_back(message),
            (Some(first), _) if first.id > id => self.line.push_front(message),
            _ => drop(self.strays.insert(id, message)),
        }
    }

    pub fn first(&self) -> Option<&Message> {
        match (self.line.front(), self.strays.first_key_value()) {
            (Some(in_line), Some((id, stray))) => Some(if *id < in_line.id { stray } else { in_line }),
            (in_line, stray) => in_line.or(stray.map(|(_, stray)| stray)),
        }
    }

    pub fn pop_first(&mut self) -> Option<Message> {
        let first = self.first()?.id;
        match self.line.front() {
            Some(in_line) if in_line.id == first => self.line.pop_front(),
            _ => self.strays.pop_first().map(|(_, stray)| stray),
        }
    }

    pub fn remove(&mut self, id: i64) -> Option<Message> {
        match self.line.binary_search_by_key(&id, |message| message.id) {
            Ok(index) => self.line.remove(index),
            Err(_) => self.strays.remove(&id),
        }
    }

    /// The first behind this id, beginning anew behind the last.
    pub fn after(&self, last: i64) -> Option<i64> {
        let in_line = self.line.get(self.line.partition_point(|message| message.id <= last));
        let stray = self.strays.range((Bound::Excluded(last), Bound::Unbounded)).next();
        let next = in_line.map(|message| message.id).into_iter().chain(stray.map(|(id, _)| *id)).min();
        next.or_else(|| self.first().map(|message| message.id))
    }

    /// Takes out the messages for which `goes` says so.
    pub fn take_where(&mut self, goes: impl Fn(&Message) -> bool) -> Vec<Message> {
        let mut out = Vec::new();
        // As a rule nothing goes, and then nothing is moved.
        if self.line.iter().any(&goes) {
            let stays: Vec<Message>;
            (out, stays) = std::mem::take(&mut self.line).into_iter().partition(&goes);
            self.line = stays.into();
        }
        out.extend(self.strays.extract_if(.., |_, message| goes(message)).map(|(_, message)| message));
        out
    }

    pub fn into_messages(self) -> impl Iterator<Item = Message> {
        self.line.into_iter().chain(self.strays.into_values())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(id: i64) -> Message {
        Message::sample(id, "{}")
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(i64),
        PopFirst,
        Remove(i64),
        TakeEven,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..40_i64).prop_map(Step::Insert),
            2 => Just(Step::PopFirst),
            1 => (0..40_i64).prop_map(Step::Remove),
            1 => Just(Step::TakeEven),
        ]
    }

    proptest! {
        #[test]
        fn it_holds_what_a_map_by_id_would(steps in prop::collection::vec(step(), 0..80), last in -1..41_i64) {
            let (mut ready, mut map) = (Ready::default(), BTreeMap::new());
            for step in steps {
                match step {
                    // The worker takes in no message twice.
                    Step::Insert(id) if map.contains_key(&id) => {}
                    Step::Insert(id) => {
                        ready.insert(message(id));
                        map.insert(id, ());
                    }
                    Step::PopFirst => {
                        let popped = ready.pop_first().map(|message| message.id);
                        prop_assert_eq!(popped, map.pop_first().map(|(id, ())| id));
                    }
                    Step::Remove(id) => {
                        let removed = ready.remove(id).map(|message| message.id);
                        prop_assert_eq!(removed, map.remove_entry(&id).map(|(id, ())| id));
                    }
                    Step::TakeEven => {
                        let mut taken: Vec<i64> =
                            ready.take_where(|message| message.id % 2 == 0).iter().map(|m| m.id).collect();
                        taken.sort_unstable();
                        let expected: Vec<i64> = map.extract_if(.., |id, _| id % 2 == 0).map(|(id, ())| id).collect();
                        prop_assert_eq!(taken, expected);
                    }
                }
                prop_assert_eq!(ready.len(), map.len());
                prop_assert_eq!(ready.is_empty(), map.is_empty());
                prop_assert_eq!(ready.first().map(|message| message.id), map.keys().next().copied());
                let next = map.range(last + 1..).next().or_else(|| map.first_key_value());
                prop_assert_eq!(ready.after(last), next.map(|(id, ())| *id));
                let mut held: Vec<i64> = ready.messages().map(|message| message.id).collect();
                held.sort_unstable();
                prop_assert_eq!(held, map.keys().copied().collect::<Vec<_>>());
            }
            let mut left: Vec<i64> = ready.into_messages().map(|message| message.id).collect();
            left.sort_unstable();
            prop_assert_eq!(left, map.into_keys().collect::<Vec<_>>());
        }
    }
}
