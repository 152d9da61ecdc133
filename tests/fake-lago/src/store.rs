//! What the server has accepted, and the uniqueness rules of its two stores.
//!
//! Everything here happens under one lock; callers prepare rows and keys before they take it.

use std::collections::hash_map::RandomState;
mod tamper;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::BuildHasher;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value};

use crate::arrivals::Arrivals;
use crate::catalog::Metric;
use crate::config::Store;
use crate::event::Event;
use crate::journal::{Effect, Journal};
use crate::objects::Objects;
use crate::sent::{Name, Seen, Sent};
use crate::time;

/// The most requests remembered.
const LOG_LENGTH: usize = 100_000;

/// An accepted event.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredEvent {
    pub lago_id: String,
    /// Empty if the single endpoint of the ClickHouse store was given none; likewise `code`.
    pub transaction_id: String,
    pub external_subscription_id: Option<String>,
    pub code: String,
    /// Microseconds since 1970, as the server read or chose it.
    pub timestamp_micros: i128,
    pub precise_total_amount_cents: Option<String>,
    /// After the server dropped what it drops.
    pub properties: Map<String, Value>,
    /// The JSON object as it was sent, byte for byte.
    pub raw: Vec<u8>,
    pub received_at: SystemTime,
    /// The number of the request that brought it, counted from 1.
    pub request: u64,
    /// An event with the same key had been accepted before (ClickHouse store only).
    pub duplicate: bool,
}

impl StoredEvent {
    pub fn raw_text(&self) -> &str {
        std::str::from_utf8(&self.raw).unwrap_or_default()
    }

    pub(crate) fn as_event(&self) -> Event {
        Event {
            transaction_id: Some(self.transaction_id.clone()),
            external_subscription_id: self.external_subscription_id.clone(),
            code: Some(self.code.clone()),
            timestamp: self.timestamp_micros,
            precise_total_amount_cents: self.precise_total_amount_cents.clone(),
            properties: self.properties.clone(),
        }
    }
}

/// One request the server has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLog {
    /// Counted from 1.
    pub number: u64,
    pub method: String,
    /// With the query.
    pub path: String,
    /// `None` if the request was left hanging or reset.
    pub status: Option<u16>,
    pub query: String,
    pub content_type: Option<String>,
    pub accept: Option<String>,
    /// What the client added of its own; never the key.
    pub headers: Vec<(String, String)>,
    /// The text of the body, if it is not of events and not longer than 64 KiB.
    pub body: Option<String>,
    /// How many events the body held.
    pub events: usize,
    pub body_bytes: usize,
    pub user_agent: Option<String>,
    /// A fault decided the answer.
    pub faulted: bool,
    pub at: SystemTime,
}

impl RequestLog {
    /// The last value of a header the client added.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter().rev();
        headers.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Numbers since the start or the last reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub requests: u64,
    /// Events accepted, copies included.
    pub stored: u64,
    /// Copies among them (ClickHouse store).
    pub duplicates: u64,
    /// Events refused as duplicates (Postgres store).
    pub refused_duplicates: u64,
    pub first_stored: Option<SystemTime>,
    pub last_stored: Option<SystemTime>,
}

impl Counters {
    /// Events accepted per second, from the first to the last.
    pub fn events_per_second(&self) -> f64 {
        let span = self.first_stored.zip(self.last_stored);
        let seconds =
            span.and_then(|(first, last)| last.duration_since(first).ok()).map_or(0.0, |d| d.as_secs_f64());
        let events = u32::try_from(self.stored).map_or(f64::from(u32::MAX), f64::from);
        if seconds > 0.0 { events / seconds } else { 0.0 }
    }
}

/// Which rows survive when some are duplicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDuplicate {
    RefuseAll,
    KeepOthers,
}

/// One row about to be inserted.
#[derive(Debug)]
pub struct Row {
    pub event: Event,
    pub lago_id: String,
    pub raw: Vec<u8>,
    pub key: Option<Key>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(u128);

/// Hashes what makes an event unique to 128 bits, so that a benchmark of millions of events stays small.
#[derive(Debug, Default)]
pub struct Keys {
    high: RandomState,
    low: RandomState,
}

impl Keys {
    /// `None` where the store has no uniqueness: a missing subscription is NULL in the unique index of
    /// Postgres, and NULLs are distinct.
    pub fn of(&self, event: &Event, store: Store) -> Option<Key> {
        let subscription = event.external_subscription_id.as_deref();
        let id = event.transaction_id.as_deref();
        match store {
            Store::Postgres => subscription.map(|subscription| self.hash(&(subscription, id))),
            Store::ClickHouse => {
                let code = event.code.as_deref();
                Some(self.hash(&(subscription, code, id, time::floor_to_millis(event.timestamp))))
            }
        }
    }

    fn hash(&self, value: &impl std::hash::Hash) -> Key {
        Key(u128::from(self.high.hash_one(value)) << 64 | u128::from(self.low.hash_one(value)))
    }
}

/// The positions that repeat the transaction id of an earlier row of the same request. The subscription is
/// not compared, although the index would allow the same id under another one.
pub fn repeated_within(rows: &[Row]) -> Vec<usize> {
    let mut seen = HashSet::with_capacity(rows.len());
    let ids = rows.iter().map(|row| row.event.transaction_id.as_deref()).enumerate();
    ids.filter(|(_, id)| !seen.insert(*id)).map(|(index, _)| index).collect()
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inserted {
    All,
    /// The positions of the duplicates, ascending.
    Duplicates(Vec<usize>),
}

/// Where and when rows came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub at: SystemTime,
    pub request: u64,
}

#[derive(Debug, Default)]
pub struct State {
    /// Counts stops: work begun before a stop must not store anything after it.
    pub generation: u64,
    /// Changes whenever something a waiting test may look at has changed.
    version: u64,
    pub counters: Counters,
    keys: HashSet<Key>,
    events: Vec<Arc<StoredEvent>>,
    /// The positions of the accepted events with a transaction id.
    by_id: HashMap<String, Vec<usize>>,
    /// Time and position of every accepted event.
    by_time: BTreeSet<(i128, usize)>,
    /// The positions of those that were deleted since: nothing shows them, and their keys are taken. Those of
    /// lost ones are among them, and their keys are free.
    deleted: HashSet<usize>,
    pub sent: Sent,
    /// Without bodies: first copies counted per subscription and code.
    counted: BTreeMap<String, BTreeMap<String, u64>>,
    log: VecDeque<RequestLog>,
    pub arrivals: Arrivals,
    pub objects: Objects,
    pub journal: Journal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    Everything,
    Counters,
}

impl State {
    /// Inserts into the Postgres store: a stored key, or one of the positions in `repeated`, is a duplicate.
    pub fn insert_unique(
        &mut self,
        rows: Vec<Row>,
        repeated: &[usize],
        on_duplicate: OnDuplicate,
        keep: Keep,
        arrival: Arrival,
    ) -> Inserted {
        let is_stored = |row: &Row| row.key.is_some_and(|key| self.keys.contains(&key));
        let mut repeated = repeated.iter().peekable();
        let mut duplicates = Vec::new();
        for (index, row) in rows.iter().enumerate() {
            let repeats = repeated.next_if(|at| **at == index).is_some();
            if repeats || is_stored(row) {
                duplicates.push(index);
            }
        }
        self.counters.refused_duplicates += duplicates.len() as u64;
        if !duplicates.is_empty() && on_duplicate == OnDuplicate::RefuseAll {
            return Inserted::Duplicates(duplicates);
        }
        let mut flagged = duplicates.iter().peekable();
        for (index, row) in rows.into_iter().enumerate() {
            if flagged.next_if(|at| **at == index).is_none() {
                self.keys.extend(row.key);
                self.keep(row, Uniqueness::First, keep, arrival);
            }
        }
        if duplicates.is_empty() { Inserted::All } else { Inserted::Duplicates(duplicates) }
    }

    /// Appends to the ClickHouse store, which takes everything.
    pub fn append(&mut self, rows: Vec<Row>, keep: Keep, arrival: Arrival) {
        for row in rows {
            let new = row.key.is_none_or(|key| self.keys.insert(key));
            let uniqueness = if new { Uniqueness::First } else { Uniqueness::Copy };
            self.keep(row, uniqueness, keep, arrival);
        }
    }

    fn keep(&mut self, row: Row, uniqueness: Uniqueness, keep: Keep, arrival: Arrival) {
        self.counters.stored += 1;
        self.counters.duplicates += u64::from(uniqueness == Uniqueness::Copy);
        self.counters.first_stored.get_or_insert(arrival.at);
        self.counters.last_stored = Some(arrival.at);
        let event = row.event;
        self.arrivals.saw(&event, arrival.at);
        if keep == Keep::Counters {
            if uniqueness == Uniqueness::First {
                self.count(&event);
            }
            return;
        }
        self.journal.tell(|| Effect::Event {
            event: event.clone(),
            lago_id: row.lago_id.clone(),
            raw: row.raw.clone(),
            arrival,
        });
        let stored = StoredEvent {
            lago_id: row.lago_id,
            transaction_id: event.transaction_id.unwrap_or_default(),
            external_subscription_id: event.external_subscription_id,
            code: event.code.unwrap_or_default(),
            timestamp_micros: event.timestamp,
            precise_total_amount_cents: event.precise_total_amount_cents,
            properties: event.properties,
            raw: row.raw,
            received_at: arrival.at,
            request: arrival.request,
            duplicate: uniqueness == Uniqueness::Copy,
        };
        let position = self.events.len();
        match self.by_id.get_mut(&stored.transaction_id) {
            Some(positions) => positions.push(position),
            None => {
                self.by_id.insert(stored.transaction_id.clone(), vec![position]);
            }
        }
        self.by_time.insert((stored.timestamp_micros, position));
        self.events.push(Arc::new(stored));
    }

    fn count(&mut self, event: &Event) {
        let subscription = event.external_subscription_id.as_deref().unwrap_or("");
        let code = event.code.as_deref().unwrap_or("");
        if let Some(count) = self.counted.get_mut(subscription).and_then(|codes| codes.get_mut(code)) {
            *count += 1;
        } else {
            self.counted.entry(subscription.to_owned()).or_default().insert(code.to_owned(), 1);
        }
    }

    /// Every accepted event in the order of acceptance, deleted ones included.
    pub fn events(&self) -> Vec<Arc<StoredEvent>> {
        self.events.clone()
    }

    /// The events that reads and bills see.
    pub fn live_events(&self) -> Vec<Arc<StoredEvent>> {
        let live = self.events.iter().enumerate().filter(|(position, _)| !self.deleted.contains(position));
        live.map(|(_, event)| Arc::clone(event)).collect()
    }

    /// Those of them whose time is not before the one and not after the other, in the order of acceptance.
    pub fn live_events_between(&self, from: Option<i128>, to: Option<i128>) -> Vec<Arc<StoredEvent>> {
        let (from, to) = (from.unwrap_or(i128::MIN), to.unwrap_or(i128::MAX));
        if from > to {
            return Vec::new();
        }
        let found = self.by_time.range((from, 0)..=(to, usize::MAX)).map(|(_, position)| *position);
        let mut positions: Vec<usize> = found.filter(|position| !self.deleted.contains(position)).collect();
        positions.sort_unstable();
        positions.into_iter().filter_map(|position| self.events.get(position).cloned()).collect()
    }

    /// Deletes the accepted events with this transaction id; returns how many that were. Lago marks them, and
    /// its unique index does not look at the mark: the id stays taken.
    pub fn delete_events(&mut self, transaction_id: &str) -> usize {
        let positions = self.by_id.get(transaction_id).into_iter().flatten();
        let before = self.deleted.len();
        self.deleted.extend(positions);
        self.version += 1;
        self.journal.tell(|| Effect::Deleted { transaction_id: transaction_id.to_owned() });
        self.deleted.len() - before
    }

    /// The last so many accepted events, oldest first.
    pub fn last_events(&self, count: usize) -> Vec<Arc<StoredEvent>> {
        self.events[self.events.len().saturating_sub(count)..].to_vec()
    }

    /// The first accepted event with this transaction id, whatever its subscription.
    pub fn first_with_id(&self, transaction_id: &str) -> Option<Arc<StoredEvent>> {
        let mut positions = self.by_id.get(transaction_id)?.iter();
        let first = positions.find(|position| !self.deleted.contains(position))?;
        self.events.get(*first).cloned()
    }

    /// Per subscription and code, what a server without bodies has counted.
    pub fn counted(&self) -> &BTreeMap<String, BTreeMap<String, u64>> {
        &self.counted
    }

    /// Remembers what something was sent with.
    pub fn saw_copy(&mut self, name: Name, body: &[u8]) {
        if self.sent.saw(&name, body) == Seen::New {
            self.journal.tell(|| Effect::Sent { name, body: body.to_vec() });
        }
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn saw_request(&mut self, request: RequestLog) {
        self.journal.tell(|| Effect::Request(request.clone()));
        self.version += 1;
        self.counters.requests += 1;
        if self.log.len() == LOG_LENGTH {
            self.log.pop_front();
        }
        self.log.push_back(request);
    }

    /// The remembered requests with a number above this one, in the order they were dealt with.
    pub fn requests_after(&self, number: u64) -> Vec<RequestLog> {
        self.log.iter().filter(|request| request.number > number).cloned().collect()
    }

    /// The last so many of them, oldest first.
    pub fn last_requests(&self, count: usize) -> Vec<RequestLog> {
        self.log.iter().skip(self.log.len().saturating_sub(count)).cloned().collect()
    }

    /// Forgets everything that came in.
    pub fn reset(&mut self) {
        let objects = std::mem::take(&mut self.objects).definitions();
        let mut journal = std::mem::take(&mut self.journal);
        journal.tell(|| Effect::Reset);
        let (generation, version) = (self.generation, self.version + 1);
        let arrivals = self.arrivals.begin_anew();
        *self = State { generation, version, objects, journal, arrivals, ..State::default() };
    }

    /// Puts what has happened since the last call into the file, if there is one.
    pub fn write_down(&mut self) -> io::Result<()> {
        self.tell_changes();
        self.journal.write()
    }

    fn tell_changes(&mut self) {
        for change in self.objects.take_changes() {
            self.journal.tell(|| change);
        }
    }

    /// After its object, because it says more.
    pub fn tell_metric(&mut self, metric: &Metric) {
        self.tell_changes();
        self.journal.tell(|| Effect::Metric(metric.clone()));
    }

    /// Does again what the file tells of; the catalog is the caller's.
    pub fn redo(&mut self, effect: Effect, keys: &Keys, store: Store) {
        match effect {
            Effect::Event { event, lago_id, raw, arrival } => {
                let key = keys.of(&event, store);
                let new = key.is_none_or(|key| self.keys.insert(key));
                let uniqueness = if new { Uniqueness::First } else { Uniqueness::Copy };
                self.keep(Row { event, lago_id, raw, key }, uniqueness, Keep::Everything, arrival);
            }
            Effect::Object { kind, index, fields, defined } => {
                self.objects.restore(kind, index, fields, defined);
            }
            Effect::Sent { name, body } => {
                self.sent.saw(&name, &body);
            }
            Effect::Request(request) => self.saw_request(request),
            Effect::Deleted { transaction_id } => {
                self.delete_events(&transaction_id);
            }
            Effect::Lost { positions } => self.lose(&positions, keys, store),
            Effect::Altered { position, event } => self.alter(position, event, keys, store),
            Effect::Reset => self.reset(),
            Effect::Metric(_) => {}
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Uniqueness {
    First,
    Copy,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(keys: &Keys, store: Store, subscription: Option<&str>, id: &str, timestamp: i128) -> Row {
        let event = Event {
            transaction_id: Some(id.to_owned()),
            external_subscription_id: subscription.map(str::to_owned),
            code: Some("c".to_owned()),
            timestamp,
            precise_total_amount_cents: None,
            properties: Map::new(),
        };
        let key = keys.of(&event, store);
        Row { event, lago_id: String::new(), raw: id.as_bytes().to_vec(), key }
    }

    fn arrival() -> Arrival {
        Arrival { at: SystemTime::UNIX_EPOCH, request: 1 }
    }

    fn insert(state: &mut State, rows: Vec<Row>, on_duplicate: OnDuplicate) -> Inserted {
        let repeated = repeated_within(&rows);
        state.insert_unique(rows, &repeated, on_duplicate, Keep::Everything, arrival())
    }

    #[test]
    fn one_duplicate_refuses_the_whole_request() {
        let (keys, mut state) = (Keys::default(), State::default());
        let row = |subscription, id| row(&keys, Store::Postgres, Some(subscription), id, 0);
        assert_eq!(insert(&mut state, vec![row("s", "a")], OnDuplicate::RefuseAll), Inserted::All);
        let rows = vec![row("s", "b"), row("s", "a"), row("s", "c")];
        assert_eq!(insert(&mut state, rows, OnDuplicate::RefuseAll), Inserted::Duplicates(vec![1]));
        assert_eq!(state.counters.stored, 1);
        assert_eq!(insert(&mut state, vec![row("t", "a")], OnDuplicate::RefuseAll), Inserted::All);
    }

    #[test]
    fn old_servers_keep_the_others() {
        let (keys, mut state) = (Keys::default(), State::default());
        let row = |id| row(&keys, Store::Postgres, Some("s"), id, 0);
        let rows = vec![row("a"), row("a"), row("b")];
        assert_eq!(insert(&mut state, rows, OnDuplicate::KeepOthers), Inserted::Duplicates(vec![1]));
        assert_eq!(state.counters.stored, 2);
    }

    #[test]
    fn within_a_request_only_the_transaction_id_is_compared() {
        let keys = Keys::default();
        let row = |subscription, id| row(&keys, Store::Postgres, subscription, id, 0);
        let rows = [row(Some("s"), "a"), row(Some("t"), "a"), row(None, "a"), row(None, "b")];
        assert_eq!(repeated_within(&rows), [1, 2]);
    }

    #[test]
    fn without_a_subscription_nothing_is_unique() {
        let (keys, mut state) = (Keys::default(), State::default());
        for _ in 0..2 {
            let rows = vec![row(&keys, Store::Postgres, None, "a", 0)];
            assert_eq!(insert(&mut state, rows, OnDuplicate::RefuseAll), Inserted::All);
        }
        assert_eq!(state.counters.stored, 2);
    }

    #[test]
    fn clickhouse_compares_timestamps_by_the_millisecond() {
        let (keys, mut state) = (Keys::default(), State::default());
        for timestamp in [1000, 1999, 2000] {
            let rows = vec![row(&keys, Store::ClickHouse, Some("s"), "a", timestamp)];
            state.append(rows, Keep::Everything, arrival());
        }
        let duplicates: Vec<bool> = state.events().iter().map(|event| event.duplicate).collect();
        assert_eq!(duplicates, [false, true, false]);
    }

    #[test]
    fn a_deleted_event_is_not_shown_and_blocks_its_id() {
        let (keys, mut state) = (Keys::default(), State::default());
        let row = |subscription| row(&keys, Store::Postgres, Some(subscription), "a", 0);
        insert(&mut state, vec![row("s")], OnDuplicate::RefuseAll);
        insert(&mut state, vec![row("t")], OnDuplicate::RefuseAll);
        assert_eq!((state.delete_events("a"), state.delete_events("a")), (2, 0));
        assert_eq!((state.live_events().len(), state.events().len()), (0, 2));
        assert!(state.first_with_id("a").is_none());
        assert_eq!(insert(&mut state, vec![row("s")], OnDuplicate::RefuseAll), Inserted::Duplicates(vec![0]));
        insert(&mut state, vec![row("u")], OnDuplicate::RefuseAll);
        assert!(state.first_with_id("a").is_some());
    }

    #[test]
    fn without_bodies_only_counts_remain() {
        let (keys, mut state) = (Keys::default(), State::default());
        for id in ["a", "b", "a"] {
            state.append(vec![row(&keys, Store::ClickHouse, Some("s"), id, 0)], Keep::Counters, arrival());
        }
        assert!(state.events().is_empty());
        assert_eq!(state.counters.stored, 3);
        assert_eq!(state.counted()["s"]["c"], 2);
    }
}
