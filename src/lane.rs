//! Lane: the messages the worker holds for one destination, and when which of them go out.
//!
//! Between outbox and sender. Pure: time comes in as an argument. It promises the sender batches
//! that respect the destination's limits and the order of each key, and the operator that a
//! destination in trouble is probed by one request at a time, with growing pauses, while its messages
//! wait unharmed. What may share a request is in [`queue`], whose turn it is among messages of one key
//! in [`order`], how many requests go at a time in [`flow`], how fast in [`pace`] and [`quota`], and what becomes of
//! one that does harm to all others in [`suspicion`].
#![forbid(unsafe_code)]

mod flow;
#[cfg(test)]
mod neighbours;
mod order;
mod pace;
#[cfg(test)]
mod properties;
mod queue;
mod quota;
mod ready;
mod suspicion;
#[cfg(test)]
mod tests;

use self::flow::{Flow, Permit, Role};
use self::order::{Due, Entered, Order, Place};
use self::pace::Bucket;
use self::queue::Queue;
use self::quota::{Admission, Quotas};
use self::suspicion::{Load, Suspicion};
use crate::backoff::Dice;
use crate::call::Category;
use crate::cursor::Range;
use crate::lookup::LookUp;
use crate::message::Message;
use crate::verdict::{Allowance, Condition};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    pub connections: usize,
    /// Requests per second; none means as fast as it goes.
    pub rate: Option<f64>,
}

/// Which messages may share a request: those of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grouping {
    /// The group of each sync.
    pub group_of: BTreeMap<i32, usize>,
    /// The most messages one request of each group holds.
    pub most: Vec<usize>,
    /// What Lago counts the requests of each group by.
    pub categories: Vec<Category>,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// One request, of one group.
    Send(Vec<Message>),
    /// A question about one message.
    LookUp(Message, LookUp),
    /// Nothing before that moment, unless something arrives or returns.
    Wait(Option<Instant>),
}

/// A request that has come back, for [`Lane::observe`].
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    load: Load,
    category: Category,
    role: Role,
}

#[derive(Debug)]
pub struct Lane {
    /// Ids the cursor passed while this lane had no room; they are still to be read.
    pub behind: Option<Range>,
    grouping: Grouping,
    /// One per group, and one more for messages of no known group.
    queues: Vec<Queue>,
    /// The queue whose turn it is.
    turn: usize,
    /// What waits for its moment.
    later: BTreeMap<(Instant, i64), Message>,
    look_ups: BTreeMap<(Instant, i64), (Message, LookUp)>,
    last_errand: Errand,
    order: Order,
    /// What is under way, by the message that leads it.
    flights: BTreeMap<i64, Flight>,
    messages: usize,
    bytes: usize,
    flow: Flow,
    bucket: Bucket,
    quotas: Quotas,
    suspicion: Suspicion,
    pressure: Pressure,
}

/// Whether more waits than may go, as of the last decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    None,
    /// A destination that is well is given as much as it may get at a time, and there is more.
    Full,
}

/// What went last: questions and deliveries take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Errand {
    Deliver,
    LookUp,
}

impl Lane {
    pub fn new(limits: Limits) -> Self {
        Lane {
            behind: None,
            grouping: Grouping::default(),
            queues: queues(&Grouping::default()),
            turn: 0,
            later: BTreeMap::new(),
            look_ups: BTreeMap::new(),
            last_errand: Errand::Deliver,
            order: Order::default(),
            flights: BTreeMap::new(),
            messages: 0,
            bytes: 0,
            flow: Flow::new(limits.connections),
            bucket: Bucket::new(limits.rate),
            quotas: Quotas::default(),
            suspicion: Suspicion::default(),
            pressure: Pressure::None,
        }
    }

    pub fn pressure(&self) -> Pressure {
        self.pressure
    }

    pub fn set_limits(&mut self, limits: Limits, now: Instant) {
        self.flow.set_connections(limits.connections);
        self.bucket.set_rate(limits.rate, now);
    }

    /// Takes over which messages may share a request, for those that wait here too.
    pub fn regroup(&mut self, grouping: &Grouping, now: Instant) {
        if self.grouping == *grouping {
            return;
        }
        self.grouping.clone_from(grouping);
        for queue in std::mem::replace(&mut self.queues, queues(grouping)) {
            let (messages, sets) = queue.into_parts();
            for message in messages {
                self.queue(message, Some(now));
            }
            for set in sets {
                self.queue_set(set);
            }
        }
        self.turn = 0;
    }

    /// Messages held, in flight included, and their bytes.
    pub fn load(&self) -> (usize, usize) {
        (self.messages, self.bytes)
    }

    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    pub fn is_idle(&self) -> bool {
        self.messages == 0
    }

    /// Takes in a message read from the outbox. `due` is when it may go, if not at once.
    pub fn admit(&mut self, message: Message, due: Option<Instant>, now: Instant) {
        self.messages += 1;
        self.bytes += message.payload.len();
        match self.order.enter(Due { message, at: due.filter(|due| *due > now) }) {
            Entered::Goes(due) => self.place(due, Some(now)),
            Entered::Waits => {}
            Entered::Displaces { goes, head, place } => {
                let (message, at) = match place {
                    Place::Later(at) => (self.later.remove(&(at, head)), Some(at)),
                    Place::Ready | Place::UnderWay => {
                        (self.queues.iter_mut().find_map(|queue| queue.take_back(head)), None)
                    }
                };
                if let Some(message) = message {
                    self.order.wait(Due { message, at });
                }
                self.place(goes, Some(now));
            }
        }
    }

    /// Takes in a message that an earlier worker may have sent, about which Lago is to be asked first.
    pub fn admit_look_up(&mut self, message: Message, look: LookUp, now: Instant) {
        self.messages += 1;
        self.bytes += message.payload.len();
        self.order.enter_under_way(&message);
        self.look_up(message, look, now);
    }

    /// The cursor passes `id` without taking it in.
    pub fn pass_over(&mut self, id: i64) {
        let range = self.behind.get_or_insert(Range { from: id, to: id });
        range.from = range.from.min(id);
        range.to = range.to.max(id);
    }

    /// The request that carried these messages is over.
    pub fn returned(&mut self, messages: &[Message]) -> Flight {
        let load = load(messages);
        let unknown = Flight { load, category: Category::Other, role: Role::Regular };
        self.flights.remove(&load.first).unwrap_or(unknown)
    }

    /// A message has left this lane: delivered, rejected, or given back.
    pub fn settled(&mut self, message: &Message) {
        self.forget_load(message);
        if let Some(next) = self.order.leave(message) {
            self.place(next, None);
        }
    }

    /// A message has to go again, at once and before what came after it.
    pub fn resend(&mut self, message: Message, now: Instant) {
        let at = self.suspicion.wait(message.id).map(|wait| now + wait);
        let due = self.order.again(Due { message, at });
        self.place(due, Some(now));
    }

    /// Messages have to go again at once, in a request that holds these and no others.
    pub fn resend_set(&mut self, messages: Vec<Message>, now: Instant) {
        let mut set = Vec::new();
        for message in messages {
            let id = message.id;
            let due = self.order.again(Due { message, at: None });
            if due.message.id == id {
                self.order.moves(&due.message, Place::Ready);
                set.push(due.message);
            } else {
                self.place(due, Some(now));
            }
        }
        self.queue_set(set);
    }

    /// Requests of a sync's group were too large: from now on they hold at most so many messages.
    pub fn shrink(&mut self, sync: i32, most: usize) {
        let group = self.group(sync);
        if let Some(queue) = self.queues.get_mut(group) {
            queue.shrink(most);
        }
    }

    /// A message failed, and goes again after a wait. What has failed by its own fault goes alone.
    pub fn retry(&mut self, message: Message, now: Instant, wait: Duration) {
        let due = self.order.again(Due { message, at: Some(now + wait) });
        self.place(due, Some(now));
    }

    /// Lago is to be asked about a message, after the wait the question has.
    pub fn look_up(&mut self, message: Message, look: LookUp, now: Instant) {
        // Its call may have taken effect, so it keeps its turn, whatever is committed meanwhile.
        self.look_ups.insert((now + look.wait, message.id), (message, look));
    }

    /// Takes note of what a reply says of the destination. Gives the pause it starts, if it does.
    pub fn observe(
        &mut self,
        flight: Flight,
        condition: &Condition,
        allowance: Option<Allowance>,
        now: Instant,
        dice: &mut Dice,
    ) -> Option<Duration> {
        let admission = match condition {
            Condition::Trouble { .. } => Admission::Refused,
            Condition::Well | Condition::Doubtful { .. } | Condition::Hold { .. } => Admission::Taken,
        };
        let unanswered = self.unanswered(flight.category);
        self.quotas.observe(flight.category, allowance, admission, unanswered, now, dice);
        let pause = self.flow.observe(flight.role, flight.load.first, condition, now, dice)?;
        // A server that asks for a pause has read no message, and a probe shows nothing new.
        if let (Role::Regular, Condition::Trouble { wait: None, .. }) = (flight.role, condition) {
            self.suspicion.strike(flight.load);
        }
        Some(pause)
    }

    /// Forgets trouble: the operator changed something, so it is worth trying at once, by one request.
    pub fn reopen(&mut self) {
        self.flow.reopen();
    }

    /// Takes back everything not in flight of the syncs for which `gone` says so, passing over it.
    pub fn give_back(&mut self, gone: impl Fn(i32) -> bool) -> Vec<Message> {
        let mut out = self.order.give_back(&gone);
        for queue in &mut self.queues {
            out.extend(queue.give_back(&gone));
        }
        let later = self.later.extract_if(.., |_, message| gone(message.sync));
        out.extend(later.map(|(_, message)| message));
        let look_ups = self.look_ups.extract_if(.., |_, (message, _)| gone(message.sync));
        out.extend(look_ups.map(|(_, (message, _))| message));
        for message in &out {
            self.settled(message);
        }
        out
    }

    /// The ids of what waits here. What is in flight is not among them.
    pub fn ids(&self) -> impl Iterator<Item = i64> {
        let looked_up = self.look_ups.values().map(|(message, _)| message);
        self.queues
            .iter()
            .flat_map(Queue::messages)
            .chain(self.order.waiting())
            .chain(self.later.values())
            .chain(looked_up)
            .map(|message| message.id)
    }

    /// Decides what goes out now.
    pub fn next(&mut self, now: Instant) -> Next {
        while let Some(entry) = self.later.first_entry().filter(|entry| entry.key().0 <= now) {
            let message = entry.remove();
            self.place(Due { message, at: None }, Some(now));
        }
        for queue in &mut self.queues {
            queue.come_to(now);
        }
        self.pressure = Pressure::None;
        let due = self.later.first_key_value().map(|((due, _), _)| *due);
        let question = self.look_ups.first_key_value().map(|((due, _), _)| *due);
        let due = due.into_iter().chain(question.filter(|question| *question > now)).min();
        let asks = question.is_some_and(|question| question <= now);
        if !asks && self.queues.iter().all(Queue::is_empty) {
            self.bucket.rest();
            return Next::Wait(due);
        }
        let permit = match self.flow.permit(self.flights.len(), now) {
            Permit::Nothing(until) => {
                if self.flow.is_open() {
                    self.pressure = Pressure::Full;
                }
                return Next::Wait(until);
            }
            permit => permit,
        };
        if let Some(until) = self.bucket.wait(now) {
            self.pressure = Pressure::Full;
            return Next::Wait(Some(until));
        }
        self.choose(permit, asks, now).unwrap_or_else(|| Next::Wait(self.next_choice(asks, now, due)))
    }

    /// The request that goes now, if one may.
    fn choose(&mut self, permit: Permit, asks: bool, now: Instant) -> Option<Next> {
        let asks = asks && self.quota(Category::Other, now).is_none();
        if asks && self.last_errand == Errand::Deliver {
            return self.ask(permit, now);
        }
        let Some((batch, category)) = self.take_turn(permit, now) else {
            return asks.then(|| self.ask(permit, now)).flatten();
        };
        self.last_errand = Errand::Deliver;
        self.take_off(&batch, category, permit, now);
        Some(Next::Send(batch))
    }

    fn ask(&mut self, permit: Permit, now: Instant) -> Option<Next> {
        let (_, (message, look)) = self.look_ups.pop_first()?;
        self.last_errand = Errand::LookUp;
        self.take_off(std::slice::from_ref(&message), Category::Other, permit, now);
        Some(Next::LookUp(message, look))
    }

    fn take_off(&mut self, messages: &[Message], category: Category, permit: Permit, now: Instant) {
        self.bucket.take(now);
        let unanswered = self.unanswered(category);
        self.quotas.take(category, unanswered, now);
        let role = match permit {
            Permit::Probe { .. } => Role::Probe,
            Permit::Regular | Permit::Nothing(_) => Role::Regular,
        };
        for message in messages {
            self.order.moves(message, Place::UnderWay);
        }
        let load = load(messages);
        self.flights.insert(load.first, Flight { load, category, role });
    }

    /// When there may be something to choose, where there is nothing now.
    fn next_choice(&mut self, asks: bool, now: Instant, due: Option<Instant>) -> Option<Instant> {
        let mut moments: Vec<Instant> = due.into_iter().collect();
        if asks {
            moments.extend(self.quota(Category::Other, now));
        }
        for index in 0..self.queues.len() {
            let Some(queue) = self.queues.get(index).filter(|queue| !queue.is_empty()) else { continue };
            let (category, lingers_until) = (queue.category, queue.lingers_until());
            let quota = self.quota(category, now);
            if quota.is_some() {
                self.pressure = Pressure::Full;
            }
            moments.extend(quota.or(lingers_until));
        }
        moments.into_iter().min()
    }

    /// The next request. Groups take turns, so that a backlog of single calls does not hold up
    /// batches, nor the other way round.
    fn take_turn(&mut self, permit: Permit, now: Instant) -> Option<(Vec<Message>, Category)> {
        let in_flight = self.flights.len();
        for step in 0..self.queues.len() {
            let index = (self.turn + step) % self.queues.len();
            let Some(category) = self.queues.get(index).map(|queue| queue.category) else { continue };
            if self.quota(category, now).is_some() {
                continue;
            }
            let Some(queue) = self.queues.get_mut(index) else { continue };
            let batch = match permit {
                Permit::Probe { last } => queue.take_probe(last),
                Permit::Regular | Permit::Nothing(_) => queue.take(now, in_flight, &self.suspicion),
            };
            if let Some(batch) = batch {
                self.turn = (index + 1) % self.queues.len();
                return Some((batch, category));
            }
        }
        None
    }

    /// Until when the server takes no more requests of a category, if it does not now.
    fn quota(&mut self, category: Category, now: Instant) -> Option<Instant> {
        let unanswered = self.unanswered(category);
        self.quotas.wait(category, unanswered, now)
    }

    fn unanswered(&self, category: Category) -> usize {
        self.flights.values().filter(|flight| flight.category == category).count()
    }

    /// Puts the message of a key whose turn it is, or one without a key, where it belongs. It counts as
    /// waiting for company from `now`, or from the next decision.
    fn place(&mut self, Due { message, at }: Due, now: Option<Instant>) {
        match at {
            Some(at) => {
                self.order.moves(&message, Place::Later(at));
                self.later.insert((at, message.id), message);
            }
            None => {
                self.order.moves(&message, Place::Ready);
                self.queue(message, now);
            }
        }
    }

    fn queue(&mut self, message: Message, now: Option<Instant>) {
        let group = self.group(message.sync);
        if let Some(queue) = self.queues.get_mut(group) {
            queue.put(message, now);
        }
    }

    /// Groups may have changed since these shared a request.
    fn queue_set(&mut self, set: Vec<Message>) {
        let mut of_group: BTreeMap<usize, Vec<Message>> = BTreeMap::new();
        for message in set {
            of_group.entry(self.group(message.sync)).or_default().push(message);
        }
        for (group, set) in of_group {
            if let Some(queue) = self.queues.get_mut(group) {
                queue.put_set(set);
            }
        }
    }

    fn group(&self, sync: i32) -> usize {
        let last = self.queues.len().saturating_sub(1);
        self.grouping.group_of.get(&sync).copied().unwrap_or(last).min(last)
    }

    fn forget_load(&mut self, message: &Message) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(message.payload.len());
    }
}

fn load(messages: &[Message]) -> Load {
    let id = |message: Option<&Message>| message.map_or(i64::MIN, |message| message.id);
    Load { first: id(messages.first()), last: id(messages.last()), messages: messages.len() }
}

fn queues(grouping: &Grouping) -> Vec<Queue> {
    let categories = grouping.categories.iter().copied().chain(std::iter::repeat(Category::Other));
    let known = grouping.most.iter().zip(categories).map(|(most, category)| Queue::new(*most, category));
    known.chain([Queue::new(1, Category::Other)]).collect()
}
