//! Event: what of an event is compared, as we sent it and as Lago shows it.
//!
//! Lago makes text of ids that were numbers, keeps times to the millisecond, sends fractions through a
//! double, drops null elements of arrays, and its ClickHouse store may show numbers and booleans as text.
//! None of that makes two events different.
#![forbid(unsafe_code)]

use bigdecimal::{BigDecimal, RoundingMode, ToPrimitive};
use chrono::DateTime;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::str::FromStr;

/// Subscription and transaction id, as a number that no two pairs share.
pub type Key = u128;

/// An event as it was sent, or would be.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    /// Empty if there is none.
    pub subscription: String,
    pub transaction_id: String,
    pub code: String,
    pub unix_micros: Option<i64>,
    pub content: Content,
}

/// An event as Lago shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    pub subscription: String,
    pub transaction_id: String,
    pub code: String,
    pub unix_ms: Option<i64>,
    pub content: Content,
    /// One for each property, so that one may be left aside.
    properties: Vec<u64>,
    pub store: Store,
}

/// Where Lago keeps the event, as far as its number there tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// What is written can be read at once.
    Postgres,
    /// Perhaps ClickHouse, which shows what it took seconds before.
    Other,
}

/// What an event holds besides its name and time, hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    properties: u64,
    amount: u32,
}

/// Which of the fields of two events differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    pub code: bool,
    pub timestamp: bool,
    pub amount: bool,
    pub properties: bool,
}

impl Differences {
    pub fn none(self) -> bool {
        self == Differences::default()
    }

    /// Whether it is the same event to Lago: a copy of it would take its place.
    pub fn same_place(self) -> bool {
        !self.code && !self.timestamp
    }

    /// Names, never values.
    pub fn names(self) -> Vec<&'static str> {
        [
            (self.code, "code"),
            (self.timestamp, "timestamp"),
            (self.amount, "precise_total_amount_cents"),
            (self.properties, "properties"),
        ]
        .into_iter()
        .filter_map(|(differs, name)| differs.then_some(name))
        .collect()
    }
}

pub fn key(subscription: &str, transaction_id: &str) -> Key {
    let mut hash = Sha256::new();
    hash.update((subscription.len() as u64).to_be_bytes());
    hash.update(subscription);
    hash.update(transaction_id);
    let mut first = [0; 16];
    hash.finalize().iter().zip(&mut first).for_each(|(from, to)| *to = *from);
    u128::from_be_bytes(first)
}

impl Sent {
    /// Reads a payload; none if it has no transaction id, which no event lacks.
    pub fn read(payload: &Value) -> Option<Sent> {
        let text = |key: &str| text(payload.get(key));
        let properties = payload.get("properties").and_then(Value::as_object);
        Some(Sent {
            subscription: text("external_subscription_id").unwrap_or_default(),
            transaction_id: text("transaction_id")?,
            code: text("code").unwrap_or_default(),
            unix_micros: text("timestamp").and_then(|text| unix_micros(&text)),
            content: Content {
                properties: sum(&prints(properties)),
                amount: amount(payload.get("precise_total_amount_cents")),
            },
        })
    }

    pub fn key(&self) -> Key {
        key(&self.subscription, &self.transaction_id)
    }
}

impl Shown {
    /// Reads one event of Lago's answer; none if that is not what it is.
    pub fn read(event: &Value) -> Option<Shown> {
        let text = |key: &str| text(event.get(key));
        let properties = prints(event.get("properties").and_then(Value::as_object));
        let amount = amount(event.get("precise_total_amount_cents"));
        let is_uuid = |id: String| id.len() == 36 && id.bytes().filter(|byte| *byte == b'-').count() == 4;
        Some(Shown {
            subscription: text("external_subscription_id").unwrap_or_default(),
            transaction_id: text("transaction_id")?,
            code: text("code").unwrap_or_default(),
            unix_ms: text("timestamp").and_then(|text| unix_ms(&text)),
            content: Content { properties: sum(&properties), amount },
            properties,
            store: if text("lago_id").is_some_and(is_uuid) { Store::Postgres } else { Store::Other },
        })
    }

    pub fn key(&self) -> Key {
        key(&self.subscription, &self.transaction_id)
    }

    /// What differs from an event that was sent with this code, time and content.
    pub fn differences(&self, code: &str, unix_micros: Option<i64>, sent: Content) -> Differences {
        let is_same_time = match (unix_micros, self.unix_ms) {
            (Some(ours), Some(theirs)) => is_same_millisecond(ours, theirs),
            // Lago gave it the time of receipt, or shows a time that cannot be read.
            _ => true,
        };
        Differences {
            code: self.code != code,
            timestamp: !is_same_time,
            amount: self.content.amount != sent.amount,
            properties: !self.has_properties(sent.properties),
        }
    }

    /// All that was sent, and at most one that was not: Lago writes what a metric's expression computes
    /// among the properties.
    fn has_properties(&self, sent: u64) -> bool {
        let all = self.content.properties;
        all == sent || self.properties.iter().any(|one| all.wrapping_sub(*one) == sent)
    }
}

/// Lago cuts times to the millisecond, or rounds them.
fn is_same_millisecond(our_micros: i64, their_ms: i64) -> bool {
    (-500..1000).contains(&our_micros.saturating_sub(their_ms.saturating_mul(1000)))
}

/// The text Lago makes of a scalar; none if it is empty or no scalar.
fn text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// No time needs more digits, and a number of astronomic size would take as much memory.
const LONGEST_NUMBER: usize = 60;
const LARGEST_EXPONENT: i64 = 60;

/// Unix seconds as Lago reads them.
fn unix_micros(text: &str) -> Option<i64> {
    let text = text.trim().replace('_', "");
    let seconds = BigDecimal::from_str(&text).ok().filter(|_| text.len() <= LONGEST_NUMBER)?;
    let (_, exponent) = seconds.as_bigint_and_exponent();
    if exponent.abs() > LARGEST_EXPONENT {
        return None;
    }
    (seconds * BigDecimal::from(1_000_000)).with_scale_round(0, RoundingMode::Floor).to_i64()
}

fn unix_ms(text: &str) -> Option<i64> {
    Some(DateTime::parse_from_rfc3339(text).ok()?.timestamp_millis())
}

/// Text that is no number becomes 0 in Lago.
fn amount(value: Option<&Value>) -> u32 {
    let Some(text) = text(value) else { return 0 };
    let mut hasher = DefaultHasher::new();
    bits(text.trim().parse().unwrap_or(0.0)).hash(&mut hasher);
    // The lower half of a hash is one too; 0 stands for none.
    (hasher.finish() as u32).max(1)
}

fn sum(prints: &[u64]) -> u64 {
    prints.iter().fold(0, |sum, print| sum.wrapping_add(*print))
}

/// A hash of each member that is more than null.
fn prints(members: Option<&Map<String, Value>>) -> Vec<u64> {
    let print = |(name, value): (&String, &Value)| {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        hash(value, &mut hasher).then(|| hasher.finish())
    };
    members.into_iter().flatten().filter_map(print).collect()
}

/// Hashes what a value means; false if it is as good as not there.
fn hash(value: &Value, hasher: &mut DefaultHasher) -> bool {
    match value {
        Value::Null => return false,
        Value::Bool(true) => (b't', "true").hash(hasher),
        Value::Bool(false) => (b't', "false").hash(hasher),
        Value::Number(number) => match number.to_string().parse::<f64>() {
            Ok(number) if number.is_finite() => (b'n', bits(number)).hash(hasher),
            // Beyond a double: Lago has null.
            _ => return false,
        },
        Value::String(text) => match (number(text), container(text)) {
            (Some(number), _) => (b'n', bits(number)).hash(hasher),
            (None, Some(value)) => return hash(&value, hasher),
            (None, None) => (b't', text).hash(hasher),
        },
        Value::Array(elements) => {
            b'a'.hash(hasher);
            for element in elements {
                hash(element, hasher);
            }
            b'z'.hash(hasher);
        }
        Value::Object(members) => (b'o', sum(&prints(Some(members)))).hash(hasher),
    }
    true
}

/// Text that is a number as one would be written. `007` is none, it may be an id.
fn number(text: &str) -> Option<f64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let mut bytes = digits.bytes();
    let (first, second) = (bytes.next()?, bytes.next());
    if !first.is_ascii_digit() || (first == b'0' && second.is_some_and(|byte| byte.is_ascii_digit())) {
        return None;
    }
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// Text that is an object or an array: a store of texts keeps them so.
fn container(text: &str) -> Option<Value> {
    if !text.starts_with(['{', '[']) {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// There is one zero only.
fn bits(number: f64) -> u64 {
    (number + 0.0).to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sent(payload: &Value) -> Sent {
        Sent::read(payload).expect("an event")
    }

    fn shown(event: &Value) -> Shown {
        Shown::read(event).expect("an event")
    }

    fn between(ours: &Value, theirs: &Value) -> Vec<&'static str> {
        let ours = sent(ours);
        shown(theirs).differences(&ours.code, ours.unix_micros, ours.content).names()
    }

    fn payload() -> Value {
        serde_json::from_str(
            r#"{"transaction_id":"t","external_subscription_id":"s","code":"c","timestamp":1710421740.123456,
                "properties":{"bytes":"10","region":"eu"}}"#,
        )
        .expect("JSON")
    }

    fn event() -> Value {
        json!({"lago_id": "1a901a90-1a90-1a90-1a90-1a901a901a90", "transaction_id": "t",
            "external_subscription_id": "s", "code": "c", "timestamp": "2024-03-14T13:09:00.123Z",
            "precise_total_amount_cents": null, "properties": {"region": "eu", "bytes": "10"}})
    }

    fn with(mut value: Value, key: &str, other: Value) -> Value {
        value[key] = other;
        value
    }

    #[test]
    fn an_event_is_the_same_as_lago_shows_it() {
        assert_eq!(between(&payload(), &event()), NOTHING);
        assert_eq!(sent(&payload()).key(), shown(&event()).key());
        let numbers =
            with(with(payload(), "transaction_id", json!(7)), "external_subscription_id", json!(12));
        let texts =
            with(with(event(), "transaction_id", json!("7")), "external_subscription_id", json!("12"));
        assert_eq!(sent(&numbers).key(), shown(&texts).key());
    }

    const NOTHING: [&str; 0] = [];

    #[test]
    fn what_differs_is_named() {
        for (key, other, named) in [
            ("code", json!("d"), ["code"]),
            ("timestamp", json!("2024-03-14T13:09:00.125Z"), ["timestamp"]),
            ("precise_total_amount_cents", json!("1.0"), ["precise_total_amount_cents"]),
            ("properties", json!({"bytes": "11", "region": "eu"}), ["properties"]),
            ("properties", json!({"bytes": "10"}), ["properties"]),
            ("properties", json!({}), ["properties"]),
        ] {
            assert_eq!(between(&payload(), &with(event(), key, other)), named);
        }
        let both = with(with(event(), "code", json!("d")), "timestamp", json!("2024-03-14T13:10:00.123Z"));
        assert_eq!(between(&payload(), &both), ["code", "timestamp"]);
    }

    #[test]
    fn the_pair_of_subscription_and_id_is_not_a_text() {
        assert_ne!(key("a", "bc"), key("ab", "c"));
        assert_ne!(key("", "a"), key("a", ""));
        assert_eq!(key("a", "b"), key("a", "b"));
    }

    fn properties(ours: &str, theirs: &str) -> bool {
        let parse = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        let (ours, theirs) = (parse(ours), parse(theirs));
        between(&with(payload(), "properties", ours), &with(event(), "properties", theirs)).is_empty()
    }

    #[test]
    fn what_lago_does_to_properties_makes_no_difference() {
        for (ours, theirs) in [
            (r#"{"n":0.1234567890123456789}"#, r#"{"n":0.12345678901234568}"#),
            (r#"{"n":1e400,"m":1}"#, r#"{"n":null,"m":1}"#),
            (r#"{"n":12345678901234567890123}"#, r#"{"n":1.2345678901234568e22}"#),
            (r#"{"n":1.50}"#, r#"{"n":"1.5"}"#),
            (r#"{"n":0.0000001}"#, r#"{"n":"1e-07"}"#),
            (r#"{"n":-0.0}"#, r#"{"n":0}"#),
            (r#"{"n":true}"#, r#"{"n":"true"}"#),
            (r#"{"a":[1,null,{"b":[null]}]}"#, r#"{"a":[1,{"b":[]}]}"#),
            (r#"{"a":{"x":1,"y":2}}"#, r#"{"a":{"y":2,"x":1}}"#),
            (r#"{"a":{"x":1}}"#, r#"{"a":"{\"x\": 1}"}"#),
            (r#"{"a":null}"#, "{}"),
            (r#""text""#, "{}"),
            (r#"{"a":1}"#, r#"{"a":1,"computed":"7"}"#),
        ] {
            assert!(properties(ours, theirs), "{ours} {theirs}");
        }
    }

    #[test]
    fn other_properties_make_a_difference() {
        for (ours, theirs) in [
            (r#"{"n":1}"#, r#"{"n":2}"#),
            (r#"{"n":1}"#, r#"{"m":1}"#),
            (r#"{"n":"007"}"#, r#"{"n":"7"}"#),
            (r#"{"n":"a"}"#, r#"{"n":"A"}"#),
            (r#"{"a":[1,2]}"#, r#"{"a":[2,1]}"#),
            (r#"{"a":[[1],2]}"#, r#"{"a":[[1,2]]}"#),
            (r#"{"a":1,"b":2}"#, r#"{"a":2,"b":1}"#),
            (r#"{"n":""}"#, "{}"),
            (r#"{"a":1}"#, r#"{"a":1,"b":1,"c":1}"#),
            (r#"{"a":1}"#, r#"{"a":2,"computed":"7"}"#),
        ] {
            assert!(!properties(ours, theirs), "{ours} {theirs}");
        }
    }

    #[test]
    fn a_time_is_the_same_cut_or_rounded_to_milliseconds() {
        let same = |ours: &str, theirs: &str| {
            let ours = with(payload(), "timestamp", serde_json::from_str(ours).expect("JSON"));
            between(&ours, &with(event(), "timestamp", json!(theirs))).is_empty()
        };
        for (ours, theirs) in [
            ("1710421740", "2024-03-14T13:09:00.000Z"),
            ("\"1710421740.1239\"", "2024-03-14T13:09:00.123Z"),
            ("\"1710421740.1239\"", "2024-03-14T13:09:00.124Z"),
            ("1710421740.1235", "2024-03-14T13:09:00.124Z"),
            ("1.71042174e9", "2024-03-14T14:09:00.000+01:00"),
            ("\" 1_710_421_740 \"", "2024-03-14T13:09:00.000Z"),
            ("-0.5", "1969-12-31T23:59:59.500Z"),
        ] {
            assert!(same(ours, theirs), "{ours} {theirs}");
        }
        for (ours, theirs) in [
            ("1710421740.1231", "2024-03-14T13:09:00.124Z"),
            ("1710421740.124", "2024-03-14T13:09:00.123Z"),
            ("1710421741", "2024-03-14T13:09:00.000Z"),
        ] {
            assert!(!same(ours, theirs), "{ours} {theirs}");
        }
    }

    #[test]
    fn amounts_are_compared_as_numbers() {
        let same = |ours: Value, theirs: Value| {
            let ours = with(payload(), "precise_total_amount_cents", ours);
            between(&ours, &with(event(), "precise_total_amount_cents", theirs)).is_empty()
        };
        assert!(same(json!("1234.56"), json!("1234.560000000000000")));
        assert!(same(json!("many"), json!("0.0")));
        assert!(same(Value::Null, Value::Null));
        assert!(!same(json!("1"), json!("2")));
        assert!(!same(Value::Null, json!("0.0")));
    }

    #[test]
    fn what_is_no_event_is_none() {
        for value in [json!(null), json!([]), json!({"transaction_id": ""}), json!({"code": "c"})] {
            assert_eq!((Sent::read(&value), Shown::read(&value)), (None, None), "{value}");
        }
        for timestamp in ["true", "\"now\"", "\"\"", "1e999999999", "[]", "1e60"] {
            let event = with(payload(), "timestamp", serde_json::from_str(timestamp).expect("JSON"));
            assert_eq!(sent(&event).unix_micros, None, "{timestamp}");
        }
    }

    #[test]
    fn a_number_that_is_no_uuid_is_of_another_store() {
        assert_eq!(shown(&event()).store, Store::Postgres);
        for id in [json!("ch12"), Value::Null] {
            assert_eq!(shown(&with(event(), "lago_id", id)).store, Store::Other);
        }
    }
}
