//! Order: of the messages of one sync and key, which is the one that may move.
//!
//! Below the lane. It promises that of each key only one message is ever ready, under way or waiting
//! for another try, the lowest id first, and that the others wait here until that one has left.
//! Messages without a key pass without being looked at.
#![forbid(unsafe_code)]

use crate::message::Message;
use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

#[derive(Debug, Default)]
pub struct Order {
    /// By sync and key; only where there are messages.
    lines: HashMap<(i32, i64), Line>,
}

/// The messages of one key.
#[derive(Debug)]
struct Line {
    /// Whose turn it is.
    head: i64,
    place: Place,
    waiting: BTreeMap<i64, Due>,
}

/// Where in the lane the message is whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Ready,
    /// Waits for its moment.
    Later(Instant),
    /// In flight, or Lago is to be asked what became of it.
    UnderWay,
}

/// A message, and when it may go, if not at once.
#[derive(Debug, PartialEq, Eq)]
pub struct Due {
    pub message: Message,
    pub at: Option<Instant>,
}

/// What a message finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Entered {
    /// Its turn.
    Goes(Due),
    /// It waits here.
    Waits,
    /// It goes, and the one whose turn it was is to be taken back from its place, to
    /// [`Order::wait`] here.
    Displaces { goes: Due, head: i64, place: Place },
}

impl Order {
    /// A message comes in.
    pub fn enter(&mut self, due: Due) -> Entered {
        let Some(at) = line_of(&due.message) else { return Entered::Goes(due) };
        let id = due.message.id;
        let Some(line) = self.lines.get_mut(&at) else {
            self.lines.insert(at, Line { head: id, place: Place::Ready, waiting: BTreeMap::new() });
            return Entered::Goes(due);
        };
        if line.place == Place::UnderWay || line.head < id {
            line.waiting.insert(id, due);
            return Entered::Waits;
        }
        let (head, place) = (line.head, line.place);
        line.head = id;
        Entered::Displaces { goes: due, head, place }
    }

    /// A message comes in that may have gone already, so nothing of its key goes before it is known. Where
    /// one does already, it is asked about beside that.
    pub fn enter_under_way(&mut self, message: &Message) {
        let Some(at) = line_of(message) else { return };
        let line = Line { head: message.id, place: Place::UnderWay, waiting: BTreeMap::new() };
        self.lines.entry(at).or_insert(line);
    }

    /// A message that was displaced waits for its turn.
    pub fn wait(&mut self, due: Due) {
        if let Some(line) = line_of(&due.message).and_then(|at| self.lines.get_mut(&at)) {
            line.waiting.insert(due.message.id, due);
        }
    }

    /// The message whose turn it is has to go again. Gives the one that goes now: another, where one
    /// with a lower id was committed meanwhile.
    pub fn again(&mut self, due: Due) -> Due {
        let Some(line) = line_of(&due.message).and_then(|at| self.lines.get_mut(&at)) else { return due };
        match line.waiting.first_entry().filter(|first| *first.key() < due.message.id) {
            None => due,
            Some(first) => {
                let (id, lower) = first.remove_entry();
                line.head = id;
                line.waiting.insert(due.message.id, due);
                lower
            }
        }
    }

    /// The message whose turn it is moves.
    pub fn moves(&mut self, message: &Message, place: Place) {
        if let Some(line) = line_of(message).and_then(|at| self.lines.get_mut(&at)) {
            line.place = place;
        }
    }

    /// A message has left the lane. Gives the next, if it was its turn.
    pub fn leave(&mut self, message: &Message) -> Option<Due> {
        let at = line_of(message)?;
        let line = self.lines.get_mut(&at).filter(|line| line.head == message.id)?;
        match line.waiting.pop_first() {
            Some((id, next)) => {
                line.head = id;
                Some(next)
            }
            None => {
                self.lines.remove(&at);
                None
            }
        }
    }

    /// Takes back what waits here of the syncs for which `gone` says so.
    pub fn give_back(&mut self, gone: impl Fn(i32) -> bool) -> Vec<Message> {
        let lines = self.lines.iter_mut().filter(|((sync, _), _)| gone(*sync));
        lines.flat_map(|(_, line)| std::mem::take(&mut line.waiting)).map(|(_, due)| due.message).collect()
    }

    pub fn waiting(&self) -> impl Iterator<Item = &Message> {
        self.lines.values().flat_map(|line| line.waiting.values()).map(|due| &due.message)
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

fn line_of(message: &Message) -> Option<(i32, i64)> {
    message.key.map(|key| (message.sync, key))
}
