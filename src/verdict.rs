//! Verdict: what a reply means for each message of a request. One pure table.
//!
//! Between sender and settle. It promises a fate for every message sent, and a sentence an operator
//! can act on whenever something is wrong; sentences hold statuses and Lago's error codes, never
//! what a row holds. The facts are Lago's server behaviour: a batch is all or nothing; a 422 maps
//! the index of each offending event to its errors and looks for duplicates only when nothing else
//! is wrong, so a batch may need two rounds; an event already stored is a 422 on Lago's PostgreSQL
//! store and a 200 on its ClickHouse store.
#![forbid(unsafe_code)]

use serde_json::Value;
use std::collections::HashMap;
use std::time::Duration;

/// What came back from one request.
#[derive(Clone, Debug)]
pub enum Outcome {
    Reply(Reply),
    /// No reply: refused, reset, timed out, TLS. The text is the transport's, without the URL's secrets.
    Failed(String),
    /// No request: the destination's settings cannot be used.
    Unusable(String),
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub body: Vec<u8>,
    /// How long the server asks to wait: `Retry-After`, or `X-RateLimit-Reset` of a 429; in seconds.
    pub wait: Option<Duration>,
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
    /// Failed by what may be its own fault: send again later; the attempt counts.
    Retry {
        reason: String,
    },
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
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// One per message sent, in order.
    pub fates: Vec<Fate>,
    pub condition: Condition,
}

/// No server is believed that asks for a longer pause: Lago's windows are seconds long.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Judges the outcome of a `POST /events/batch` with the messages `sent`.
pub fn judge(outcome: &Outcome, sent: &[&str]) -> Verdict {
    let all = |fate: Fate, condition| Verdict { fates: vec![fate; sent.len()], condition };
    let trouble = |why: String, wait| all(Fate::Return, Condition::Trouble { why, wait });
    let reply = match outcome {
        Outcome::Reply(reply) => reply,
        Outcome::Failed(why) => return trouble(format!("no reply from Lago: {why}"), None),
        Outcome::Unusable(why) => return trouble(format!("the destination cannot be used: {why}"), None),
    };
    match reply.status {
        200 if is_events(&reply.body) => all(Fate::Delivered, Condition::Well),
        200..=299 => trouble(
            format!("the answer is {} but not Lago's: check the destination's URL", reply.status),
            None,
        ),
        422 => judge_refusal(&reply.body, sent),
        300..=399 => trouble(
            format!(
                "the answer is a redirect ({}), which is not followed: give the destination its final URL",
                reply.status
            ),
            None,
        ),
        401 => {
            trouble("Lago does not know the API key (401): set it with lago_push.set_api_key".into(), None)
        }
        403 => {
            trouble("the API key may not write events (403): give it that permission in Lago".into(), None)
        }
        404 => trouble("Lago knows no such path (404): check the destination's URL".into(), None),
        429 => trouble("Lago asks to slow down (429)".into(), reply.wait.map(|wait| wait.min(LONGEST_WAIT))),
        status @ (408 | 502 | 503 | 504) => trouble(
            format!("Lago is not available ({status})"),
            reply.wait.map(|wait| wait.min(LONGEST_WAIT)),
        ),
        status => {
            let reason = format!("Lago answered {status}{}", code_of(&reply.body));
            all(Fate::Retry { reason: reason.clone() }, Condition::Doubtful { why: reason })
        }
    }
}

/// A body cut off after its beginning still proves that Lago stored the events: it serializes them
/// after the insert.
fn is_events(body: &[u8]) -> bool {
    let text: Vec<u8> = body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).take(10).collect();
    text.starts_with(b"{\"events\":")
}

fn code_of(body: &[u8]) -> String {
    let reply: Option<Value> = serde_json::from_slice(body).ok();
    let code = reply.as_ref().and_then(|reply| reply.get("code")).and_then(Value::as_str);
    code.map_or(String::new(), |code| format!(" {code}"))
}

fn judge_refusal(body: &[u8], sent: &[&str]) -> Verdict {
    let flags = flags(body, sent.len());
    if flags.is_empty() {
        let reason = format!("Lago answered 422{} and named no event", code_of(body));
        let fate = match sent.len() {
            1 => Fate::Rejected { reason: reason.clone() },
            _ => Fate::Retry { reason: reason.clone() },
        };
        return Verdict { fates: vec![fate; sent.len()], condition: Condition::Doubtful { why: reason } };
    }
    let twins = if flags.values().any(|flag| *flag == Flag::Duplicate) {
        twins(sent)
    } else {
        vec![false; sent.len()]
    };
    let fates = (0..sent.len())
        .map(|index| match flags.get(&index) {
            None => Fate::Resend,
            // Lago compares ids within a request without their subscriptions, so a twin may be
            // flagged although it is stored nowhere: only an answer of its own tells.
            Some(Flag::Duplicate) if twins[index] => Fate::ResendAlone,
            Some(Flag::Duplicate) => Fate::Duplicate,
            Some(Flag::Refused(reason)) => Fate::Rejected { reason: reason.clone() },
        })
        .collect();
    Verdict { fates, condition: Condition::Well }
}

#[derive(Debug, PartialEq, Eq)]
enum Flag {
    Duplicate,
    Refused(String),
}

/// The events a 422 names, by index. Empty when the body is not such a map.
fn flags(body: &[u8], sent: usize) -> HashMap<usize, Flag> {
    let Ok(reply) = serde_json::from_slice::<Value>(body) else { return HashMap::new() };
    let Some(Value::Object(details)) = reply.get("error_details") else { return HashMap::new() };
    let mut flags = HashMap::new();
    for (index, errors) in details {
        match index.parse::<usize>() {
            Ok(index) if index < sent => flags.insert(index, flag(errors)),
            // One key that is no index of ours: whatever this map is, it is not about our events.
            _ => return HashMap::new(),
        };
    }
    flags
}

fn flag(errors: &Value) -> Flag {
    let fields = match errors {
        Value::Object(fields) => fields,
        Value::String(text) => return Flag::Refused(text.clone()),
        other => return Flag::Refused(other.to_string()),
    };
    let codes = |value: &Value| match value {
        Value::Array(codes) => {
            codes.iter().map(|code| code.as_str().map_or_else(|| code.to_string(), str::to_owned)).collect()
        }
        Value::String(code) => vec![code.clone()],
        other => vec![other.to_string()],
    };
    let only_duplicate = fields.len() == 1
        && fields.get("transaction_id").is_some_and(|value| codes(value) == ["value_already_exist"]);
    if only_duplicate {
        return Flag::Duplicate;
    }
    let sentence: Vec<String> =
        fields.iter().map(|(field, value)| format!("{field}: {}", codes(value).join(", "))).collect();
    Flag::Refused(sentence.join("; "))
}

/// Which messages share their `transaction_id` with another of the same request.
fn twins(sent: &[&str]) -> Vec<bool> {
    let ids: Vec<Option<String>> = sent
        .iter()
        .map(|payload| match serde_json::from_str::<Value>(payload).ok()?.get("transaction_id")? {
            Value::String(id) => Some(id.clone()),
            other => Some(other.to_string()),
        })
        .collect();
    let mut count: HashMap<&str, usize> = HashMap::new();
    for id in ids.iter().flatten() {
        *count.entry(id).or_default() += 1;
    }
    ids.iter()
        .map(|id| id.as_deref().is_some_and(|id| count.get(id).is_some_and(|count| *count > 1)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: [&str; 3] =
        [r#"{"transaction_id":"a"}"#, r#"{"transaction_id":"b"}"#, r#"{"transaction_id":"c"}"#];

    fn reply(status: u16, body: &str) -> Verdict {
        judge(&Outcome::Reply(Reply { status, body: body.into(), wait: None }), &SENT)
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
        let sent = [
            r#"{"transaction_id":"a","external_subscription_id":"1"}"#,
            r#"{"transaction_id":"a","external_subscription_id":"2"}"#,
        ];
        let body = r#"{"status":422,"code":"validation_errors","error_details":{"1":{"transaction_id":["value_already_exist"]}}}"#;
        let verdict = judge(&Outcome::Reply(Reply { status: 422, body: body.into(), wait: None }), &sent);
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
        let alone =
            judge(&Outcome::Reply(Reply { status: 422, body: b"not json".into(), wait: None }), &SENT[..1]);
        assert!(matches!(alone.fates[..], [Fate::Rejected { .. }]), "alone, there is nothing left to try");
    }

    #[test]
    fn the_destinations_trouble_costs_no_attempt() {
        for status in [301, 401, 403, 404, 408, 429, 502, 503, 504] {
            let verdict = reply(status, "<html></html>");
            assert_eq!(verdict.fates, vec![Fate::Return; 3], "{status}");
            assert!(matches!(verdict.condition, Condition::Trouble { .. }), "{status}");
        }
        for outcome in [Outcome::Failed("connection refused".into()), Outcome::Unusable("no file".into())] {
            assert_eq!(judge(&outcome, &SENT).fates, vec![Fate::Return; 3]);
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
            Outcome::Reply(Reply { status: 429, body: vec![], wait: Some(Duration::from_secs(seconds)) })
        };
        let wait = |seconds| match judge(&asked(seconds), &SENT).condition {
            Condition::Trouble { wait, .. } => wait,
            other => panic!("{other:?}"),
        };
        assert_eq!(wait(7), Some(Duration::from_secs(7)));
        assert_eq!(wait(86_400), Some(LONGEST_WAIT));
    }
}
