//! What an answer means whatever the call: it is about the destination, or nobody knows what it is about.
//!
//! Between what a kind of call is answered in particular and the worker. It promises that what a key, a
//! URL or a gateway is to blame for costs no message an attempt, and that what one message may be to
//! blame for holds up no other for long.
#![forbid(unsafe_code)]

use super::answer::{code, in_short, is_lagos_error};
use super::{Condition, Fate, Reply, THROTTLED_BY_PROVIDER, Verdict};
use crate::call::{Call, Category};
use crate::lookup::{Cause, LookUp};
use crate::message::Message;

/// Judges what neither a batch nor a single call has a meaning of its own for.
pub fn judge(reply: &Reply, call: &Call, sent: &[Message]) -> Verdict {
    if let Some(condition) = standing(reply) {
        return Verdict::returned(sent.len(), condition);
    }
    let answer = in_short(reply.status, &reply.body);
    let is_lagos = is_lagos_error(reply.status, &reply.body);
    let fate = match (reply.status, code(&reply.body).as_deref()) {
        (200..=299, _) => {
            let why = format!(
                "the answer is {} but not Lago's: check the URL, and what stands before Lago; lago_push.alter_destination() corrects the URL",
                reply.status
            );
            return Verdict::returned(sent.len(), Condition::trouble(why, reply.wait));
        }
        (403, code) => {
            let what = match code {
                Some(code) => format!("this (403 {code})"),
                None => "this (403)".into(),
            };
            let why = format!(
                "the API key may not do {what}: give it that permission in Lago, or set another key with lago_push.set_api_key(); then lago_push.release() the destination"
            );
            return Verdict::returned(sent.len(), Condition::Hold { why });
        }
        (404, None | Some("resource_not_found")) => {
            let why = format!(
                "Lago knows no such path ({answer}): correct the URL with lago_push.alter_destination(), then lago_push.release() the destination"
            );
            return Verdict::returned(sent.len(), Condition::Hold { why });
        }
        (404, Some(_)) => alone_or(sent, || Fate::Retry { reason: missing(&answer) }),
        (405, _) => alone_or(sent, || rejected(refused(&answer))),
        (413, _) if sent.len() > 1 => Fate::SplitAndRemember,
        (413, _) => rejected(format!(
            "Lago answered {answer}: the request is too large even alone; shorten what the sync sends, or allow more in the proxy before Lago and lago_push.redrive() it"
        )),
        (429, Some(THROTTLED_BY_PROVIDER)) => Fate::Wait {
            reason: format!(
                "Lago answered {answer}: a provider it depends on asks it to slow down; it goes again by itself"
            ),
        },
        (400..=499, _) if is_lagos => alone_or(sent, || rejected(unreadable(&answer))),
        _ => return unexplained(reply, call, sent),
    };
    Verdict::all(sent.len(), fate, Condition::Well)
}

/// What an answer says of the destination, whatever was asked; none if that is not what it is about.
pub fn standing(reply: &Reply) -> Option<Condition> {
    let status = reply.status;
    let foreign = || !is_lagos_error(status, &reply.body);
    let (why, wait) = match status {
        300..=399 => (
            format!(
                "the answer is a redirect ({status}), and redirects are not followed: give the destination its final URL with lago_push.alter_destination()"
            ),
            None,
        ),
        401 => {
            let why = "Lago does not know the API key (401): set the right one with lago_push.set_api_key(), then lago_push.release() the destination";
            return Some(Condition::Hold { why: why.into() });
        }
        403..=405 if foreign() => {
            let why = format!(
                "the answer is {status} but not Lago's: correct the URL with lago_push.alter_destination(), or what stands before Lago, then lago_push.release() the destination"
            );
            return Some(Condition::Hold { why });
        }
        429 if code(&reply.body).as_deref() != Some(THROTTLED_BY_PROVIDER) => (
            "Lago asks to slow down (429): it goes on by itself; a rate_limit for the destination avoids it"
                .into(),
            reply.wait.or(reply.allowance.map(|allowance| allowance.reset)),
        ),
        408 | 502..=504 => {
            (format!("Lago is not available ({status}): it is tried again by itself"), reply.wait)
        }
        _ => return None,
    };
    Some(Condition::trouble(why, wait))
}

/// A server's crash, or an answer Lago never gives: one payload may be what it fails at, so that the
/// request is halved until one message is left, and then Lago is asked whether it is well.
fn unexplained(reply: &Reply, call: &Call, sent: &[Message]) -> Verdict {
    let answer = in_short(reply.status, &reply.body);
    let reason = match reply.status {
        500.. => format!(
            "Lago answered {answer}: if it takes others, look in this one for what it cannot store, such as a number or time out of range, an id of kilobytes, the character U+0000"
        ),
        _ => format!(
            "the answer is {answer} and not Lago's: see what stands between here and Lago, and what it may dislike about this message"
        ),
    };
    let doubt = |next: &str| Condition::Doubtful { why: format!("the answer is {answer}: {next}") };
    let [message] = sent else {
        let condition = doubt("the request is halved, in case one message is to blame");
        return Verdict::all(sent.len(), Fate::Split, condition);
    };
    let condition = doubt("Lago is asked whether it is well, in case this message is to blame");
    let same = match call.category() {
        Category::Events => LookUp::same_event(Cause::Failure, message, reason.clone()),
        Category::Other => None,
    };
    Verdict::all(1, Fate::LookUp(same.unwrap_or_else(|| LookUp::health(reason))), condition)
}

/// What one message of several may be to blame for is asked again of each.
pub fn alone_or(sent: &[Message], single: impl FnOnce() -> Fate) -> Fate {
    if sent.len() > 1 { Fate::ResendAlone } else { single() }
}

pub fn rejected(reason: String) -> Fate {
    Fate::Rejected { reason }
}

/// The sentence about something that does not exist, yet.
pub fn missing(answer: &str) -> String {
    format!(
        "Lago answered {answer}: it does not have what the payload or the path names; create it there, or correct the row"
    )
}

/// The sentence about a rule of Lago's business.
pub fn refused(answer: &str) -> String {
    format!(
        "Lago answered {answer}: its rules forbid this as things stand; change what stands against it in Lago and lago_push.redrive() it, or lago_push.discard() it"
    )
}

/// The sentence about a request that cannot be read.
pub fn unreadable(answer: &str) -> String {
    format!(
        "Lago answered {answer}: it cannot read the request; check the sync's template, root, path and headers in lago_push.preview(), and what stands before Lago"
    )
}
