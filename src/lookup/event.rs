//! Event: how an event is found in Lago, and whether what is found is the one that was sent.
//!
//! Serves the look-ups. Lago shows a timestamp as ISO 8601 with milliseconds, truncated or rounded, of
//! what it was sent as Unix seconds; it makes text of ids that were numbers.
#![forbid(unsafe_code)]

use crate::message::Message;
use crate::payload::percent_encode_segment;
use bigdecimal::{BigDecimal, RoundingMode, ToPrimitive};
use chrono::{DateTime, SecondsFormat};
use serde_json::Value;
use std::str::FromStr;
use url::form_urlencoded::Serializer;

/// How an event in Lago compares with the one that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    Same,
    OtherId,
    OtherSubscription,
    /// Which of its fields differ.
    Other(&'static str),
}

/// Compares what both have.
pub fn likeness(message: &Message, found: &Value) -> Likeness {
    let Some(ours) = payload(message) else { return Likeness::Same };
    let differs = |key: &str| match (text(&ours, key), text(found, key)) {
        (Some(ours), Some(theirs)) => ours != theirs,
        (Some(_), None) => found.get(key).is_some(),
        (None, _) => false,
    };
    if differs("transaction_id") {
        return Likeness::OtherId;
    }
    if differs("external_subscription_id") {
        return Likeness::OtherSubscription;
    }
    let is_other_time =
        match (ours.get("timestamp").and_then(seconds), found.get("timestamp").and_then(moment)) {
            (Some(ours), Some(theirs)) => !is_same_millisecond(&ours, &theirs),
            _ => false,
        };
    match (differs("code"), is_other_time) {
        (false, false) => Likeness::Same,
        (true, false) => Likeness::Other("code differs"),
        (false, true) => Likeness::Other("timestamp differs"),
        (true, true) => Likeness::Other("code and timestamp differ"),
    }
}

/// Where Lago shows the first event that has this one's id, whatever its subscription.
pub fn path_of_id(message: &Message) -> Option<String> {
    let id = text(&payload(message)?, "transaction_id")?;
    Some(format!("/events/{}", segment_of_id(&id)?))
}

/// An id as a segment of a path, if it can be one.
pub fn segment_of_id(id: &str) -> Option<String> {
    percent_encode_segment(id).ok()
}

/// Where Lago lists the events of this one's subscription, code and time.
pub fn path_of_subscription(message: &Message, page: u32) -> Option<String> {
    let ours = payload(message)?;
    let mut query = Serializer::new(String::new());
    for key in ["external_subscription_id", "code"] {
        if let Some(value) = text(&ours, key) {
            query.append_pair(key, &value);
        }
    }
    let milliseconds = ours.get("timestamp").and_then(seconds).and_then(|seconds| {
        (seconds * BigDecimal::from(1000)).with_scale_round(0, RoundingMode::Floor).to_i64()
    });
    if let Some(milliseconds) = milliseconds {
        // One more on either side for how Lago rounds, and one because it keeps microseconds.
        for (key, shift) in [("timestamp_from", -1), ("timestamp_to", 2)] {
            if let Some(moment) = DateTime::from_timestamp_millis(milliseconds.saturating_add(shift)) {
                query.append_pair(key, &moment.to_rfc3339_opts(SecondsFormat::Millis, true));
            }
        }
    }
    query.append_pair("per_page", "100").append_pair("page", &page.to_string());
    Some(format!("/events?{}", query.finish()))
}

fn payload(message: &Message) -> Option<Value> {
    serde_json::from_str(&message.payload).ok()
}

/// A member as the text Lago makes of it; none if it is empty or no scalar.
pub fn text(object: &Value, key: &str) -> Option<String> {
    match object.get(key)? {
        Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// No time needs more digits, and a number of astronomic size would take as much memory.
const LONGEST_SECONDS: usize = 60;
const LARGEST_EXPONENT: i64 = 60;

/// Unix seconds as Lago reads them.
fn seconds(value: &Value) -> Option<BigDecimal> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.trim().replace('_', ""),
        _ => return None,
    };
    let seconds = BigDecimal::from_str(&text).ok().filter(|_| text.len() <= LONGEST_SECONDS)?;
    let (_, exponent) = seconds.as_bigint_and_exponent();
    (exponent.abs() <= LARGEST_EXPONENT).then_some(seconds)
}

/// A time in Lago's answer, in Unix seconds.
fn moment(value: &Value) -> Option<BigDecimal> {
    let moment = DateTime::parse_from_rfc3339(value.as_str()?).ok()?;
    let nanoseconds = BigDecimal::new(moment.timestamp_subsec_nanos().into(), 9);
    Some(BigDecimal::from(moment.timestamp()) + nanoseconds)
}

/// Whether `theirs` is `ours` cut or rounded to milliseconds.
fn is_same_millisecond(ours: &BigDecimal, theirs: &BigDecimal) -> bool {
    let apart = (ours - theirs) * BigDecimal::from(1000);
    let (rounded_up, cut) = (BigDecimal::new((-5).into(), 1), BigDecimal::from(1));
    apart >= rounded_up && apart < cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const SENT: &str =
        r#"{"transaction_id":"t","external_subscription_id":"s","code":"c","timestamp":1710421740.123456}"#;

    fn found(key: &str, value: Value) -> Value {
        let mut event = json!({"transaction_id": "t", "external_subscription_id": "s", "code": "c",
            "timestamp": "2024-03-14T13:09:00.123Z", "properties": {}, "lago_id": null});
        event[key] = value;
        event
    }

    fn compared(sent: &str, found: &Value) -> Likeness {
        likeness(&Message::sample(1, sent), found)
    }

    #[test]
    fn the_same_event_is_recognized_and_another_is_told_by_what_differs() {
        assert_eq!(compared(SENT, &found("properties", json!({"other": 1}))), Likeness::Same);
        assert_eq!(compared(SENT, &found("transaction_id", json!("u"))), Likeness::OtherId);
        for other in [json!("r"), Value::Null] {
            let other = found("external_subscription_id", other);
            assert_eq!(compared(SENT, &other), Likeness::OtherSubscription);
        }
        assert_eq!(compared(SENT, &found("code", json!("d"))), Likeness::Other("code differs"));
        let mut other = found("timestamp", json!("2024-03-14T13:09:00.125Z"));
        assert_eq!(compared(SENT, &other), Likeness::Other("timestamp differs"));
        other["code"] = json!("d");
        assert_eq!(compared(SENT, &other), Likeness::Other("code and timestamp differ"));
    }

    #[test]
    fn a_timestamp_is_the_same_cut_or_rounded_to_milliseconds() {
        let same = |ours: &str, theirs: &str| {
            let sent = format!(r#"{{"timestamp":{ours}}}"#);
            compared(&sent, &json!({"timestamp": theirs})) == Likeness::Same
        };
        for (ours, theirs) in [
            ("1710421740", "2024-03-14T13:09:00.000Z"),
            ("1710421740", "2024-03-14T14:09:00.000+01:00"),
            ("\"1710421740.1239\"", "2024-03-14T13:09:00.123Z"),
            ("\"1710421740.1239\"", "2024-03-14T13:09:00.124Z"),
            ("1710421740.1235", "2024-03-14T13:09:00.124Z"),
            ("1710421740.123456", "2024-03-14T13:09:00.123456Z"),
            ("1.71042174e9", "2024-03-14T13:09:00.000Z"),
            ("\" 1_710_421_740 \"", "2024-03-14T13:09:00.000Z"),
        ] {
            assert!(same(ours, theirs), "{ours} {theirs}");
        }
        for (ours, theirs) in [
            ("1710421740.1231", "2024-03-14T13:09:00.124Z"),
            ("1710421740.124", "2024-03-14T13:09:00.123Z"),
            ("1710421741", "2024-03-14T13:09:00.000Z"),
            ("1710421740.00000000000000000001", "2024-03-14T13:09:00.001Z"),
        ] {
            assert!(!same(ours, theirs), "{ours} {theirs}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_compared() {
        for timestamp in ["null", "true", "\"\"", "\"now\"", "1e999999999", "1e-999999999", "[]"] {
            let sent = format!(
                r#"{{"transaction_id":"t","external_subscription_id":"s","code":"c","timestamp":{timestamp}}}"#
            );
            assert_eq!(compared(&sent, &found("code", json!("c"))), Likeness::Same, "{timestamp}");
            assert_eq!(compared(&sent, &found("code", json!("d"))), Likeness::Other("code differs"));
        }
        assert_eq!(compared(SENT, &found("timestamp", json!("+55840-01-01T00:00:00Z"))), Likeness::Same);
    }

    #[test]
    fn a_number_is_the_text_lago_makes_of_it() {
        let sent = r#"{"transaction_id":7,"external_subscription_id":12345678901234567890123,"code":"c"}"#;
        let theirs = json!({"transaction_id": "7", "external_subscription_id": "12345678901234567890123", "code": "c"});
        assert_eq!(compared(sent, &theirs), Likeness::Same);
    }

    #[test]
    fn an_id_is_one_segment_of_the_path() {
        let path = |id: &str| path_of_id(&Message::sample(1, &json!({"transaction_id": id}).to_string()));
        assert_eq!(path("a/b?c.d").as_deref(), Some("/events/a%2Fb%3Fc%2Ed"));
        for none in ["", ".", ".."] {
            assert_eq!(path(none), None, "{none}");
        }
        assert_eq!(path_of_id(&Message::sample(1, "{")), None);
    }

    #[test]
    fn a_subscriptions_events_are_asked_for_around_the_time() {
        let sent = SENT.replace("\"s\"", "\"a b&c\"");
        assert_eq!(
            path_of_subscription(&Message::sample(1, &sent), 2).as_deref(),
            Some(
                "/events?external_subscription_id=a+b%26c&code=c&timestamp_from=2024-03-14T13%3A09%3A00.122Z&timestamp_to=2024-03-14T13%3A09%3A00.125Z&per_page=100&page=2"
            )
        );
    }
}
