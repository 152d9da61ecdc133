//! What Lago answers a batch of events.
//!
//! A batch is all or nothing; a 422 maps the index of each offending event to its errors and looks for
//! duplicates only when nothing else is wrong, so a batch may need two rounds; an event already stored
//! is a 422 on Lago's PostgreSQL store and a 200 on its ClickHouse store.
#![forbid(unsafe_code)]

use super::answer::{begins_with_key, by_field, code, details, exists_already, in_short, object, shortened};
use super::any::{alone_or, rejected};
use super::listed::{Listed, id_of, listed, lists_all_in_order};
use super::{Condition, Fate, LOCKED, Reply, Verdict};
use crate::lookup::{Cause, LookUp};
use crate::message::{Message, Tried};
use serde_json::Value;
use std::collections::HashMap;

/// Judges the answer to a batch of the events `sent`; none if it means what it means to every call.
pub fn judge(reply: &Reply, root: &str, sent: &[Message]) -> Option<Verdict> {
    match reply.status {
        200 if begins_with_key(&reply.body, &[root]) => Some(judge_success(&reply.body, root, sent)),
        422 => Some(judge_refusal(&reply.body, sent)),
        _ => None,
    }
}

/// A success is Lago's word for what it lists and for nothing else. A list cut off on the way was whole
/// when Lago wrote it.
fn judge_success(body: &[u8], root: &str, sent: &[Message]) -> Verdict {
    if lists_all_in_order(body, sent) {
        return Verdict::all(sent.len(), Fate::Delivered, Condition::Well);
    }
    let Listed::Each(each) = listed(body, root, sent) else {
        return Verdict::all(sent.len(), Fate::Delivered, Condition::Well);
    };
    let why = "Lago answered 200 but does not list this event: see what stands between here and Lago";
    let fate = |(is_listed, message): (&bool, &Message)| {
        if *is_listed {
            return Fate::Delivered;
        }
        match LookUp::same_event(Cause::Failure, message, why.into()) {
            Some(look) => Fate::LookUp(look),
            None => Fate::Retry { reason: why.into() },
        }
    };
    let fates = each.iter().zip(sent).map(fate).collect();
    let condition = match each.iter().filter(|is_listed| !**is_listed).count() {
        0 => Condition::Well,
        missing => Condition::Doubtful {
            why: format!(
                "Lago answered 200 but does not list {missing} of {} events; they are looked up",
                sent.len()
            ),
        },
    };
    Verdict { fates, condition }
}

fn judge_refusal(body: &[u8], sent: &[Message]) -> Verdict {
    let all = |fate| Verdict::all(sent.len(), fate, Condition::Well);
    let answer = in_short(422, body);
    if code(body).as_deref() == Some(LOCKED) {
        return all(Fate::Wait { reason: locked(&answer) });
    }
    let details = details(body);
    if sent.len() > 1 && details.as_ref().is_some_and(says_too_many) {
        return all(Fate::SplitAndRemember);
    }
    let flags = flags(details.as_ref(), sent.len());
    if flags.is_empty() {
        // Never the same batch again: it would get the same answer for ever.
        return all(alone_or(sent, || {
            let said = match &details {
                Some(Value::Object(fields)) => format!(": {}", shortened(&by_field(fields))),
                Some(Value::String(text)) => format!(": {}", shortened(text)),
                _ => String::new(),
            };
            let reason = format!(
                "Lago answered {answer}{said} and named no event; see lago_push.dead_letters for its whole reply"
            );
            // An answer that lost its end on the way may be a better one the next time.
            if object(body).is_some() { rejected(reason) } else { Fate::Retry { reason } }
        }));
    }
    let twins = if flags.values().any(|flag| *flag == Flag::Duplicate) { twins(sent) } else { Vec::new() };
    let fates = sent
        .iter()
        .enumerate()
        .map(|(index, message)| match flags.get(&index) {
            None => Fate::Resend,
            // Lago compares ids within a request without their subscriptions, so a twin may be
            // flagged although it is stored nowhere: only an answer of its own tells.
            Some(Flag::Duplicate) if twins.get(index) == Some(&true) => Fate::ResendAlone,
            Some(Flag::Duplicate) => duplicate(message),
            Some(Flag::Refused(said)) => rejected(refused_event(said)),
        })
        .collect();
    Verdict { fates, condition: Condition::Well }
}

/// What becomes of an event whose id Lago has already. If an attempt of ours went unanswered, that is why;
/// else the id may be another event's.
pub fn duplicate(message: &Message) -> Fate {
    if message.tried == Tried::Unanswered {
        return Fate::Duplicate;
    }
    let reason = "Lago answered 422 transaction_id: value_already_exist".to_owned();
    match LookUp::same_event(Cause::Duplicate(message.tried), message, reason) {
        Some(look) => Fate::LookUp(look),
        // Without an id that can be read there is nothing to ask for.
        None => crate::lookup::unverified(message.tried, "its transaction_id cannot be read"),
    }
}

/// The sentence about an event Lago refuses.
fn refused_event(said: &str) -> String {
    let said = if said.is_empty() { "no reason given".into() } else { shortened(said) };
    format!("Lago answered 422: {said}; {PUT_RIGHT}")
}

/// What to do about a payload Lago refuses: sent again, it is the same.
pub const PUT_RIGHT: &str = "put it right in Lago and lago_push.redrive() it, or correct row or template, send it anew and lago_push.discard() this one";

/// The sentence about two calls that wanted the same thing at the same time.
pub fn locked(answer: &str) -> String {
    format!("Lago answered {answer}: it was busy with the same thing; it goes again by itself")
}

/// A server may have been set to take fewer events than Lago's hundred.
fn says_too_many(details: &Value) -> bool {
    let said = details.get("events").and_then(Value::as_array);
    said.is_some_and(|codes| codes.iter().any(|code| code == "too_many_events"))
}

#[derive(Debug, PartialEq, Eq)]
enum Flag {
    Duplicate,
    Refused(String),
}

/// The events a 422 names, by index. Empty when its details are not such a map.
fn flags(details: Option<&Value>, sent: usize) -> HashMap<usize, Flag> {
    let Some(Value::Object(details)) = details else { return HashMap::new() };
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
    match errors {
        Value::Object(fields) if exists_already(fields, "transaction_id") => Flag::Duplicate,
        Value::Object(fields) => Flag::Refused(by_field(fields)),
        Value::String(text) => Flag::Refused(text.clone()),
        other => Flag::Refused(other.to_string()),
    }
}

/// Which messages share their `transaction_id` with another of the same request.
fn twins(sent: &[Message]) -> Vec<bool> {
    let ids: Vec<Option<String>> = sent
        .iter()
        .map(|message| match id_of(&message.payload)? {
            Value::String(id) => Some(id),
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
