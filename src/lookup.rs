//! Look-up: what is asked of Lago about a single message when its answer to the call itself does not
//! tell enough.
//!
//! Beside the verdict. Pure. It promises that nothing counts as delivered that Lago was not seen to
//! have, and that no message is given up for what is the destination's trouble. [`event`] compares an
//! event with Lago's, [`top_up`] finds a top-up by the mark it was given at capture.
#![forbid(unsafe_code)]

mod event;
#[cfg(test)]
mod tests;
mod top_up;

pub use event::segment_of_id;
pub use top_up::MARK;

use crate::call::Call;
use crate::message::{Message, Tried};
use crate::verdict::answer::{self, in_short, is_lagos_error};
use crate::verdict::{self, Condition, Fate, Outcome, Reply, Verdict};
use event::Likeness;
use serde_json::{Map, Value};
use std::time::Duration;

/// A question, and what raised it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookUp {
    pub question: Question,
    /// What Lago answered to the call itself, in a sentence.
    pub reason: String,
    /// How long to wait before it is asked.
    pub wait: Duration,
    /// How often it was asked in vain while Lago was well.
    pub asked: usize,
    route: Route,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether the event that Lago has under this id is this one.
    SameEvent(Cause),
    /// The same, among the events of its subscription: an id may be used once in each. Lago shows them in
    /// pages.
    SameEventOfSubscription { cause: Cause, page: u32 },
    /// Whether a top-up took place.
    TopUp,
    /// Whether Lago is well, so that it is this message it fails at.
    Health,
}

/// What raised a question about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Lago says it has the id already. What was known of earlier attempts then.
    Duplicate(Tried),
    /// Lago failed, and may have taken the event or not.
    Failure,
}

/// What the next request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Question,
    /// Lago failed at the question: first it is seen whether it fails at everything.
    Health,
}

/// How long to wait before each time a question is asked again: a minute in all, because a call whose
/// reply was lost may still be under way, and no server works on one for longer.
const WAITS: [Duration; 4] =
    [Duration::from_secs(2), Duration::from_secs(8), Duration::from_secs(20), Duration::from_secs(30)];

/// An event nobody has: Lago says so if it is well.
const HEALTH: &str = "/events/lago_push";

/// Pages of a subscription's events within milliseconds that are looked through.
const MOST_PAGES: u32 = 50;

/// The question about a call that must not be made twice, begun by a worker that did not live to see its
/// end; none if Lago cannot be asked.
pub fn after_loss(call: &Call, message: &Message) -> Option<LookUp> {
    LookUp::top_up(call, message, "the worker ended while the call was under way".into())
}

/// What becomes of an event whose id Lago has already when Lago cannot be asked whose it is.
pub fn unverified(tried: Tried, why: &str) -> Fate {
    match tried {
        Tried::Never => Fate::Rejected {
            reason: format!(
                "id collision, not verified: Lago has this transaction_id already, and {why}; look at the event in Lago: lago_push.discard() this one if it is the same, else send it anew under another transaction_id"
            ),
        },
        Tried::Perhaps | Tried::Unanswered => Fate::Duplicate,
    }
}

impl LookUp {
    /// Whether Lago has this very event; none if the event has no id that can be asked for.
    pub fn same_event(cause: Cause, message: &Message, reason: String) -> Option<LookUp> {
        event::path_of_id(message)?;
        Some(LookUp::new(Question::SameEvent(cause), reason, Duration::ZERO))
    }

    /// Whether a top-up took place; none for any other call, and for one without a mark.
    pub fn top_up(call: &Call, message: &Message, reason: String) -> Option<LookUp> {
        top_up::path(call, message)?;
        let [first, ..] = WAITS;
        Some(LookUp::new(Question::TopUp, reason, first))
    }

    /// Whether Lago is well.
    pub fn health(reason: String) -> LookUp {
        LookUp::new(Question::Health, reason, Duration::ZERO)
    }

    fn new(question: Question, reason: String, wait: Duration) -> LookUp {
        LookUp { question, reason, wait, asked: 0, route: Route::Question }
    }

    /// Path and query below the destination's URL, of a `GET`.
    pub fn path(&self, call: &Call, message: &Message) -> String {
        let path = match (self.route, self.question) {
            (Route::Health, _) | (_, Question::Health) => None,
            (_, Question::SameEvent(_)) => event::path_of_id(message),
            (_, Question::SameEventOfSubscription { page, .. }) => event::path_of_subscription(message, page),
            (_, Question::TopUp) => top_up::path(call, message),
        };
        // No question is raised whose path cannot be made.
        path.unwrap_or_else(|| HEALTH.into())
    }

    /// Judges what came back.
    pub fn judge(&self, outcome: &Outcome, message: &Message) -> Verdict {
        if let Some(condition) = verdict::silence(outcome) {
            return self.kept(condition);
        }
        let Outcome::Reply(reply) = outcome else {
            return settled(self.unanswered("the question cannot be sent with the sync's headers"));
        };
        if let Some(condition) = verdict::any::standing(reply) {
            // Lago itself answered the call a moment ago: it is only reads that are not let through.
            if matches!(reply.status, 403..=405) && self.lago_was_seen() {
                return settled(self.in_vain(&format!(
                    "what stands before Lago does not let it be asked ({})",
                    reply.status
                )));
            }
            return self.kept(condition);
        }
        match (Answer::of(reply), self.route, self.question) {
            (Answer::None, Route::Question, Question::SameEvent(Cause::Failure)) => {
                self.doubtful(reply, LookUp { question: Question::Health, ..self.clone() })
            }
            (
                Answer::None,
                Route::Question,
                Question::SameEvent(_) | Question::SameEventOfSubscription { .. } | Question::TopUp,
            ) => self.doubtful(reply, LookUp { route: Route::Health, wait: Duration::ZERO, ..self.clone() }),
            (Answer::None, ..) => {
                let why = format!(
                    "Lago is not well: asked for an event, it answered {}",
                    in_short(reply.status, &reply.body)
                );
                self.kept(Condition::Trouble { why, wait: None })
            }
            (_, _, Question::Health) => settled(self.retry()),
            (_, Route::Health, _) => settled(self.in_vain("Lago fails when it is asked for it")),
            (answer, Route::Question, Question::SameEvent(cause)) => {
                settled(self.judge_event(answer, cause, message))
            }
            (answer, Route::Question, Question::SameEventOfSubscription { cause, page }) => {
                settled(self.judge_subscription(answer, cause, page, message))
            }
            (answer, Route::Question, Question::TopUp) => settled(self.judge_top_up(answer, message)),
        }
    }

    fn judge_event(&self, answer: Answer, cause: Cause, message: &Message) -> Fate {
        match answer {
            Answer::Object(body) => match body.get("event").map(|found| event::likeness(message, found)) {
                Some(Likeness::Same) => Fate::Duplicate,
                Some(Likeness::OtherSubscription) => self.next_page(cause, 1),
                Some(Likeness::Other(what)) => self.collision(cause, &format!("another event with this transaction_id (its {what})")),
                Some(Likeness::OtherId) | None => self.unanswered("Lago shows another event when it is asked for it"),
            },
            Answer::Error { code, .. } if code.as_deref() == Some("event_not_found") => match cause {
                Cause::Failure => self.retry(),
                Cause::Duplicate(_) => Fate::Rejected {
                    reason: "id collision: Lago had an event with this transaction_id, which was deleted there, and its id stays taken; lago_push.discard() this one if that was meant, else send it anew under another transaction_id".into(),
                },
            },
            Answer::Error { status, code } => self.unanswered(&refusal(status, code.as_deref(), "events")),
            Answer::None => self.unanswered("Lago does not say"),
        }
    }

    fn judge_subscription(&self, answer: Answer, cause: Cause, page: u32, message: &Message) -> Fate {
        let body = match answer {
            Answer::Object(body) => body,
            Answer::Error { status, code } => {
                return self.unanswered(&refusal(status, code.as_deref(), "events"));
            }
            Answer::None => return self.unanswered("Lago does not say"),
        };
        let Some(found) = body.get("events").and_then(Value::as_array) else {
            return self.unanswered("Lago lists no events when it is asked for them");
        };
        if found.iter().any(|found| event::likeness(message, found) == Likeness::Same) {
            return Fate::Duplicate;
        }
        if !has_next_page(&body) {
            return self.collision(
                cause,
                "this transaction_id in this subscription, and no event with this code and timestamp",
            );
        }
        if page >= MOST_PAGES {
            return self.unanswered("there are too many events at its timestamp to look through");
        }
        self.next_page(cause, page + 1)
    }

    fn judge_top_up(&self, answer: Answer, message: &Message) -> Fate {
        match answer {
            Answer::Object(body) => match body.get("wallet_transactions").and_then(Value::as_array) {
                Some(found) if top_up::is_among(message, found) => Fate::Delivered,
                Some(_) => self.in_vain("Lago shows no such transaction"),
                None => self.in_vain("Lago lists no transactions when it is asked for them"),
            },
            Answer::Error { status: 403, code } => {
                self.unanswered(&refusal(403, code.as_deref(), "wallet transactions"))
            }
            Answer::Error { status, code } => {
                self.in_vain(&refusal(status, code.as_deref(), "wallet transactions"))
            }
            Answer::None => self.in_vain("Lago does not say"),
        }
    }

    fn next_page(&self, cause: Cause, page: u32) -> Fate {
        let question = Question::SameEventOfSubscription { cause, page };
        Fate::LookUp(LookUp { question, wait: Duration::ZERO, ..self.clone() })
    }

    /// Lago has something else under the id.
    fn collision(&self, cause: Cause, what: &str) -> Fate {
        match cause {
            // Whether this event is refused for it, the next attempt shows.
            Cause::Failure => self.retry(),
            Cause::Duplicate(_) => Fate::Rejected {
                reason: format!(
                    "id collision: Lago has {what}; this one is not billed: have the template give each event an id of its own, send this one anew under another, and lago_push.discard() it here"
                ),
            },
        }
    }

    /// Lago is well: the message fails by its own fault.
    fn retry(&self) -> Fate {
        Fate::Retry { reason: self.reason.clone() }
    }

    /// The answer did not help this time; another time it may.
    fn in_vain(&self, why: &str) -> Fate {
        let asked = self.asked + 1;
        match WAITS.get(asked) {
            Some(wait) => Fate::LookUp(LookUp { asked, wait: *wait, route: Route::Question, ..self.clone() }),
            None => self.unanswered(why),
        }
    }

    /// Lago will not answer this question.
    fn unanswered(&self, why: &str) -> Fate {
        match self.question {
            Question::SameEvent(Cause::Duplicate(tried))
            | Question::SameEventOfSubscription { cause: Cause::Duplicate(tried), .. } => {
                unverified(tried, why)
            }
            Question::SameEvent(Cause::Failure)
            | Question::SameEventOfSubscription { cause: Cause::Failure, .. }
            | Question::Health => self.retry(),
            Question::TopUp => Fate::Rejected {
                reason: format!(
                    "the outcome is unknown: {}; asked for up to a minute, {why}; look at the wallet in Lago, and lago_push.redrive() it if the top-up is not there, else lago_push.discard() it",
                    self.reason
                ),
            },
        }
    }

    /// The destination's trouble: the question stays. What Lago failed at may simply be sent again.
    fn kept(&self, condition: Condition) -> Verdict {
        let fate = match self.question {
            Question::SameEvent(Cause::Failure)
            | Question::SameEventOfSubscription { cause: Cause::Failure, .. }
            | Question::Health => Fate::Return,
            Question::SameEvent(Cause::Duplicate(_))
            | Question::SameEventOfSubscription { cause: Cause::Duplicate(_), .. }
            | Question::TopUp => {
                Fate::LookUp(LookUp { wait: Duration::ZERO, route: Route::Question, ..self.clone() })
            }
        };
        Verdict::all(1, fate, condition)
    }

    fn doubtful(&self, reply: &Reply, next: LookUp) -> Verdict {
        let why =
            format!("Lago answered {} to a question about a message", in_short(reply.status, &reply.body));
        Verdict::all(1, Fate::LookUp(next), Condition::Doubtful { why })
    }

    /// Whether what raised the question is an answer that only Lago gives.
    fn lago_was_seen(&self) -> bool {
        matches!(
            self.question,
            Question::SameEvent(Cause::Duplicate(_))
                | Question::SameEventOfSubscription { cause: Cause::Duplicate(_), .. }
        )
    }
}

fn settled(fate: Fate) -> Verdict {
    Verdict::all(1, fate, Condition::Well)
}

/// What Lago says to a question.
#[derive(Debug)]
enum Answer {
    Object(Map<String, Value>),
    /// An error of Lago's that is not a failure: it is well.
    Error {
        status: u16,
        code: Option<String>,
    },
    /// A failure, or nothing of Lago's.
    None,
}

impl Answer {
    fn of(reply: &Reply) -> Answer {
        match reply.status {
            200 => answer::object(&reply.body).map_or(Answer::None, Answer::Object),
            status @ 400..=499 if is_lagos_error(status, &reply.body) => {
                Answer::Error { status, code: answer::code(&reply.body) }
            }
            _ => Answer::None,
        }
    }
}

/// Why Lago does not show what it is asked for.
fn refusal(status: u16, code: Option<&str>, what: &str) -> String {
    let answer = code.map_or_else(|| status.to_string(), |code| format!("{status} {code}"));
    match status {
        403 => format!("the API key may not read {what} ({answer}): give it that permission in Lago"),
        _ => format!("Lago does not show it ({answer})"),
    }
}

/// Lago's lists come in pages.
fn has_next_page(body: &Map<String, Value>) -> bool {
    body.get("meta").and_then(|meta| meta.get("next_page")).is_some_and(|next| !next.is_null())
}
