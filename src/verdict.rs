//! Verdict: what a reply means for each message of a request. One pure table.
//!
//! Between sender and settle. It promises a fate for every message sent, and a sentence an operator
//! can act on whenever something is wrong; sentences hold statuses and Lago's error codes, never
//! what a row holds. The facts are Lago's server behaviour. Here is what holds for every call; what a
//! batch of events is answered is in [`events`], what any other call is answered in [`single`].
//!
//! A call that must not be repeated (a top-up, say) goes again only after an answer that proves that
//! Lago did nothing; else it is rejected, for somebody to look it up.
#![forbid(unsafe_code)]

mod events;
mod single;

use crate::call::Call;
use crate::endpoint::{Batch, Repeat};
use crate::lookup::LookUp;
use crate::message::{Message, Tried};
use serde_json::Value;
use std::time::Duration;

/// What came back from one request.
#[derive(Clone, Debug)]
pub enum Outcome {
    Reply(Reply),
    /// No reply: refused, reset, timed out, TLS. The text is the transport's, without the URL's secrets.
    Failed {
        why: String,
        sent: Sent,
    },
    /// No request: the destination's settings cannot be used.
    Unusable(String),
    /// No request: the message's path or its sync's headers do not make one.
    Impossible(String),
}

/// Whether a request without a reply may have reached Lago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    No,
    Perhaps,
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub body: Vec<u8>,
    /// How long the server asks to wait: `Retry-After`, or `X-RateLimit-Reset` of a 429; in seconds.
    pub wait: Option<Duration>,
    /// What the server says may still be asked of it, if it says so.
    pub allowance: Option<Allowance>,
}

/// `X-RateLimit-*`: how many requests the server takes before its window resets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// In a whole window.
    pub limit: Option<u32>,
    pub remaining: u32,
    /// Until the window resets.
    pub reset: Duration,
}

/// What becomes of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Delivered,
    /// Lago has it already: an earlier attempt whose reply was lost.
    Duplicate,
    /// Lago will never take it.
    Rejected {
        reason: String,
    },
    /// Refused only because of others in its batch: send again at once.
    Resend,
    /// Like [`Fate::Resend`], in a request of its own.
    ResendAlone,
    /// The whole request failed for what may be one message's fault: it goes again in two halves.
    Split,
    /// It was too large a request: as [`Fate::Split`], and later ones are no larger than its halves.
    SplitAndRemember,
    /// Failed by its own fault: send again later; the attempt counts, and the last one makes it final.
    Retry {
        reason: String,
    },
    /// Failed by nobody's fault that is known: send again later; no attempt counts.
    Wait {
        reason: String,
    },
    /// The answer does not tell enough: ask Lago about it.
    LookUp(LookUp),
    /// Failed by the destination's trouble: send again when that is over; no attempt counts.
    Return,
}

/// What the reply says of the destination as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    Well,
    /// An unexpected answer to this request; trouble if it goes on.
    Doubtful {
        why: String,
    },
    /// Nothing else is worth sending now. `wait` is what the server asked for, capped.
    Trouble {
        why: String,
        wait: Option<Duration>,
    },
    /// Nothing will be taken until somebody has put something right.
    Hold {
        why: String,
    },
}

impl Condition {
    /// What is wrong, if anything is.
    pub fn why(&self) -> Option<&str> {
        match self {
            Condition::Well => None,
            Condition::Doubtful { why } | Condition::Trouble { why, .. } | Condition::Hold { why } => {
                Some(why)
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// One per message sent, in order.
    pub fates: Vec<Fate>,
    pub condition: Condition,
}

impl Verdict {
    fn all(messages: usize, fate: Fate, condition: Condition) -> Verdict {
        Verdict { fates: vec![fate; messages], condition }
    }

    fn trouble(messages: usize, why: String, wait: Option<Duration>) -> Verdict {
        let wait = wait.map(|wait| wait.min(LONGEST_WAIT));
        Verdict::all(messages, Fate::Return, Condition::Trouble { why, wait })
    }
}

/// No server is believed that asks for a longer pause: Lago's windows are seconds long.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What is known of a message's attempts after one more.
pub fn tried(outcome: &Outcome, before: Tried) -> Tried {
    match outcome {
        Outcome::Failed { sent: Sent::Perhaps, .. } => Tried::Unanswered,
        Outcome::Reply(reply) if matches!(reply.status, 408 | 500..) => Tried::Unanswered,
        Outcome::Reply(_) if before == Tried::Never => Tried::Perhaps,
        _ => before,
    }
}

/// A message's last attempt makes a failure by its own fault final.
pub fn give_up(fate: Fate, attempts: u32, most_attempts: u32) -> Fate {
    match fate {
        Fate::Retry { reason } if attempts + 1 >= most_attempts => {
            Fate::Rejected { reason: format!("{reason}; given up after {} attempts", attempts + 1) }
        }
        fate => fate,
    }
}

/// Judges the outcome of a `call` with the messages `sent`.
pub fn judge(outcome: &Outcome, call: &Call, sent: &[Message]) -> Verdict {
    let messages = sent.len();
    let verdict = match outcome {
        Outcome::Failed { why, .. } => Verdict::trouble(messages, format!("no reply from Lago: {why}"), None),
        Outcome::Unusable(why) => {
            Verdict::trouble(messages, format!("the destination cannot be used: {why}"), None)
        }
        Outcome::Impossible(why) => {
            let reason = format!("the request cannot be made: {why}");
            Verdict::all(messages, Fate::Rejected { reason }, Condition::Well)
        }
        Outcome::Reply(reply) => {
            let special = match call.batch {
                Batch::UpTo { .. } => events::judge(reply, sent),
                Batch::One => single::judge(reply, call, messages),
            };
            special.unwrap_or_else(|| judge_any(reply, messages))
        }
    };
    match call.repeat {
        Repeat::Never if !proves_that_nothing_happened(outcome) => never_again(verdict),
        _ => verdict,
    }
}

/// What means the same for every call.
fn judge_any(reply: &Reply, messages: usize) -> Verdict {
    let trouble = |why: String| Verdict::trouble(messages, why, reply.wait);
    match reply.status {
        status @ 200..=299 => {
            let why = format!("the answer is {status} but not Lago's: check the destination's URL");
            Verdict::trouble(messages, why, None)
        }
        status @ 300..=399 => Verdict::trouble(
            messages,
            format!(
                "the answer is a redirect ({status}), which is not followed: give the destination its final URL"
            ),
            None,
        ),
        401 => Verdict::trouble(
            messages,
            "Lago does not know the API key (401): set it with lago_push.set_api_key".into(),
            None,
        ),
        403 => {
            let why = match code(&reply.body) {
                Some(code) => {
                    format!("the API key may not do this (403 {code}): give it that permission in Lago")
                }
                None => "the API key may not write events (403): give it that permission in Lago".into(),
            };
            Verdict::trouble(messages, why, None)
        }
        404 => Verdict::trouble(
            messages,
            "Lago knows no such path (404): check the destination's URL".into(),
            None,
        ),
        405 => {
            let why = "the answer is 405 but not Lago's: check the destination's URL";
            Verdict::trouble(messages, why.into(), None)
        }
        429 => trouble("Lago asks to slow down (429)".into()),
        status @ (408 | 502 | 503 | 504) => trouble(format!("Lago is not available ({status})")),
        status => {
            let reason = format!("Lago answered {}", answer(status, &reply.body));
            Verdict::all(
                messages,
                Fate::Retry { reason: reason.clone() },
                Condition::Doubtful { why: reason },
            )
        }
    }
}

/// Whether a request that is not settled by its answer can be repeated even if a second one would do
/// the same thing twice. When in doubt it cannot.
fn proves_that_nothing_happened(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Failed { sent, .. } => *sent == Sent::No,
        Outcome::Unusable(_) | Outcome::Impossible(_) => true,
        Outcome::Reply(reply) => match reply.status {
            // A web page: whoever answered, it was not Lago.
            200..=299 => first_character(&reply.body) == Some(b'<'),
            // Contention, before anything is written.
            422 => code(&reply.body).as_deref() == Some("lock_acquisition_failed"),
            300..=399 | 401 | 403 | 404 | 405 | 429 | 503 => true,
            _ => false,
        },
    }
}

/// What was to go again is rejected instead.
fn never_again(verdict: Verdict) -> Verdict {
    let why = verdict.condition.why().map(str::to_owned);
    let reject = |fate| {
        let why = match (&fate, &why) {
            (Fate::Delivered | Fate::Duplicate | Fate::Rejected { .. }, _) => return fate,
            (Fate::Retry { reason }, _) => reason.clone(),
            (_, Some(why)) => why.clone(),
            (_, None) => "no clear answer".into(),
        };
        Fate::Rejected {
            reason: format!(
                "the outcome is unknown: {why}; a second call might do it twice, so look it up in Lago before sending it again"
            ),
        }
    };
    Verdict { fates: verdict.fates.into_iter().map(reject).collect(), condition: verdict.condition }
}

fn first_character(body: &[u8]) -> Option<u8> {
    body.iter().copied().find(|byte| !byte.is_ascii_whitespace())
}

/// Whether a body is a JSON object that begins with one of these keys. It may be cut off after that:
/// Lago writes its answer when it has done its work.
fn begins_with_key(body: &[u8], keys: &[&str]) -> bool {
    let longest = keys.iter().map(|key| key.len() + 4).max().unwrap_or(0);
    let text: Vec<u8> =
        body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).take(longest).collect();
    keys.iter().any(|key| text.starts_with(format!("{{\"{key}\":").as_bytes()))
}

/// Lago's error code.
fn code(body: &[u8]) -> Option<String> {
    let reply: Value = serde_json::from_slice(body).ok()?;
    reply.get("code")?.as_str().map(str::to_owned)
}

/// Status and code, for a sentence.
fn answer(status: u16, body: &[u8]) -> String {
    code(body).map_or_else(|| status.to_string(), |code| format!("{status} {code}"))
}

/// The error codes below one field, one after the other; below fields within fields, each with its
/// place.
fn codes(value: &Value) -> Vec<String> {
    match value {
        Value::Array(values) => values.iter().flat_map(codes).collect(),
        Value::String(code) => vec![code.clone()],
        Value::Object(fields) => vec![by_field(fields)],
        other => vec![other.to_string()],
    }
}

/// "field: code, code; field: code".
fn by_field(fields: &serde_json::Map<String, Value>) -> String {
    let all: Vec<String> =
        fields.iter().map(|(field, value)| format!("{field}: {}", codes(value).join(", "))).collect();
    all.join("; ")
}

/// Whether an error is nothing but the news that Lago has this already, in `field`.
fn exists_already(fields: &serde_json::Map<String, Value>, field: &str) -> bool {
    fields.len() == 1 && fields.get(field).is_some_and(|value| codes(value) == ["value_already_exist"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(payloads: &[&str]) -> Vec<Message> {
        (1..).zip(payloads).map(|(id, payload)| Message::sample(id, payload)).collect()
    }

    fn three() -> Vec<Message> {
        sent(&[r#"{"transaction_id":"a"}"#, r#"{"transaction_id":"b"}"#, r#"{"transaction_id":"c"}"#])
    }

    fn events() -> Call {
        Call::of("event", None, None, None).expect("in the catalogue")
    }

    fn reply(status: u16, body: &str) -> Verdict {
        judge(
            &Outcome::Reply(Reply { status, body: body.into(), wait: None, allowance: None }),
            &events(),
            &three(),
        )
    }

    fn refusal(details: &str) -> Verdict {
        reply(
            422,
            &format!(
                r#"{{"status":422,"error":"Unprocessable Entity","code":"validation_errors","error_details":{details}}}"#
            ),
        )
    }

    fn rejected(reason: &str) -> Fate {
        Fate::Rejected { reason: reason.into() }
    }

    #[test]
    fn a_200_with_events_delivers_the_whole_batch() {
        assert_eq!(reply(200, r#"{"events":[{},{},{}]}"#).fates, vec![Fate::Delivered; 3]);
        assert_eq!(
            reply(200, "{ \"events\" : [{\"lago_id\":\"1a90").fates,
            vec![Fate::Delivered; 3],
            "cut off on the way"
        );
    }

    #[test]
    fn a_200_that_is_not_lagos_delivers_nothing() {
        for body in ["", "<html>sign in</html>", "{}", r#"{"event":{}}"#] {
            let verdict = reply(200, body);
            assert_eq!(verdict.fates, vec![Fate::Return; 3], "{body}");
            assert!(matches!(verdict.condition, Condition::Trouble { .. }));
        }
    }

    #[test]
    fn an_index_map_settles_the_flagged_and_resends_the_rest() {
        let verdict = refusal(r#"{"1":{"transaction_id":["value_already_exist"]}}"#);
        assert_eq!(verdict.fates, [Fate::Resend, Fate::Duplicate, Fate::Resend]);
        assert_eq!(verdict.condition, Condition::Well);
        let verdict = refusal(
            r#"{"0":"expression_evaluation_failed: Variable: foo not found","2":{"timestamp":["invalid_format"]}}"#,
        );
        assert_eq!(
            verdict.fates,
            [
                rejected("expression_evaluation_failed: Variable: foo not found"),
                Fate::Resend,
                rejected("timestamp: invalid_format")
            ]
        );
    }

    #[test]
    fn a_duplicate_that_has_another_fault_is_rejected() {
        let verdict =
            refusal(r#"{"0":{"transaction_id":["value_already_exist"],"code":["value_is_mandatory"]}}"#);
        assert_eq!(
            verdict.fates[0],
            rejected("transaction_id: value_already_exist; code: value_is_mandatory")
        );
    }

    #[test]
    fn twins_in_one_request_are_asked_about_one_by_one() {
        let sent = sent(&[
            r#"{"transaction_id":"a","external_subscription_id":"1"}"#,
            r#"{"transaction_id":"a","external_subscription_id":"2"}"#,
        ]);
        let body = r#"{"status":422,"code":"validation_errors","error_details":{"1":{"transaction_id":["value_already_exist"]}}}"#;
        let verdict = judge(
            &Outcome::Reply(Reply { status: 422, body: body.into(), wait: None, allowance: None }),
            &events(),
            &sent,
        );
        assert_eq!(verdict.fates, [Fate::Resend, Fate::ResendAlone]);
    }

    #[test]
    fn a_422_that_names_no_event_never_resends_the_same_batch_at_once() {
        for details in [r#"{"events":["too_many_events"]}"#, r#""text""#, "null", "{}", r#"{"7":{}}"#] {
            assert!(
                refusal(details).fates.iter().all(|fate| matches!(fate, Fate::Retry { .. })),
                "{details}"
            );
        }
        let alone = judge(
            &Outcome::Reply(Reply { status: 422, body: b"not json".into(), wait: None, allowance: None }),
            &events(),
            &three()[..1],
        );
        assert!(matches!(alone.fates[..], [Fate::Rejected { .. }]), "alone, there is nothing left to try");
    }

    #[test]
    fn the_destinations_trouble_costs_no_attempt() {
        for status in [301, 401, 403, 404, 408, 429, 502, 503, 504] {
            let verdict = reply(status, "<html></html>");
            assert_eq!(verdict.fates, vec![Fate::Return; 3], "{status}");
            assert!(matches!(verdict.condition, Condition::Trouble { .. }), "{status}");
        }
        for outcome in [
            Outcome::Failed { why: "connection refused".into(), sent: Sent::Perhaps },
            Outcome::Unusable("no file".into()),
        ] {
            assert_eq!(judge(&outcome, &events(), &three()).fates, vec![Fate::Return; 3]);
        }
    }

    #[test]
    fn anything_else_is_retried_and_counts() {
        for status in [400, 413, 418, 500] {
            let verdict = reply(status, "");
            assert!(verdict.fates.iter().all(|fate| matches!(fate, Fate::Retry { .. })), "{status}");
            assert!(matches!(verdict.condition, Condition::Doubtful { .. }), "{status}");
        }
    }

    #[test]
    fn a_server_may_ask_for_a_pause_but_not_for_ever() {
        let asked = |seconds| {
            Outcome::Reply(Reply {
                status: 429,
                body: vec![],
                wait: Some(Duration::from_secs(seconds)),
                allowance: None,
            })
        };
        let wait = |seconds| match judge(&asked(seconds), &events(), &three()).condition {
            Condition::Trouble { wait, .. } => wait,
            other => panic!("{other:?}"),
        };
        assert_eq!(wait(7), Some(Duration::from_secs(7)));
        assert_eq!(wait(86_400), Some(LONGEST_WAIT));
    }
}
