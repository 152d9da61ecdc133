//! Lane: the messages the worker holds for one destination, and when which of them go out.
//!
//! Between outbox and sender. Pure: time comes in as an argument. It promises the sender batches
//! that respect the destination's limits, and the operator that a destination in trouble is probed
//! by one request at a time, with growing pauses, while its messages wait unharmed.
#![forbid(unsafe_code)]

use crate::backoff::{self, Dice};
use crate::call::Category;
use crate::cursor::Range;
use crate::lookup::LookUp;
use crate::message::Message;
use crate::verdict::{Allowance, Condition};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Unexpected answers in a row after which the destination counts as in trouble.
const DOUBTS_TO_TROUBLE: u32 = 3;
/// How long a batch that is not full waits for company while other requests are under way.
const LINGER: Duration = Duration::from_millis(4);
/// The largest body, unless one message alone exceeds it; proxies in front of Lago refuse larger ones.
const MOST_BYTES: usize = 900_000;

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

#[derive(Debug)]
pub struct Lane {
    pub limits: Limits,
    /// Ids the cursor passed while this lane had no room; they are still to be read.
    pub behind: Option<Range>,
    group_of: BTreeMap<i32, usize>,
    /// One per group, and one more for messages of no known group.
    queues: Vec<Queue>,
    /// The queue whose turn it is.
    turn: usize,
    later: BTreeMap<(Instant, i64), Message>,
    look_ups: BTreeMap<(Instant, i64), (Message, LookUp)>,
    in_flight: usize,
    messages: usize,
    bytes: usize,
    failures: u32,
    closed_until: Option<Instant>,
    next_slot: Option<Instant>,
}

/// The messages of one group that may go now, oldest first.
#[derive(Debug)]
struct Queue {
    /// The most one request holds.
    most: usize,
    ready: VecDeque<Message>,
    /// Requests whose messages are settled already, each to go as it is.
    sets: VecDeque<Vec<Message>>,
    ready_since: Option<Instant>,
}

impl Queue {
    fn new(most: usize) -> Queue {
        Queue { most: most.max(1), ready: VecDeque::new(), sets: VecDeque::new(), ready_since: None }
    }

    fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.sets.is_empty()
    }

    fn messages(&self) -> impl Iterator<Item = &Message> {
        self.ready.iter().chain(self.sets.iter().flatten())
    }

    fn put(&mut self, message: Message, now: Instant, end: End) {
        if message.path.is_some() || message.attempts > 0 {
            return match end {
                End::Front => self.sets.push_front(vec![message]),
                End::Back => self.sets.push_back(vec![message]),
            };
        }
        self.ready_since.get_or_insert(now);
        match end {
            End::Front => self.ready.push_front(message),
            End::Back => self.ready.push_back(message),
        }
    }

    /// Whether it has a request to make: a batch that is not full waits briefly for company.
    fn is_ready(&self, now: Instant, in_flight: usize) -> bool {
        !self.sets.is_empty()
            || self.ready.len() >= self.most
            || !self.ready.is_empty() && (in_flight == 0 || self.ready_since.unwrap_or(now) + LINGER <= now)
    }

    fn take(&mut self, now: Instant) -> Vec<Message> {
        if let Some(set) = self.sets.pop_front() {
            return set;
        }
        let mut bytes = 0;
        let fitting = self.ready.iter().take(self.most).take_while(|message| {
            bytes += message.payload.len();
            bytes <= MOST_BYTES
        });
        let count = fitting.count().max(1).min(self.ready.len());
        let batch = self.ready.drain(..count).collect();
        self.ready_since = (!self.ready.is_empty()).then_some(now);
        batch
    }
}

impl Lane {
    pub fn new(limits: Limits) -> Self {
        Lane {
            limits,
            behind: None,
            group_of: BTreeMap::new(),
            queues: vec![Queue::new(1)],
            turn: 0,
            later: BTreeMap::new(),
            look_ups: BTreeMap::new(),
            in_flight: 0,
            messages: 0,
            bytes: 0,
            failures: 0,
            closed_until: None,
            next_slot: None,
        }
    }

    /// Takes over which messages may share a request, for those that wait here too.
    pub fn regroup(&mut self, grouping: &Grouping, now: Instant) {
        let most: Vec<usize> = self.queues.iter().map(|queue| queue.most).collect();
        let new_most: Vec<usize> = grouping.most.iter().copied().chain([1]).collect();
        if self.group_of == grouping.group_of && most == new_most {
            return;
        }
        self.group_of.clone_from(&grouping.group_of);
        let old = std::mem::replace(&mut self.queues, new_most.into_iter().map(Queue::new).collect());
        let mut waiting: Vec<Message> = old
            .into_iter()
            .flat_map(|queue| queue.ready.into_iter().chain(queue.sets.into_iter().flatten()))
            .collect();
        waiting.sort_unstable_by_key(|message| message.id);
        for message in waiting {
            self.queue(message, None, now, End::Back);
        }
        self.turn = 0;
    }

    /// Messages held, in flight included, and their bytes.
    pub fn load(&self) -> (usize, usize) {
        (self.messages, self.bytes)
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub fn is_idle(&self) -> bool {
        self.messages == 0
    }

    /// Takes in a message read from the outbox. `due` is when it may go, if not at once.
    pub fn admit(&mut self, message: Message, due: Option<Instant>, now: Instant) {
        self.messages += 1;
        self.bytes += message.payload.len();
        self.queue(message, due, now, End::Back);
    }

    /// The cursor passes `id` without taking it in.
    pub fn pass_over(&mut self, id: i64) {
        let range = self.behind.get_or_insert(Range { from: id, to: id });
        range.from = range.from.min(id);
        range.to = range.to.max(id);
    }

    /// A request came back.
    pub fn returned(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// A message has left this lane: delivered, rejected, or given back.
    pub fn settled(&mut self, message: &Message) {
        self.messages -= 1;
        self.bytes -= message.payload.len();
    }

    /// A message has to go again, at once and before what came after it.
    pub fn resend(&mut self, message: Message, now: Instant) {
        self.queue(message, None, now, End::Front);
    }

    /// Messages have to go again at once, in a request that holds these and no others.
    pub fn resend_set(&mut self, messages: Vec<Message>, _now: Instant) {
        let Some(first) = messages.first() else { return };
        let last = self.queues.len().saturating_sub(1);
        let group = self.group_of.get(&first.sync).copied().unwrap_or(last);
        if let Some(queue) = self.queues.get_mut(group.min(last)) {
            queue.sets.push_back(messages);
        }
    }

    /// Requests of a sync's group were too large: from now on they hold at most so many messages.
    pub fn shrink(&mut self, sync: i32, most: usize) {
        let last = self.queues.len().saturating_sub(1);
        let group = self.group_of.get(&sync).copied().unwrap_or(last);
        if let Some(queue) = self.queues.get_mut(group.min(last)) {
            queue.most = queue.most.min(most.max(1));
        }
    }

    /// A message failed, and goes again after a wait. What has failed by its own fault goes alone.
    pub fn retry(&mut self, message: Message, now: Instant, wait: Duration) {
        self.queue(message, Some(now + wait), now, End::Back);
    }

    /// Lago is to be asked about a message, after a wait.
    pub fn look_up(&mut self, message: Message, look: LookUp, now: Instant, wait: Duration) {
        self.look_ups.insert((now + wait, message.id), (message, look));
    }

    /// Takes note of what a reply says of the destination. Gives the pause it starts, if it does.
    pub fn observe(
        &mut self,
        condition: &Condition,
        _allowance: Option<(Category, Allowance)>,
        now: Instant,
        dice: &mut Dice,
    ) -> Option<Duration> {
        let asked = match condition {
            Condition::Well => {
                self.failures = 0;
                self.closed_until = None;
                return None;
            }
            // Requests that were under way when the pause began tell nothing new.
            _ if self.closed_until.is_some_and(|until| until > now) => return None,
            // Its gate is closed until somebody opens it.
            Condition::Hold { .. } => return None,
            Condition::Doubtful { .. } => None,
            Condition::Trouble { wait, .. } => *wait,
        };
        self.failures = self.failures.saturating_add(1);
        if matches!(condition, Condition::Doubtful { .. }) && self.failures < DOUBTS_TO_TROUBLE {
            return None;
        }
        let pause = asked.unwrap_or_else(|| backoff::wait(self.failures, dice.throw()));
        self.closed_until = Some(now + pause);
        Some(pause)
    }

    /// Forgets trouble: the operator changed something, so it is worth trying at once.
    pub fn reopen(&mut self) {
        self.failures = 0;
        self.closed_until = None;
    }

    /// Takes back everything not in flight of the syncs for which `gone` says so, passing over it.
    pub fn give_back(&mut self, gone: impl Fn(i32) -> bool) -> Vec<Message> {
        let mut out = Vec::new();
        for queue in &mut self.queues {
            for message in std::mem::take(&mut queue.ready) {
                if gone(message.sync) { out.push(message) } else { queue.ready.push_back(message) }
            }
            for set in std::mem::take(&mut queue.sets) {
                let (leaves, stays): (Vec<Message>, Vec<Message>) =
                    set.into_iter().partition(|message| gone(message.sync));
                out.extend(leaves);
                if !stays.is_empty() {
                    queue.sets.push_back(stays);
                }
            }
        }
        for (due, (message, look)) in std::mem::take(&mut self.look_ups) {
            if gone(message.sync) {
                out.push(message)
            } else {
                drop(self.look_ups.insert(due, (message, look)))
            }
        }
        for (due, message) in std::mem::take(&mut self.later) {
            if gone(message.sync) { out.push(message) } else { drop(self.later.insert(due, message)) }
        }
        for message in &out {
            self.messages -= 1;
            self.bytes -= message.payload.len();
        }
        out
    }

    /// The ids of what waits here. What is in flight is not among them.
    pub fn ids(&self) -> impl Iterator<Item = i64> {
        let looked_up = self.look_ups.values().map(|(message, _)| message);
        self.queues
            .iter()
            .flat_map(Queue::messages)
            .chain(self.later.values())
            .chain(looked_up)
            .map(|message| message.id)
    }

    /// Decides what goes out now.
    pub fn next(&mut self, now: Instant) -> Next {
        while let Some(entry) = self.later.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let message = entry.remove();
            self.queue(message, None, now, End::Back);
        }
        let due = self.later.first_key_value().map(|((due, _), _)| *due);
        let question = self.look_ups.first_key_value().map(|((due, _), _)| *due);
        let due = due.into_iter().chain(question).min();
        let asks = question.is_some_and(|question| question <= now);
        if !asks && self.queues.iter().all(Queue::is_empty) {
            return Next::Wait(due);
        }
        let connections = if self.failures == 0 { self.limits.connections } else { 1 };
        if self.in_flight >= connections {
            return Next::Wait(None);
        }
        for gate in [self.closed_until, self.next_slot] {
            if let Some(gate) = gate.filter(|gate| *gate > now) {
                return Next::Wait(Some(gate));
            }
        }
        if asks && let Some((_, (message, look))) = self.look_ups.pop_first() {
            self.take_slot(now);
            return Next::LookUp(message, look);
        }
        let Some(batch) = self.take_turn(now) else {
            let lingering = self.queues.iter().filter(|queue| !queue.ready.is_empty());
            let full_enough = lingering.filter_map(|queue| queue.ready_since).min();
            return Next::Wait(full_enough.map(|since| since + LINGER).into_iter().chain(due).min());
        };
        self.take_slot(now);
        Next::Send(batch)
    }

    fn take_slot(&mut self, now: Instant) {
        self.in_flight += 1;
        if let Some(rate) = self.limits.rate.filter(|rate| *rate > 0.0) {
            self.next_slot =
                Some(self.next_slot.unwrap_or(now).max(now) + Duration::from_secs_f64(1.0 / rate));
        }
    }

    /// The next request. Groups take turns, so that a backlog of single calls does not hold up
    /// batches, nor the other way round.
    fn take_turn(&mut self, now: Instant) -> Option<Vec<Message>> {
        let in_flight = self.in_flight;
        let (passed, upcoming) = self.queues.split_at_mut(self.turn);
        let before = passed.len();
        let (index, queue) = upcoming
            .iter_mut()
            .enumerate()
            .map(|(step, queue)| (before + step, queue))
            .chain(passed.iter_mut().enumerate())
            .find(|(_, queue)| queue.is_ready(now, in_flight))?;
        let batch = queue.take(now);
        self.turn = (index + 1) % self.queues.len();
        Some(batch)
    }

    fn queue(&mut self, message: Message, due: Option<Instant>, now: Instant, end: End) {
        if let Some(due) = due.filter(|due| *due > now) {
            self.later.insert((due, message.id), message);
            return;
        }
        let last = self.queues.len().saturating_sub(1);
        let group = self.group_of.get(&message.sync).copied().unwrap_or(last);
        if let Some(queue) = self.queues.get_mut(group.min(last)) {
            queue.put(message, now, end);
        }
    }
}

#[derive(Clone, Copy)]
enum End {
    Front,
    Back,
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { connections: 4, rate: None };

    fn message(id: i64) -> Message {
        Message::sample(id, &format!("{{\"transaction_id\":\"{id}\"}}"))
    }

    /// Syncs 1 and 2 make requests of up to three messages together, sync 3 single ones.
    fn new_lane(limits: Limits, now: Instant) -> Lane {
        let mut lane = Lane::new(limits);
        let group_of = BTreeMap::from([(1, 0), (2, 0), (3, 1)]);
        lane.regroup(
            &Grouping { group_of, most: vec![3, 1], categories: vec![Category::Events, Category::Other] },
            now,
        );
        lane
    }

    fn lane_with(limits: Limits, ids: std::ops::Range<i64>, now: Instant) -> Lane {
        let mut lane = new_lane(limits, now);
        for id in ids {
            lane.admit(message(id), None, now);
        }
        lane
    }

    fn sent(next: Next) -> Vec<i64> {
        match next {
            Next::Send(batch) => batch.iter().map(|message| message.id).collect(),
            Next::LookUp(..) | Next::Wait(_) => Vec::new(),
        }
    }

    fn trouble() -> Condition {
        Condition::Trouble { why: "down".into(), wait: None }
    }

    #[test]
    fn a_lone_message_goes_at_once_and_the_next_waits_briefly_for_company() {
        let now = Instant::now();
        let mut lane = lane_with(LIMITS, 1..2, now);
        assert_eq!(sent(lane.next(now)), [1]);
        lane.admit(message(2), None, now);
        assert_eq!(lane.next(now), Next::Wait(Some(now + LINGER)));
        lane.admit(message(3), None, now);
        lane.admit(message(4), None, now);
        assert_eq!(sent(lane.next(now)), [2, 3, 4], "a full batch does not wait");
        lane.admit(message(5), None, now);
        assert_eq!(sent(lane.next(now + LINGER)), [5]);
    }

    #[test]
    fn no_more_requests_are_under_way_than_connections() {
        let now = Instant::now();
        let mut lane = lane_with(LIMITS, 1..100, now);
        let batches: Vec<_> =
            std::iter::from_fn(|| Some(sent(lane.next(now))).filter(|batch| !batch.is_empty())).collect();
        assert_eq!(batches.len(), 4);
        assert!(batches.iter().all(|batch| batch.len() == 3));
        lane.returned();
        assert_eq!(sent(lane.next(now)), [13, 14, 15]);
    }

    #[test]
    fn a_destination_in_trouble_is_probed_by_one_request_at_a_time() {
        let (now, mut dice) = (Instant::now(), Dice::new(1));
        let mut lane = lane_with(LIMITS, 1..100, now);
        let first = match lane.next(now) {
            Next::Send(batch) => batch,
            other => panic!("{other:?}"),
        };
        assert!(!sent(lane.next(now)).is_empty());
        lane.returned();
        let pause = lane.observe(&trouble(), None, now, &mut dice).expect("a pause");
        lane.returned();
        assert_eq!(
            lane.observe(&trouble(), None, now, &mut dice),
            None,
            "the same outage is not counted twice"
        );
        for message in first.into_iter().rev() {
            lane.resend(message, now);
        }
        assert_eq!(lane.next(now), Next::Wait(Some(now + pause)));
        assert_eq!(sent(lane.next(now + pause)), [1, 2, 3], "in their old place");
        assert_eq!(lane.next(now + pause), Next::Wait(None), "one probe only");
        lane.returned();
        assert_eq!(lane.observe(&Condition::Well, None, now + pause, &mut dice), None);
        assert!(!sent(lane.next(now + pause)).is_empty() && !sent(lane.next(now + pause)).is_empty());
    }

    #[test]
    fn pauses_grow_while_trouble_lasts() {
        let (mut now, mut dice) = (Instant::now(), Dice::new(1));
        let mut lane = lane_with(LIMITS, 1..2, now);
        for failures in 1..20 {
            let pause = lane.observe(&trouble(), None, now, &mut dice).expect("a pause");
            assert!(pause <= backoff::ceiling(failures) && pause >= backoff::ceiling(failures).mul_f64(0.09));
            now += pause;
        }
    }

    #[test]
    fn one_unexpected_answer_does_not_close_a_destination_but_three_do() {
        let (now, mut dice) = (Instant::now(), Dice::new(1));
        let mut lane = new_lane(LIMITS, now);
        let doubtful = Condition::Doubtful { why: "500".into() };
        assert_eq!(lane.observe(&doubtful, None, now, &mut dice), None);
        assert_eq!(lane.observe(&doubtful, None, now, &mut dice), None);
        assert!(lane.observe(&doubtful, None, now, &mut dice).is_some());
    }

    #[test]
    fn what_has_failed_by_its_own_fault_goes_alone() {
        let now = Instant::now();
        let mut lane = lane_with(LIMITS, 1..3, now);
        let Next::Send(batch) = lane.next(now) else { panic!("nothing to send") };
        lane.returned();
        for message in batch {
            lane.retry(Message { attempts: 1, ..message }, now, Duration::from_secs(1));
        }
        assert_eq!(lane.next(now), Next::Wait(Some(now + Duration::from_secs(1))));
        assert_eq!(all_sent(&mut lane, now + Duration::from_secs(1)), [[1], [2]]);
    }

    #[test]
    fn a_rate_limit_spaces_requests() {
        let now = Instant::now();
        let mut lane = lane_with(Limits { rate: Some(10.0), ..LIMITS }, 1..100, now);
        assert!(!sent(lane.next(now)).is_empty());
        assert_eq!(lane.next(now), Next::Wait(Some(now + Duration::from_millis(100))));
        assert!(!sent(lane.next(now + Duration::from_millis(100))).is_empty());
    }

    #[test]
    fn a_body_stays_below_what_proxies_take() {
        let now = Instant::now();
        let mut lane = new_lane(LIMITS, now);
        for id in 1..4 {
            lane.admit(Message { payload: "x".repeat(MOST_BYTES / 2), ..message(id) }, None, now);
        }
        lane.admit(Message { payload: "x".repeat(MOST_BYTES * 2), ..message(4) }, None, now);
        assert_eq!(sent(lane.next(now)), [1, 2]);
        assert_eq!(sent(lane.next(now + LINGER)), [3]);
        assert_eq!(sent(lane.next(now + LINGER * 2)), [4], "alone, however large");
    }

    #[test]
    fn a_paused_sync_gives_its_messages_back() {
        let now = Instant::now();
        let mut lane = lane_with(LIMITS, 1..4, now);
        lane.admit(Message { sync: 2, ..message(9) }, None, now);
        assert_eq!(lane.give_back(|sync| sync == 1).len(), 3);
        assert_eq!(lane.load().0, 1);
        assert_eq!(sent(lane.next(now)), [9]);
    }

    fn of_sync(sync: i32, id: i64) -> Message {
        Message { sync, ..message(id) }
    }

    /// What goes out while each request returns at once.
    fn all_sent(lane: &mut Lane, now: Instant) -> Vec<Vec<i64>> {
        std::iter::from_fn(|| {
            let ids = sent(lane.next(now));
            lane.returned();
            Some(ids).filter(|ids| !ids.is_empty())
        })
        .collect()
    }

    #[test]
    fn a_request_holds_messages_of_one_group_and_groups_take_turns() {
        let now = Instant::now();
        let mut lane = new_lane(LIMITS, now);
        for (sync, id) in [(3, 1), (3, 2), (3, 3), (1, 4), (2, 5), (1, 6), (2, 7)] {
            lane.admit(of_sync(sync, id), None, now);
        }
        assert_eq!(all_sent(&mut lane, now), [vec![4, 5, 6], vec![1], vec![7], vec![2], vec![3]]);
    }

    #[test]
    fn a_group_that_lingers_holds_up_no_other() {
        let now = Instant::now();
        let mut lane = new_lane(LIMITS, now);
        lane.admit(of_sync(3, 1), None, now);
        assert_eq!(sent(lane.next(now)), [1]);
        lane.admit(of_sync(1, 2), None, now);
        assert_eq!(lane.next(now), Next::Wait(Some(now + LINGER)));
        lane.admit(of_sync(3, 3), None, now);
        assert_eq!(sent(lane.next(now)), [3], "a single call has no company to wait for");
        assert_eq!(sent(lane.next(now + LINGER)), [2]);
    }

    #[test]
    fn a_message_with_a_path_of_its_own_goes_alone() {
        let now = Instant::now();
        let mut lane = new_lane(LIMITS, now);
        lane.admit(Message { path: Some("/a/1".into()), ..message(1) }, None, now);
        lane.admit(message(2), None, now);
        lane.admit(Message { path: Some("/a/3".into()), ..message(3) }, None, now);
        assert_eq!(all_sent(&mut lane, now), [[1], [3], [2]]);
    }

    #[test]
    fn changed_groups_hold_for_what_waits_already_oldest_first() {
        let now = Instant::now();
        let mut lane = new_lane(LIMITS, now);
        for (sync, id) in [(1, 1), (3, 2), (1, 3), (3, 4)] {
            lane.admit(of_sync(sync, id), None, now);
        }
        lane.regroup(
            &Grouping {
                group_of: BTreeMap::from([(1, 0), (3, 0)]),
                most: vec![2],
                categories: vec![Category::Events],
            },
            now,
        );
        assert_eq!(all_sent(&mut lane, now), [[1, 2], [3, 4]]);
    }

    #[test]
    fn a_message_of_an_unknown_group_is_not_kept_back() {
        let now = Instant::now();
        let mut lane = new_lane(LIMITS, now);
        lane.admit(of_sync(9, 1), None, now);
        lane.admit(of_sync(8, 2), None, now);
        assert_eq!(all_sent(&mut lane, now), [[1], [2]]);
    }
}
