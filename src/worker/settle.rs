//! Settle: from replies to what is written down.
//!
//! Last of the worker's three steps. All replies that have come are judged, and one short transaction
//! deletes what has left the outbox, keeps what died, and counts both.

use super::replies::Parts;
use super::{Failure, Worker, widen};
use crate::backoff;
use crate::destination::{Gate, Replies};
use crate::endpoint::Repeat;
use crate::lane::{Company, Lane, Message};
use crate::outbox::{self, Again, Dead, Keeping, Kept, Settlement};
use crate::pg::xact;
use crate::sender::Done;
use crate::shared;
use crate::verdict::{Condition, Fate, Outcome, Verdict, judge};
use std::time::{Duration, Instant};

/// A reply kept with a dead letter is cut to this: enough for any error Lago explains.
const MOST_KEPT_REPLY: usize = 16 * 1024;

/// How long no replies are kept after a trigger on them took too long: else every request would wait for
/// it anew.
const REPLIES_PAUSE: Duration = Duration::from_secs(60);
const NOT_KEPT: &str = "a trigger on lago_push.reply took too long: replies are not kept for a minute";

impl Worker {
    /// Judges all replies that have come, and writes down in one transaction what follows.
    pub(super) fn settle_done(&mut self) -> Result<(), Failure> {
        let mut settlement = Settlement::default();
        let mut touched = Vec::new();
        while let Some(done) = self.senders.take_done() {
            touched.push(done.lane);
            self.apply(done, &mut settlement);
        }
        for id in touched {
            shared::publish_in_flight(id, self.lanes.get(&id).map_or(0, Lane::in_flight));
        }
        if settlement.is_empty() {
            return Ok(());
        }
        self.set_busy("settling");
        self.speed.count(settlement.gone.len(), Instant::now());
        let keeping = xact::in_transaction(|| outbox::settle(&self.statements, settlement))?;
        if keeping == Keeping::TooLong {
            self.no_replies_until = Some(Instant::now() + REPLIES_PAUSE);
        }
        Ok(())
    }

    fn apply(&mut self, done: Done, settlement: &mut Settlement) {
        let now = Instant::now();
        let Verdict { fates, condition } = {
            let sent: Vec<&str> = done.messages.iter().map(|message| message.payload.as_str()).collect();
            judge(&done.outcome, &done.shape.call, &sent)
        };
        let Some(lane) = self.lanes.get_mut(&done.lane) else {
            for message in &done.messages {
                self.known.remove(&message.id);
            }
            return;
        };
        lane.returned();
        let pause = lane.observe(&condition, now, &mut self.dice);
        let health = settlement.health.entry(done.lane).or_default();
        health.requests += 1;
        if let Outcome::Reply(reply) = &done.outcome {
            health.last_status = Some(reply.status);
        }
        let why = match condition {
            Condition::Well => None,
            Condition::Doubtful { why } | Condition::Trouble { why, .. } => Some(why),
        };
        if why.is_some() {
            health.failures += 1;
            health.last_error.clone_from(&why);
        }
        health.pause = pause.or(health.pause);
        self.keep_replies(&done, &fates, settlement);
        let throw = self.dice.throw();
        // In reverse, because what goes again goes to the front.
        let whereto = |message: &Message| match self.sync(message.sync) {
            Some(sync) if sync.gate == Gate::Held => Whereto::Nowhere,
            Some(sync) if sync.destination != done.lane => Whereto::To(sync.destination),
            Some(_) => Whereto::Here,
            None => Whereto::Nowhere,
        };
        let open: Vec<Whereto> = done.messages.iter().map(whereto).collect();
        let mut moved = Vec::new();
        let Some(lane) = self.lanes.get_mut(&done.lane) else { return };
        for ((message, fate), whereto) in done.messages.into_iter().zip(fates).zip(open).rev() {
            let account = settlement.accounts.entry(message.sync).or_default();
            if done.shape.call.repeat == Repeat::Never {
                settlement.forgotten_retries.push(message.id);
            }
            match fate {
                Fate::Delivered | Fate::Duplicate => {
                    account.delivered += 1;
                    account.duplicate += i64::from(fate == Fate::Duplicate);
                    self.known.remove(&message.id);
                    lane.settled(message.payload.len());
                    leave(&message, settlement);
                }
                Fate::Rejected { reason } => {
                    account.rejected += 1;
                    account.last_error = Some(reason.clone());
                    self.known.remove(&message.id);
                    lane.settled(message.payload.len());
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
                _ if whereto != Whereto::Here => {
                    self.known.remove(&message.id);
                    lane.settled(message.payload.len());
                    match whereto {
                        Whereto::To(destination) => moved.push((destination, message.id)),
                        _ => widen(&mut self.paused, message.sync, message.id),
                    }
                }
                Fate::Resend => lane.resend(message, now),
                Fate::ResendAlone => lane.resend(Message { company: Company::Alone, ..message }, now),
                Fate::Return => {
                    account.last_error.clone_from(&why);
                    lane.resend(message, now);
                }
                Fate::Retry { reason } => {
                    let wait = backoff::wait(message.attempts + 1, throw);
                    account.last_error = Some(reason.clone());
                    settlement.retries.push(Again {
                        id: message.id,
                        attempts: message.attempts + 1,
                        wait,
                        why: reason,
                    });
                    lane.retry(message, now, wait);
                }
            }
        }
        for (destination, id) in moved {
            if let Some(lane) = self.lanes.get_mut(&destination) {
                lane.pass_over(id);
            }
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

fn leave(message: &Message, settlement: &mut Settlement) {
    settlement.gone.push(message.id);
    if message.attempts > 0 {
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
