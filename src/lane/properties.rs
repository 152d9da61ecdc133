//! What holds for the lane whatever happens, in whatever order.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// What is under way in the world outside.
type Request = Vec<Message>;

/// A lane, and what the world knows of it.
struct World {
    lane: Lane,
    now: Instant,
    dice: Dice,
    connections: usize,
    next_id: i64,
    /// Ids a late commit will fill.
    holes: Vec<i64>,
    /// What was admitted and is neither settled nor given back.
    held: BTreeMap<i64, Message>,
    under_way: Vec<Request>,
    delivered: Vec<Message>,
    sent_at: Vec<Instant>,
    health: Health,
}

/// What the destination's last answers demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Well,
    /// Nothing goes before that moment.
    Pause(Instant),
    /// The request led by that message shows whether it has recovered, and no other is under way.
    Probed(i64),
}

const SYNCS: i32 = 3;

fn grouping(kind: usize) -> Grouping {
    let (group_of, most): (Vec<(i32, usize)>, Vec<usize>) = match kind % 3 {
        0 => (vec![(1, 0), (2, 0), (3, 1)], vec![3, 1]),
        1 => (vec![(1, 0), (2, 1), (3, 1)], vec![5, 4]),
        _ => (vec![(2, 0)], vec![2]),
    };
    let categories = [Category::Events, Category::Other].into_iter().take(most.len()).collect();
    Grouping { group_of: group_of.into_iter().collect(), most, categories }
}

fn question(wait: Duration) -> LookUp {
    let mut look = LookUp::health("500".into());
    look.wait = wait;
    look
}

impl World {
    fn new(rate: Option<f64>) -> World {
        let (now, connections) = (Instant::now(), 4);
        let mut lane = Lane::new(Limits { connections, rate });
        lane.regroup(&grouping(0), now);
        World {
            lane,
            now,
            dice: Dice::new(11),
            connections,
            next_id: 1,
            holes: Vec::new(),
            held: BTreeMap::new(),
            under_way: Vec::new(),
            delivered: Vec::new(),
            sent_at: Vec::new(),
            health: Health::Well,
        }
    }

    fn admit(&mut self, id: i64, pick: usize) {
        let key = [None, Some(1), Some(2), Some(3)][pick % 4];
        let sync = 1 + (pick / 4) as i32 % SYNCS;
        let path = pick.is_multiple_of(11).then(|| format!("/things/{id}"));
        let message = Message { sync, key, path, ..Message::sample(id, &"x".repeat(pick % 7)) };
        let due = pick.is_multiple_of(5).then(|| self.now + Duration::from_millis(pick as u64 % 900));
        self.held.insert(id, message.clone());
        self.lane.admit(message, due, self.now);
    }

    fn send(&mut self) -> Option<Instant> {
        let request = match self.lane.next(self.now) {
            Next::Wait(until) => return until,
            Next::Send(messages) => {
                self.check_lowest_first(&messages);
                messages
            }
            Next::LookUp(message, _) => vec![message],
        };
        assert!(!request.is_empty());
        self.check_order(&request);
        if self.health != Health::Well {
            assert!(self.under_way.is_empty(), "a probe goes beside another request");
            self.health = match self.health {
                Health::Pause(until) if until > self.now => panic!("a request goes during a pause"),
                _ => Health::Probed(request[0].id),
            };
        }
        self.sent_at.push(self.now);
        self.under_way.push(request);
        None
    }

    /// Nothing of a key goes while another of it is under way, and no two go together.
    fn check_order(&self, request: &[Message]) {
        let mut busy: BTreeSet<(i32, i64)> =
            self.under_way.iter().flatten().filter_map(|other| Some((other.sync, other.key?))).collect();
        for message in request {
            if let Some(key) = message.key {
                assert!(busy.insert((message.sync, key)), "{} goes beside another of its key", message.id);
            }
        }
    }

    /// Where a lower id of the same key is known, it goes first, however late it came.
    fn check_lowest_first(&self, request: &[Message]) {
        for message in request.iter().filter(|message| message.key.is_some()) {
            let lower = self.held.range(..message.id).map(|(_, other)| other);
            let mut before = lower.filter(|other| (other.sync, other.key) == (message.sync, message.key));
            assert!(before.next().is_none(), "{} goes before a lower one of its key", message.id);
        }
    }

    fn come_back(&mut self, pick: usize, kind: usize) {
        if self.under_way.is_empty() {
            return;
        }
        let request = self.under_way.swap_remove(pick % self.under_way.len());
        let flight = self.lane.returned(&request);
        let condition = match kind {
            0 => Condition::Trouble { why: String::new(), wait: None },
            1 | 2 => Condition::Doubtful { why: String::new() },
            _ => Condition::Well,
        };
        let allowance = pick.is_multiple_of(3).then(|| Allowance {
            limit: Some(20),
            remaining: (pick % 20) as u32,
            reset: Duration::from_millis(pick as u64 % 2000),
        });
        let pause = self.lane.observe(flight, &condition, allowance, self.now, &mut self.dice);
        self.health = match (pause, self.health) {
            (Some(pause), _) => Health::Pause(self.now + pause),
            (None, Health::Probed(first)) if first == request[0].id && condition == Condition::Well => {
                Health::Well
            }
            (None, health) => health,
        };
        let wait = Duration::from_millis(pick as u64 % 1000);
        match kind {
            0 => request.into_iter().rev().for_each(|message| self.lane.resend(message, self.now)),
            1 => {
                for mut message in request {
                    message.attempts += 1;
                    self.lane.retry(message, self.now, wait);
                }
            }
            2 => {
                let half = request.len().div_ceil(2);
                let (first, second) = request.split_at(half);
                self.lane.resend_set(first.to_vec(), self.now);
                self.lane.resend_set(second.to_vec(), self.now);
            }
            3 => {
                for message in request {
                    self.lane.look_up(message, question(wait), self.now);
                }
            }
            _ => request.into_iter().for_each(|message| self.settle(message)),
        }
    }

    fn settle(&mut self, message: Message) {
        self.lane.settled(&message);
        assert!(self.held.remove(&message.id).is_some(), "{} is settled twice", message.id);
        self.delivered.push(message);
    }

    fn give_back(&mut self, sync: i32) -> Vec<Message> {
        let given = self.lane.give_back(|other| other == sync);
        for message in &given {
            assert_eq!(message.sync, sync);
            assert!(self.held.remove(&message.id).is_some(), "{} is given back twice", message.id);
        }
        given
    }

    fn reopen(&mut self) {
        self.lane.reopen();
        if let Health::Pause(_) = self.health {
            self.health = Health::Pause(self.now);
        }
    }

    /// What was taken in is here or under way, once.
    fn check_account(&self) {
        let mut known: Vec<i64> =
            self.lane.ids().chain(self.under_way.iter().flatten().map(|m| m.id)).collect();
        known.sort_unstable();
        assert_eq!(known, self.held.keys().copied().collect::<Vec<_>>());
        let bytes = self.held.values().map(|message| message.payload.len()).sum();
        assert_eq!(self.lane.load(), (self.held.len(), bytes));
        assert_eq!(self.lane.in_flight(), self.under_way.len());
        assert!(self.under_way.len() <= self.connections);
    }

    /// From here on all succeeds: everything goes.
    fn drain(&mut self) {
        let patience = self.now + Duration::from_secs(100_000);
        self.reopen();
        while !self.lane.is_idle() {
            let until = self.send();
            self.check_account();
            if self.under_way.is_empty() {
                let until = until.expect("nothing is under way, and nothing to wait for");
                assert!(until > self.now && until < patience, "it waits for ever");
                self.now = until;
            }
            while !self.under_way.is_empty() {
                self.come_back(1, 9);
            }
        }
        self.check_account();
        assert!(self.lane.order.is_empty(), "nothing is left of any key");
    }
}

proptest! {
    /// Whatever is admitted, sent, refused, split, asked about, given back and read again: of each key
    /// one goes at a time, nothing is lost or doubled, and in the end everything has gone.
    #[test]
    fn nothing_is_lost_doubled_or_starved_and_keys_go_one_by_one(
        actions in prop::collection::vec((0u8..16, any::<u16>()), 0..400),
        rate in prop_oneof![Just(None), Just(Some(0.5)), Just(Some(20.0))],
    ) {
        let mut world = World::new(rate);
        for (action, pick) in actions {
            let pick = usize::from(pick);
            match action {
                0..=3 => {
                    let id = world.next_id;
                    world.next_id += 1;
                    if pick % 6 == 0 { world.holes.push(id) } else { world.admit(id, pick / 6) }
                }
                4 => {
                    if !world.holes.is_empty() {
                        let hole = world.holes.swap_remove(pick % world.holes.len());
                        world.admit(hole, pick / 7);
                    }
                }
                5..=8 => drop(world.send()),
                9..=12 => world.come_back(pick / 10, pick % 10),
                13 => world.now += Duration::from_millis(pick as u64 % 3000),
                14 => world.lane.regroup(&grouping(pick), world.now),
                _ if pick % 4 == 0 => {
                    let given = world.give_back(1 + pick as i32 / 4 % SYNCS);
                    for message in given {
                        world.held.insert(message.id, message.clone());
                        world.lane.admit(message, None, world.now);
                    }
                }
                _ if pick % 4 == 1 => drop(world.give_back(1 + pick as i32 / 4 % SYNCS)),
                _ if pick % 4 == 2 => world.lane.shrink(1, 1 + pick / 4 % 3),
                _ => world.reopen(),
            }
            world.check_account();
        }
        world.drain();
    }

    /// While messages come in the order of their ids, and fail as they like, each key's are done with
    /// in that order.
    #[test]
    fn of_each_key_messages_are_done_with_in_order(
        actions in prop::collection::vec((0u8..8, any::<u16>()), 0..400),
    ) {
        let mut world = World::new(None);
        for (action, pick) in actions {
            let pick = usize::from(pick);
            match action {
                0..=2 => {
                    let id = world.next_id;
                    world.next_id += 1;
                    world.admit(id, pick);
                }
                3..=4 => drop(world.send()),
                5..=6 => world.come_back(pick / 10, pick % 10),
                _ => world.now += Duration::from_millis(pick as u64 % 3000),
            }
        }
        world.drain();
        let mut last: BTreeMap<(i32, i64), i64> = BTreeMap::new();
        for Message { id, sync, key, .. } in world.delivered {
            if let Some(key) = key {
                let before = last.insert((sync, key), id);
                prop_assert!(before.is_none_or(|before| before < id), "{:?} before {}", before, id);
            }
        }
    }

    /// The operator's rate holds whatever else happens, look-ups and failures included.
    #[test]
    fn no_more_goes_than_the_rate_and_a_burst(
        actions in prop::collection::vec((0u8..6, any::<u16>()), 0..300),
        rate in prop_oneof![Just(0.5), Just(3.0), Just(40.0)],
    ) {
        let mut world = World::new(Some(rate));
        for (action, pick) in actions {
            let pick = usize::from(pick);
            match action {
                0 | 1 => {
                    let id = world.next_id;
                    world.next_id += 1;
                    world.admit(id, pick);
                }
                2 | 3 => {
                    // Late by any time, as a worker that was busy is.
                    if let Some(until) = world.send() {
                        world.now = world.now.max(until) + Duration::from_millis(pick as u64 % 400);
                        world.send();
                    }
                }
                4 => world.come_back(pick / 10, pick % 10),
                _ => world.now += Duration::from_millis(pick as u64 % 500),
            }
        }
        let all = &world.sent_at;
        for (first, from) in all.iter().enumerate() {
            for (last, to) in all.iter().enumerate().skip(first) {
                let most = rate * (*to - *from).as_secs_f64() + (rate / 10.0).max(1.0) + 1.0;
                prop_assert!((last - first + 1) as f64 <= most + 0.001);
            }
        }
    }
}
