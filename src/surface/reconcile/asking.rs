//! Asking: the questions of a reconciliation, put from the session that calls, one at a time.

use super::Refusal;
use crate::backoff::{self, Dice};
use crate::destination;
use crate::lookup::segment_of_id;
use crate::pg::process;
use crate::reconcile::answer::{self, Blame, Next, Stop};
use crate::reconcile::event::Shown;
use crate::reconcile::listing::{Pages, Turned};
use crate::reconcile::pace::Pace;
use crate::request::Shape;
use crate::sender::{Errand, Job, Senders, Transport};
use crate::sync::Stored;
use crate::verdict::{Outcome, Reply};
use pgrx::prelude::*;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Failures in a row that are waited out: about six seconds in all.
const MOST_FAILURES: u32 = 6;
/// Refusals in a row for asking too much.
const MOST_REFUSALS: u32 = 60;
/// No server has to be waited for longer between two questions.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

pub struct Asker {
    senders: Senders,
    transport: Arc<Transport>,
    shape: Arc<Shape>,
    lane: i32,
    pace: Pace,
    dice: Dice,
}

impl Asker {
    pub fn new(stored: &Stored) -> Result<Asker, Refusal> {
        let fault = |why: String| Refusal {
            code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            message: format!("the destination of sync \"{}\" cannot be asked", stored.name),
            detail: Some(why),
            hint: "See lago_push.destinations.".into(),
        };
        let call = stored.call().map_err(fault)?;
        let directory = destination::read().map_err(|error| fault(error.to_string()))?;
        let destination =
            directory.destinations.get(&stored.destination).ok_or_else(|| fault("It is gone.".into()))?;
        let shape = Shape { call, headers: destination::headers(Some(stored.headers.clone())) };
        Ok(Asker {
            senders: Senders::new().map_err(|error| fault(error.kind().to_string()))?,
            transport: Arc::new(Transport::new(destination.route.clone())),
            shape: Arc::new(shape),
            lane: stored.destination,
            pace: Pace::new(destination.limits.rate, Instant::now()),
            dice: Dice::new(process::now().unsigned_abs()),
        })
    }

    /// The event Lago shows for an id, if any.
    pub fn event(&mut self, transaction_id: &str) -> Result<Option<Shown>, Stop> {
        // An id that no path can hold is not asked for.
        let Some(segment) = segment_of_id(transaction_id) else { return Ok(None) };
        answer::event(&self.get(&format!("/events/{segment}"))?)
    }

    /// Asks until there is an answer, or no more sense in asking.
    fn get(&mut self, path: &str) -> Result<Reply, Stop> {
        let (mut failures, mut refusals) = (0, 0);
        loop {
            pause(self.pace.wait(Instant::now()));
            self.pace.asks(Instant::now());
            let outcome = self.ask_once(path)?;
            if let Outcome::Reply(reply) = &outcome {
                self.pace.hears(reply.allowance, Instant::now());
            }
            let wait = match answer::next(&outcome) {
                Next::Read(reply) => return Ok(reply.clone()),
                Next::GiveUp(stop) => return Err(stop),
                Next::SlowDown(wait) => {
                    refusals += 1;
                    if refusals > MOST_REFUSALS {
                        return Err(in_vain("Lago goes on asking to slow down (429).".into()));
                    }
                    wait.unwrap_or_else(|| backoff::wait(refusals, self.dice.throw()))
                }
                Next::AskAgain { why, wait } => {
                    failures += 1;
                    if failures > MOST_FAILURES {
                        return Err(in_vain(why));
                    }
                    wait.unwrap_or_else(|| backoff::wait(failures, self.dice.throw()))
                }
            };
            pause(wait.min(LONGEST_WAIT));
        }
    }

    fn ask_once(&mut self, path: &str) -> Result<Outcome, Stop> {
        let job = Job {
            lane: self.lane,
            transport: Arc::clone(&self.transport),
            shape: Arc::clone(&self.shape),
            messages: Vec::new(),
            errand: Errand::Ask(path.to_owned()),
        };
        self.senders.send(job).map_err(|_| in_vain("No thread could be started.".into()))?;
        // Cancelling leaves by unwinding; the thread ends with its request, and nobody asks for its reply.
        loop {
            match self.senders.take_done() {
                Some(done) => return Ok(done.outcome),
                None => process::wait_for_bell(self.senders.descriptor()),
            }
        }
    }
}

impl Pages for Asker {
    type Stop = Stop;

    fn turn(&mut self, path: &str) -> Result<Turned, Stop> {
        answer::page(&self.get(path)?.body)
    }

    fn too_large(&self) -> Stop {
        Stop {
            blame: Blame::Lago,
            why: "One event alone makes an answer of more than 4 MB.".into(),
            hint: "Leave its period out.".into(),
        }
    }
}

fn in_vain(why: String) -> Stop {
    Stop {
        blame: Blame::Lago,
        why,
        hint: "Call again when Lago is well; lago_push.destinations shows how deliveries fare.".into(),
    }
}

/// Waits; can be cancelled.
pub fn pause(time: Duration) {
    process::wait_until(time, || false);
}
