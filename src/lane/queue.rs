//! Queue: the messages of one group that may go now, and which of them make the next request.
//!
//! Below the lane. It promises requests that are as full as the group allows, oldest messages first;
//! what has to go apart from others goes in requests of its own, and takes turns with the rest.
#![forbid(unsafe_code)]

use super::ready::Ready;
use super::suspicion::Suspicion;
use crate::call::Category;
use crate::message::Message;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, Instant};

/// How long a batch that is not full waits for company while other requests are under way.
pub const LINGER: Duration = Duration::from_millis(4);
/// The largest body, unless one message alone exceeds it; proxies in front of Lago refuse larger ones.
pub const MOST_BYTES: usize = 900_000;

#[derive(Debug)]
pub struct Queue {
    pub category: Category,
    /// The most one request holds.
    most: usize,
    /// What may share a request. By id: what comes back, or was committed late, finds its old place.
    ready: Ready,
    /// Requests whose messages are settled already, each to go as it is. By the id of the first.
    sets: BTreeMap<i64, Vec<Message>>,
    /// Since when the oldest batch waits for company.
    ready_since: Option<Instant>,
    turn: Turn,
}

/// What goes next where there is both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Set,
    Batch,
}

impl Queue {
    pub fn new(most: usize, category: Category) -> Queue {
        Queue {
            category,
            most: most.max(1),
            ready: Ready::default(),
            sets: BTreeMap::new(),
            ready_since: None,
            turn: Turn::Set,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.sets.is_empty()
    }

    pub fn messages(&self) -> impl Iterator<Item = &Message> {
        self.ready.messages().chain(self.sets.values().flatten())
    }

    /// Requests were too large: from now on they hold at most so many messages.
    pub fn shrink(&mut self, most: usize) {
        self.most = self.most.min(most.max(1));
    }

    /// What has failed by its own fault goes alone.
    pub fn put(&mut self, message: Message, now: Option<Instant>) {
        if message.attempts > 0 {
            self.put_set(vec![message]);
        } else {
            self.ready_since = self.ready_since.or(now);
            self.ready.insert(message);
        }
    }

    /// Messages that go in a request that holds these and no others.
    pub fn put_set(&mut self, set: Vec<Message>) {
        if let Some(first) = set.first() {
            self.sets.insert(first.id, set);
        }
    }

    /// Starts the clock of a batch that has begun to wait for company.
    pub fn come_to(&mut self, now: Instant) {
        if self.ready.is_empty() {
            self.ready_since = None;
        } else {
            self.ready_since.get_or_insert(now);
        }
    }

    /// When a batch that waits for company goes without it.
    pub fn lingers_until(&self) -> Option<Instant> {
        self.ready_since.filter(|_| !self.ready.is_empty()).map(|since| since + LINGER)
    }

    /// The messages of the next request, if there is one to make.
    pub fn take(&mut self, now: Instant, in_flight: usize, suspicion: &Suspicion) -> Option<Vec<Message>> {
        match self.take_turn(self.has_batch(now, in_flight))? {
            Turn::Set => self.sets.pop_first().map(|(_, set)| set),
            Turn::Batch => Some(self.take_batch(now, suspicion)),
        }
    }

    /// As small a request as can be made: a set, or a single message. `last` led the one before,
    /// which failed: it is another's turn, so that no single message keeps a destination closed.
    pub fn take_probe(&mut self, last: i64) -> Option<Vec<Message>> {
        match self.take_turn(!self.ready.is_empty())? {
            Turn::Set => after(&self.sets, last).and_then(|first| self.sets.remove(&first)),
            Turn::Batch => {
                self.ready.after(last).and_then(|id| self.ready.remove(id)).map(|message| vec![message])
            }
        }
    }

    fn take_turn(&mut self, has_batch: bool) -> Option<Turn> {
        let turn = match (self.sets.is_empty(), has_batch) {
            (true, false) => return None,
            (true, true) => Turn::Batch,
            (false, false) => Turn::Set,
            (false, true) => self.turn,
        };
        self.turn = match turn {
            Turn::Set => Turn::Batch,
            Turn::Batch => Turn::Set,
        };
        Some(turn)
    }

    /// Whether a batch can go: one that is not full waits briefly for company.
    fn has_batch(&self, now: Instant, in_flight: usize) -> bool {
        let Some(first) = self.ready.first() else { return false };
        in_flight == 0
            || self.ready.len() >= self.most
            || first.path.is_some()
            || self.ready_since.is_some_and(|since| since + LINGER <= now)
    }

    /// A message with a path of its own goes alone.
    fn take_batch(&mut self, now: Instant, suspicion: &Suspicion) -> Vec<Message> {
        let limit = self.ready.first().and_then(|first| suspicion.most_from(first.id));
        let most = limit.unwrap_or(self.most).min(self.most);
        let mut bytes = 0;
        let mut batch: Vec<Message> = Vec::with_capacity(most.min(self.ready.len()));
        while let Some(next) = self.ready.first().filter(|_| batch.len() < most) {
            bytes += next.payload.len();
            let fits = bytes <= MOST_BYTES && next.path.is_none();
            if !fits && !batch.is_empty() {
                break;
            }
            batch.extend(self.ready.pop_first());
            if !fits {
                break;
            }
        }
        self.ready_since = (!self.ready.is_empty()).then_some(now);
        batch
    }

    /// Takes one message back.
    pub fn take_back(&mut self, id: i64) -> Option<Message> {
        self.ready.remove(id).or_else(|| self.take_back_where(|message| message.id == id).pop())
    }

    /// Takes back the messages of the syncs for which `gone` says so.
    pub fn give_back(&mut self, gone: impl Fn(i32) -> bool) -> Vec<Message> {
        let mut out = self.take_back_where(|message| gone(message.sync));
        out.extend(self.ready.take_where(|message| gone(message.sync)));
        out
    }

    /// Takes messages out of their sets; what is left of a set stays one.
    fn take_back_where(&mut self, goes: impl Fn(&Message) -> bool) -> Vec<Message> {
        let mut out = Vec::new();
        let touched: Vec<Vec<Message>> =
            self.sets.extract_if(.., |_, set| set.iter().any(&goes)).map(|(_, set)| set).collect();
        for set in touched {
            let (leaves, stays) = set.into_iter().partition::<Vec<Message>, _>(&goes);
            out.extend(leaves);
            self.put_set(stays);
        }
        out
    }

    /// What it holds, to be put elsewhere.
    pub fn into_parts(self) -> (impl Iterator<Item = Message>, impl Iterator<Item = Vec<Message>>) {
        (self.ready.into_messages(), self.sets.into_values())
    }
}

/// The first key after `last`, beginning anew behind the last.
fn after<T>(map: &BTreeMap<i64, T>, last: i64) -> Option<i64> {
    let next = map.range((Bound::Excluded(last), Bound::Unbounded)).next();
    next.or_else(|| map.first_key_value()).map(|(key, _)| *key)
}
