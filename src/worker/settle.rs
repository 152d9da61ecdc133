//! Settle: from replies to what is written down.
//!
//! Last of the worker's three steps. All replies that have come are judged, and one short transaction
//! deletes what has left the outbox, keeps what died, and counts both.

use super::replies::Parts;
use super::{Failure, Worker, widen};
use crate::backoff;
use crate::destination::{Gate, Replies};
use crate::endpoint::Repeat;
use crate::lane::{Lane, Pressure};
use crate::message::{Message, Tried};
use crate::outbox::{self, Again, Dead, Health, Keeping, Kept, Settlement};
use crate::pg::{process, xact};
use crate::sender::{Done, Errand};
use crate::shared::Activity;
use crate::verdict::{self, Condition, Fate, Outcome, Verdict};
use crate::{settings, shared};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A reply kept with a dead letter is cut to this: enough for any error Lago explains.
const MOST_KEPT_REPLY: usize = 16 * 1024;

/// How long no replies are kept after a trigger on them took too long: else every request would wait for
/// it anew.
const REPLIES_PAUSE: Duration = Duration::from_secs(60);
const NOT_KEPT: &str = "a trigger on lago_push.reply took too long: replies are not kept for a minute";

/// So many messages that have left are worth a transaction of their own, however much there is to send.
const SETTLED_TOGETHER: usize = 2000;
/// How long a settlement waits for more while there is more to send.
const SETTLED_WITHIN: Duration = Duration::from_millis(5);

impl Worker {
    /// Takes in all replies that have come. What follows from them is written down by [`Worker::settle`].
    pub(super) fn take_in(&mut self) {
        let mut settlement = std::mem::take(&mut self.settlement);
        let mut touched = BTreeSet::new();
        while let Some(done) = self.senders.take_done() {
            touched.insert(done.lane);
            self.apply(done, &mut settlement);
        }
        self.settlement = settlement;
        for id in touched {
            shared::publish_in_flight(id, self.lanes.get(&id).map_or(0, Lane::in_flight));
        }
        if self.settlement.is_empty() {
            self.unsettled_since = None;
        } else {
            self.unsettled_since.get_or_insert_with(Instant::now);
        }
    }

    /// Until when a settlement may wait for more, if there is one that may. While there is more to send, what a
    /// few answers bring is written down together: connections do not stand idle during a transaction for each of them,
    /// and counting costs as much for one answer as for twenty. A worker that dies meanwhile has the same messages
    /// sent once more as one that dies while they are under way.
    pub(super) fn settles_at(&self) -> Option<Instant> {
        let is_pressed = self.lanes.values().any(|lane| lane.pressure() == Pressure::Full);
        let may_wait =
            is_pressed && self.settlement.is_plain() && self.settlement.gone.len() < SETTLED_TOGETHER;
        self.unsettled_since.filter(|_| may_wait).map(|since| since + SETTLED_WITHIN)
    }

    /// Writes down, in one transaction, what follows from the replies taken in.
    pub(super) fn settle(&mut self) -> Result<(), Failure> {
        let mut settlement = std::mem::take(&mut self.settlement);
        self.unsettled_since = None;
        if settlement.is_empty() {
            return Ok(());
        }
        self.set_busy(Activity::Settling);
        self.speed.count(settlement.gone.len(), Instant::now());
        settlement.start = self.new_start();
        let (start, left) = (settlement.start, settlement.left_by_sync());
        let keeping = xact::in_transaction(|| outbox::settle(&self.statements, settlement))?;
        process::report_statistics();
        self.start = start.unwrap_or(self.start);
        left.into_iter().for_each(|(sync, messages)| self.caps.left(sync, messages));
        if keeping == Keeping::TooLong {
            self.no_replies_until = Some(Instant::now() + REPLIES_PAUSE);
        }
        Ok(())
    }

    fn apply(&mut self, mut done: Done, settlement: &mut Settlement) {
        let now = Instant::now();
        let Verdict { fates, mut condition } = std::mem::take(&mut done.verdict);
        let is_current =
            self.transports.get(&done.lane).is_some_and(|current| Arc::ptr_eq(current, &done.transport));
        if let (Condition::Hold { why }, false) = (&condition, is_current) {
            // What was wrong with it may have been put right while this request was under way.
            condition = Condition::Trouble { why: why.clone(), wait: None };
        }
        let Some(lane) = self.lanes.get_mut(&done.lane) else {
            for message in &done.messages {
                self.known.remove(&message.id);
            }
            return;
        };
        let flight = lane.returned(&done.messages);
        let allowance = match &done.outcome {
            Outcome::Reply(reply) => reply.allowance,
            _ => None,
        };
        let pause = lane.observe(flight, &condition, allowance, now, &mut self.dice);
        note_health(settlement.health.entry(done.lane).or_default(), &done.outcome, &condition, pause);
        if let Condition::Hold { why } = &condition {
            self.hold(done.lane, why, settlement);
        }
        self.keep_replies(&done, &fates, settlement);
        let throw = self.dice.throw();
        let whereto = |message: &Message| match self.sync(message.sync) {
            Some(sync) if sync.gate == Gate::Held => Whereto::Nowhere,
            Some(sync) if sync.destination != done.lane => Whereto::To(sync.destination),
            Some(_) => Whereto::Here,
            None => Whereto::Nowhere,
        };
        let open: Vec<Whereto> = done.messages.iter().map(whereto).collect();
        let mut moved = Vec::new();
        let (mut first_half, mut second_half) = (Vec::new(), Vec::new());
        let half = done.messages.len().div_ceil(2);
        let most_attempts = settings::max_attempts();
        let gone_before = settlement.gone.len();
        let Some(lane) = self.lanes.get_mut(&done.lane) else { return };
        // In reverse, because what goes again goes to the front.
        for (index, ((mut message, fate), whereto)) in
            done.messages.into_iter().zip(fates).zip(open).enumerate().rev()
        {
            let account = settlement.accounts.entry(message.sync).or_default();
            if done.errand == Errand::Deliver {
                message.tried = verdict::tried(&done.outcome, message.tried);
            }
            // The note of a call that must not be repeated stays until it is known what became of it.
            if done.shape.call.repeat == Repeat::Never && !matches!(fate, Fate::LookUp(_)) {
                settlement.forgotten_retries.push(message.id);
            }
            match verdict::give_up(fate, message.attempts, most_attempts) {
                fate @ (Fate::Delivered | Fate::Duplicate) => {
                    account.delivered += 1;
                    account.duplicate += i64::from(fate == Fate::Duplicate);
                    self.known.remove(&message.id);
                    lane.settled(&message);
                    leave(&message, settlement);
                }
                Fate::Rejected { reason } => {
                    account.last_error = Some(reason.clone());
                    self.known.remove(&message.id);
                    lane.settled(&message);
                    let (reply_status, reply) = kept_reply(&done.outcome);
                    settlement.dead.push(Dead {
                        id: message.id,
                        attempts: message.attempts + 1,
                        reason,
                        reply_status,
                        reply,
                    });
                    leave(&message, settlement);
                }
                // A question left open is asked when its sync is open again: nothing else may happen to it.
                Fate::LookUp(look) => lane.look_up(message, look, now),
                _ if whereto != Whereto::Here => {
                    self.known.remove(&message.id);
                    lane.settled(&message);
                    if message.tried != Tried::Never {
                        self.untried_since = process::now();
                    }
                    match whereto {
                        Whereto::To(destination) => moved.push((destination, message.id)),
                        _ => widen(&mut self.paused, message.sync, message.id),
                    }
                }
                Fate::Resend => lane.resend(message, now),
                Fate::ResendAlone => lane.resend_set(vec![message], now),
                fate @ (Fate::Split | Fate::SplitAndRemember) => {
                    if fate == Fate::SplitAndRemember {
                        lane.shrink(message.sync, half);
                    }
                    let set = if index < half { &mut first_half } else { &mut second_half };
                    set.push(message);
                }
                Fate::Return => {
                    account.last_error = condition.why().map(str::to_owned);
                    lane.resend(message, now);
                }
                ref fate @ (Fate::Retry { ref reason } | Fate::Wait { ref reason }) => {
                    let failures = match fate {
                        Fate::Wait { .. } => &mut message.waits,
                        _ => &mut message.attempts,
                    };
                    *failures += 1;
                    let wait = backoff::wait(*failures, throw);
                    account.last_error = Some(reason.clone());
                    settlement.retries.push(Again {
                        id: message.id,
                        attempts: message.attempts,
                        wait,
                        why: reason.clone(),
                    });
                    lane.retry(message, now, wait);
                }
            }
        }
        for mut set in [first_half, second_half] {
            set.reverse();
            lane.resend_set(set, now);
        }
        if let Some(pace) = self.paces.get_mut(&done.lane) {
            pace.count(settlement.gone.len() - gone_before);
            if let Some(per_second) = pace.per_second(now) {
                settlement.health.entry(done.lane).or_default().pace = Some(per_second);
            }
        }
        for (destination, id) in moved {
            if let Some(lane) = self.lanes.get_mut(&destination) {
                lane.pass_over(id);
            }
        }
    }

    /// Stops deliveries to a destination until somebody has put right what is wrong.
    fn hold(&mut self, destination: i32, why: &str, settlement: &mut Settlement) {
        let known =
            self.directory.as_mut().and_then(|directory| directory.destinations.get_mut(&destination));
        if let Some(known) = known.filter(|known| known.gate == Gate::Open) {
            pgrx::warning!("lago_push holds destination \"{}\": {why}", known.name);
            known.gate = Gate::Held;
            settlement.holds.insert(destination, why.to_owned());
        }
    }

    /// Notes Lago's answer to each message it settles whose sync keeps replies.
    fn keep_replies(&self, done: &Done, fates: &[Fate], settlement: &mut Settlement) {
        let Outcome::Reply(reply) = &done.outcome else { return };
        let is_final =
            |fate: &Fate| matches!(fate, Fate::Delivered | Fate::Duplicate | Fate::Rejected { .. });
        let pauses = self.no_replies_until.is_some_and(|until| until > Instant::now());
        let mut parts = None;
        for (index, (message, fate)) in done.messages.iter().zip(fates).enumerate() {
            if is_final(fate) && self.sync(message.sync).is_some_and(|sync| sync.replies == Replies::Kept) {
                if pauses {
                    let account = settlement.accounts.entry(message.sync).or_default();
                    account.last_error = Some(NOT_KEPT.into());
                    continue;
                }
                let parts = parts.get_or_insert_with(|| Parts::of(reply, done.shape.call.batch));
                settlement.replies.push(Kept {
                    id: message.id,
                    sync: message.sync,
                    status: reply.status,
                    reply: parts.of_message(index),
                });
            }
        }
    }
}

/// Where a message that has to go again does so.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whereto {
    Here,
    /// Its sync was given another destination while it was under way.
    To(i32),
    /// Its sync was paused or dropped while it was under way.
    Nowhere,
}

fn note_health(health: &mut Health, outcome: &Outcome, condition: &Condition, pause: Option<Duration>) {
    health.requests += 1;
    if let Outcome::Reply(reply) = outcome {
        health.last_status = Some(reply.status);
    }
    if let Some(why) = condition.why() {
        health.failures += 1;
        health.last_error = Some(why.to_owned());
    }
    health.pause = pause.or(health.pause);
}

fn leave(message: &Message, settlement: &mut Settlement) {
    settlement.gone.push((message.id, message.tid));
    let account = settlement.accounts.entry(message.sync).or_default();
    account.captured += i64::from(message.entered);
    account.left += 1;
    if message.attempts > 0 || message.waits > 0 {
        settlement.forgotten_retries.push(message.id);
    }
}

fn kept_reply(outcome: &Outcome) -> (Option<u16>, Option<String>) {
    match outcome {
        Outcome::Reply(reply) => {
            let body = &reply.body[..reply.body.len().min(MOST_KEPT_REPLY)];
            (Some(reply.status), Some(String::from_utf8_lossy(body).into_owned()))
        }
        Outcome::Failed { .. } | Outcome::Unusable(_) | Outcome::Impossible(_) => (None, None),
    }
}
