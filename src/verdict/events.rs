//! What Lago answers a batch of events.
//!
//! A batch is all or nothing; a 422 maps the index of each offending event to its errors and looks for
//! duplicates only when nothing else is wrong, so a batch may need two rounds; an event already stored
//! is a 422 on Lago's PostgreSQL store and a 200 on its ClickHouse store.
#![forbid(unsafe_code)]

use super::{Condition, Fate, Reply, Verdict, answer, begins_with_key, by_field, exists_already};
use crate::message::Message;
use serde_json::Value;
use std::collections::HashMap;

/// Judges the answer to a `POST /events/batch` with the events `sent`; none if it means what it means
/// to every call.
pub fn judge(reply: &Reply, sent: &[Message]) -> Option<Verdict> {
    match reply.status {
        200 if begins_with_key(&reply.body, &["events"]) => {
            Some(Verdict::all(sent.len(), Fate::Delivered, Condition::Well))
        }
        422 => Some(judge_refusal(&reply.body, sent)),
        _ => None,
    }
}

fn judge_refusal(body: &[u8], sent: &[Message]) -> Verdict {
    let flags = flags(body, sent.len());
    if flags.is_empty() {
        let reason = format!("Lago answered {} and named no event", answer(422, body));
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
    if exists_already(fields, "transaction_id") {
        return Flag::Duplicate;
    }
    Flag::Refused(by_field(fields))
}

/// Which messages share their `transaction_id` with another of the same request.
fn twins(sent: &[Message]) -> Vec<bool> {
    let ids: Vec<Option<String>> = sent
        .iter()
        .map(|message| match serde_json::from_str::<Value>(&message.payload).ok()?.get("transaction_id")? {
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
