//! What never happens in a store that can be trusted: accepted events are lost, altered or made up.
//!
//! For whoever has to find that out.

use std::collections::BTreeSet;

use super::{Arrival, Keep, Keys, Row, State, Uniqueness};
use crate::config::Store;
use crate::event::Event;
use crate::journal::Effect;

impl State {
    /// Loses the accepted events with this transaction id, as if they had never come: their keys are free.
    /// Returns how many that were.
    pub fn lose_events(&mut self, transaction_id: &str, keys: &Keys, store: Store) -> usize {
        let positions: Vec<usize> = self.by_id.get(transaction_id).into_iter().flatten().copied().collect();
        let live = positions.into_iter().filter(|position| !self.deleted.contains(position));
        let lost: Vec<usize> = live.collect();
        self.lose(&lost, keys, store);
        lost.len()
    }

    /// Loses that many accepted events by chance, with all their copies; returns their transaction ids.
    pub fn lose_some(&mut self, count: usize, seed: u64, keys: &Keys, store: Store) -> Vec<String> {
        let live: BTreeSet<String> =
            self.live_events().iter().map(|event| event.transaction_id.clone()).collect();
        let mut left: Vec<String> = live.into_iter().collect();
        let mut chance = seed | 1;
        let mut lost = Vec::new();
        while lost.len() < count && !left.is_empty() {
            // xorshift64*: good enough to choose by.
            chance ^= chance >> 12;
            chance ^= chance << 25;
            chance ^= chance >> 27;
            let number = usize::try_from(chance.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap_or(0);
            lost.push(left.swap_remove(number % left.len()));
        }
        for id in &lost {
            self.lose_events(id, keys, store);
        }
        lost
    }

    /// Puts another event in the place of the first one with this transaction id; false if there is none.
    pub fn alter_event(&mut self, transaction_id: &str, event: Event, keys: &Keys, store: Store) -> bool {
        let positions = self.by_id.get(transaction_id).into_iter().flatten();
        let Some(position) = positions.copied().find(|position| !self.deleted.contains(position)) else {
            return false;
        };
        self.alter(position, event, keys, store);
        true
    }

    /// Puts an event there that nobody sent.
    pub fn add_event(&mut self, row: Row, arrival: Arrival) {
        self.keys.extend(row.key);
        self.keep(row, Uniqueness::First, Keep::Everything, arrival);
        self.version += 1;
    }

    pub(super) fn lose(&mut self, positions: &[usize], keys: &Keys, store: Store) {
        for position in positions {
            if let Some(event) = self.events.get(*position)
                && let Some(key) = keys.of(&event.as_event(), store)
            {
                self.keys.remove(&key);
            }
            self.deleted.insert(*position);
        }
        self.version += 1;
        self.journal.tell(|| Effect::Lost { positions: positions.to_vec() });
    }

    pub(super) fn alter(&mut self, position: usize, event: Event, keys: &Keys, store: Store) {
        let Some(slot) = self.events.get_mut(position) else { return };
        if let Some(key) = keys.of(&slot.as_event(), store) {
            self.keys.remove(&key);
        }
        self.keys.extend(keys.of(&event, store));
        self.by_time.remove(&(slot.timestamp_micros, position));
        self.by_time.insert((event.timestamp, position));
        self.journal.tell(|| Effect::Altered { position, event: event.clone() });
        let mut altered = slot.as_ref().clone();
        // Under its old id still: by that it is found again.
        altered.external_subscription_id = event.external_subscription_id;
        altered.code = event.code.unwrap_or_default();
        altered.timestamp_micros = event.timestamp;
        altered.precise_total_amount_cents = event.precise_total_amount_cents;
        altered.properties = event.properties;
        *slot = altered.into();
        self.version += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Inserted, OnDuplicate, repeated_within};
    use super::*;
    use serde_json::Map;
    use std::time::SystemTime;

    fn row(keys: &Keys, id: &str, timestamp: i128) -> Row {
        let event = Event {
            transaction_id: Some(id.to_owned()),
            external_subscription_id: Some("s".to_owned()),
            code: Some("c".to_owned()),
            timestamp,
            precise_total_amount_cents: None,
            properties: Map::new(),
        };
        let key = keys.of(&event, Store::Postgres);
        Row { event, lago_id: String::new(), raw: Vec::new(), key }
    }

    fn insert(state: &mut State, rows: Vec<Row>) -> Inserted {
        let repeated = repeated_within(&rows);
        let arrival = Arrival { at: SystemTime::UNIX_EPOCH, request: 1 };
        state.insert_unique(rows, &repeated, OnDuplicate::RefuseAll, Keep::Everything, arrival)
    }

    fn ids(state: &State) -> Vec<String> {
        state.live_events().iter().map(|event| event.transaction_id.clone()).collect()
    }

    #[test]
    fn what_is_lost_can_be_sent_again() {
        let (keys, mut state) = (Keys::default(), State::default());
        insert(&mut state, vec![row(&keys, "a", 1), row(&keys, "b", 2)]);
        assert_eq!(state.lose_events("a", &keys, Store::Postgres), 1);
        assert_eq!(state.lose_events("a", &keys, Store::Postgres), 0);
        assert_eq!(ids(&state), ["b"]);
        assert_eq!(insert(&mut state, vec![row(&keys, "a", 1)]), Inserted::All);
        assert_eq!(ids(&state), ["b", "a"]);
    }

    #[test]
    fn chance_loses_as_many_as_it_is_told_and_the_same_ones_again() {
        let lost = |seed| {
            let (keys, mut state) = (Keys::default(), State::default());
            insert(&mut state, (0..50).map(|n| row(&keys, &format!("{n:02}"), n)).collect());
            let lost = state.lose_some(7, seed, &keys, Store::Postgres);
            assert_eq!((lost.len(), ids(&state).len()), (7, 43));
            lost
        };
        assert_eq!(lost(5), lost(5));
        assert_ne!(lost(5), lost(6));
    }

    #[test]
    fn an_altered_event_stands_at_its_new_time() {
        let (keys, mut state) = (Keys::default(), State::default());
        insert(&mut state, vec![row(&keys, "a", 1), row(&keys, "b", 2)]);
        assert!(state.alter_event("a", row(&keys, "a", 9).event, &keys, Store::Postgres));
        assert!(!state.alter_event("z", row(&keys, "z", 9).event, &keys, Store::Postgres));
        let between = |from, to| {
            let found = state.live_events_between(Some(from), Some(to));
            found.iter().map(|event| event.transaction_id.clone()).collect::<Vec<_>>()
        };
        assert_eq!(
            (between(0, 1), between(9, 9), between(0, 9)),
            (vec![], vec!["a".into()], vec!["a".to_owned(), "b".into()])
        );
    }
}
