//! Cautions: ways in which Lago may answer 200 and yet not do what was meant.
//!
//! Shown in previews, to people; nothing is held back for them.
#![forbid(unsafe_code)]

use super::{Finding, Seconds};
use crate::call::{Call, keys_of_path};
use crate::endpoint::{Endpoint, Listing, Nature, begins_with_date, is_currency, meant, nature};
use crate::json::is_plain_decimal;
use crate::nearest::nearest;
use serde_json::{Map, Value};

/// The year 2000, in Unix seconds: before Lago, and before most clocks are set.
const EARLIEST_LIKELY_SECONDS: f64 = 946_684_800.0;
/// How far two clocks may differ.
const CLOCK_SKEW_SECONDS: f64 = 300.0;
/// Beyond about this, an entry of the index on transaction ids in Lago's Postgres store is too large.
const LONGEST_TRANSACTION_ID_BYTES: usize = 2600;
/// Lago's ClickHouse store keeps amounts as Decimal(38, 26).
const MOST_INTEGER_DIGITS: usize = 12;
/// Lago's `precise_total_amount_cents` is a numeric(40, 15).
const MOST_AMOUNT_DIGITS: usize = 25;
/// Every integer up to 2^53 is exact in a double.
const LARGEST_EXACT_INTEGER: i128 = 1 << 53;

pub(super) fn cautions(call: &Call, payload: &Value, now_unix_seconds: f64) -> Vec<Finding> {
    let mut found = Vec::new();
    nul("", payload, &mut found);
    let Value::Object(members) = payload else { return found };
    for key in keys_of_path(&call.path) {
        found.extend(members.get(key).and_then(|value| padded(key, value)));
    }
    let Some(endpoint) = call.endpoint else { return found };
    let known = call.known();
    for (key, value) in members {
        if known.contains(&key.as_str()) {
            found.extend(unusual(endpoint, key, value));
        } else {
            found.extend(unlisted(endpoint, &known, key));
        }
    }
    match endpoint.name {
        "event" => event(members, now_unix_seconds, &mut found),
        "plan_update" => charges(members, &mut found),
        _ => {}
    }
    found
}

/// A key that Lago reads as far as we know in no version.
fn unlisted(endpoint: &Endpoint, known: &[&str], key: &str) -> Option<Finding> {
    // The others are faults.
    if endpoint.listing == Listing::Complete || meant(endpoint, key).is_some() {
        return None;
    }
    let advice = match nearest(key, known) {
        Some(near) => format!("Perhaps \"{near}\" was meant"),
        None => format!("The keys known to be read are {}", known.join(", ")),
    };
    Some(Finding::new(format!("Lago may read no key \"{key}\" here and drop it without a word"), advice))
}

/// A value that is not quite what the key asks for.
fn unusual(endpoint: &Endpoint, key: &str, value: &Value) -> Option<Finding> {
    let what = |what: &str| format!("\"{key}\" {what}");
    match (nature(endpoint, key), value) {
        (_, Value::Null) => None,
        (Nature::Moment, Value::String(text)) if begins_with_date(text) => None,
        (Nature::Moment, _) => Some(Finding::new(
            what("is not a time as ISO 8601"),
            format!("Write \"{key}\": {{{{ row.created_at }}}}, without quotes: null then stays null"),
        )),
        (Nature::Whole, Value::Number(number)) if !is_whole(&number.to_string()) => {
            Some(Finding::new(what("is not a whole number"), "Amounts in cents have no fraction"))
        }
        (Nature::Whole, Value::String(text)) if !is_whole(text) => {
            Some(Finding::new(what("is not a whole number"), "Amounts in cents have no fraction"))
        }
        (Nature::Currency, Value::String(text)) if !is_currency(text) => Some(Finding::new(
            what("is not the code of a currency"),
            "Write three capital letters, such as \"EUR\"",
        )),
        (Nature::OneOf(words), Value::String(text)) if !words.contains(&text.as_str()) => Some(Finding::new(
            what("is no word Lago is known to take there"),
            format!("Write one of {}", words.join(", ")),
        )),
        (Nature::List, value) if !value.is_array() => {
            Some(Finding::new(what("is not an array, and Lago drops it"), "Give an array"))
        }
        (Nature::PreciseAmount, value) => imprecise(key, value),
        (nature, Value::Array(_) | Value::Object(_)) if !nature.is_structured() => {
            Some(Finding::new(what("is neither text nor number, and Lago drops it"), "Give one value"))
        }
        _ => None,
    }
}

fn imprecise(key: &str, value: &Value) -> Option<Finding> {
    let in_quotes = || format!("Write \"{key}\": \"{{{{ row.amount }}}}\"");
    match value {
        Value::Number(_) => Some(Finding::new(
            format!("\"{key}\" is a JSON number, whose digits Lago does not all keep"),
            in_quotes(),
        )),
        Value::String(text) if !is_plain_decimal(text.as_bytes()) => Some(Finding::new(
            format!("\"{key}\" is not a plain decimal number, and Lago takes what it cannot read for 0"),
            "Write digits, with a minus and a point at most",
        )),
        Value::String(text) if integer_digits(text) > MOST_AMOUNT_DIGITS => Some(Finding::new(
            format!(
                "\"{key}\" has more than {MOST_AMOUNT_DIGITS} digits before the point, and Lago answers 500 to that"
            ),
            "Check the unit: it is cents",
        )),
        Value::String(_) => None,
        _ => Some(Finding::new(format!("\"{key}\" is not a decimal number as text"), in_quotes())),
    }
}

fn event(members: &Map<String, Value>, now_unix_seconds: f64, found: &mut Vec<Finding>) {
    if let Some(value) = members.get("timestamp") {
        time(value, now_unix_seconds, found);
    }
    if let Some(Value::String(id)) = members.get("transaction_id")
        && id.len() > LONGEST_TRANSACTION_ID_BYTES
    {
        found.push(Finding::new(
            format!(
                "\"transaction_id\" is longer than {LONGEST_TRANSACTION_ID_BYTES} bytes, and Lago may answer 500 to it for ever"
            ),
            "Make it of the primary key alone",
        ));
    }
    found.extend(
        members.get("external_subscription_id").and_then(|value| padded("external_subscription_id", value)),
    );
    if let Some(Value::Object(properties)) = members.get("properties") {
        for (name, value) in properties {
            property(name, value, found);
            if has_null_element(value) {
                found.push(Finding::new(
                    format!("property \"{name}\" holds an array with null in it, and Lago removes the null"),
                    "Leave nulls out of arrays, or write \"\" for them",
                ));
            }
        }
    }
}

fn time(value: &Value, now_unix_seconds: f64, found: &mut Vec<Finding>) {
    let seconds = match Seconds::of(value) {
        Seconds::None => return,
        Seconds::Plain(seconds) => seconds,
        Seconds::Odd(seconds) => {
            found.push(Finding::new(
                "\"timestamp\" is written in a way that only some versions of Lago may read",
                "Write digits, with a point at most",
            ));
            seconds
        }
    };
    // What is further away is a fault.
    if seconds.abs() >= crate::endpoint::LATEST_PLAUSIBLE_SECONDS {
        return;
    }
    if seconds < EARLIEST_LIKELY_SECONDS {
        found.push(Finding::new(
            "\"timestamp\" lies before the year 2000, and Lago bills nothing from before its subscription started",
            "Check the column and its unit: it is Unix seconds",
        ));
    } else if seconds > now_unix_seconds + CLOCK_SKEW_SECONDS {
        found.push(Finding::new(
            "\"timestamp\" lies in the future, and Lago bills it then only if its subscription has not ended before",
            "Take the time at which the usage happened",
        ));
    }
}

/// One property of an event. Whether Lago adds it up is the metric's affair, which we do not know.
fn property(name: &str, value: &Value, found: &mut Vec<Finding>) {
    let (text, is_number) = match value {
        Value::Number(number) => (number.to_string(), Shown::AsNumber),
        Value::String(text) => (text.clone(), Shown::AsText),
        _ => return,
    };
    let as_text = format!("Write it as text: \"{name}\": \"{{{{ row.column }}}}\"");
    match is_number {
        Shown::AsNumber if text.contains(['.', 'e', 'E']) => found.push(Finding::new(
            format!("property \"{name}\" is a JSON number with a fraction or an exponent, which passes through a double in Lago and may lose digits"),
            as_text,
        )),
        Shown::AsNumber => {
            let exact = text
                .parse::<i128>()
                .is_ok_and(|n| (-LARGEST_EXACT_INTEGER..=LARGEST_EXACT_INTEGER).contains(&n));
            if !exact {
                found.push(Finding::new(
                    format!("property \"{name}\" is a JSON number over 2^53, which passes through a double in Lago's ClickHouse store and loses digits"),
                    as_text,
                ));
            }
        }
        Shown::AsText if is_uncounted_number(&text) => found.push(Finding::new(
            format!("property \"{name}\" looks like a number, but in this spelling Lago does not count it"),
            "Write digits, with a minus and a point between digits at most: numeric columns are written so",
        )),
        Shown::AsText => {}
    }
    if is_plain_decimal(text.as_bytes()) && integer_digits(&text) > MOST_INTEGER_DIGITS {
        found.push(Finding::new(
            format!("property \"{name}\" has more than {MOST_INTEGER_DIGITS} digits before the point: if a metric adds it up, Lago's ClickHouse store takes it for 0"),
            "Send it in a larger unit",
        ));
    }
}

enum Shown {
    AsNumber,
    AsText,
}

/// Whether text is a number to a person or to PostgreSQL, but not to Lago's aggregations.
fn is_uncounted_number(text: &str) -> bool {
    if is_plain_decimal(text.as_bytes()) {
        return false;
    }
    let trimmed = text.trim();
    // As PostgreSQL writes them; other words a parser may know are names.
    matches!(trimmed, "NaN" | "Infinity" | "-Infinity")
        || (trimmed.contains(|c: char| c.is_ascii_digit())
            && (trimmed.parse::<f64>().is_ok() || has_thousands_separators(trimmed)))
}

fn has_thousands_separators(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let whole = digits.split('.').next().unwrap_or_default();
    let mut groups = whole.split(',');
    let all_digits = |group: &str| group.bytes().all(|byte| byte.is_ascii_digit());
    groups.next().is_some_and(|first| (1..=3).contains(&first.len()) && all_digits(first))
        && whole.contains(',')
        && groups.all(|group| group.len() == 3 && all_digits(group))
}

fn has_null_element(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(|item| item.is_null() || has_null_element(item)),
        Value::Object(members) => members.values().any(has_null_element),
        _ => false,
    }
}

/// Lago does not trim ids of events and in paths, though it trims the ids of new subscriptions.
fn padded(key: &str, value: &Value) -> Option<Finding> {
    let text = value.as_str()?;
    (text.trim() != text).then(|| {
        Finding::new(
            format!("\"{key}\" begins or ends with white space, and Lago finds nothing of that name"),
            "Remove the white space",
        )
    })
}

/// A plan's charges are matched by id.
fn charges(members: &Map<String, Value>, found: &mut Vec<Finding>) {
    for key in ["charges", "fixed_charges"] {
        let Some(Value::Array(charges)) = members.get(key) else { continue };
        if charges.iter().any(|charge| charge.get("id").is_none_or(Value::is_null)) {
            found.push(Finding::new(
                format!("\"{key}\" has entries without \"id\": Lago deletes the charges there are and creates new ones"),
                "Give each entry the id Lago gave it",
            ));
        }
    }
}

/// U+0000, which PostgreSQL cannot store.
fn nul(path: &str, value: &Value, found: &mut Vec<Finding>) {
    let within = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::String(text) if text.contains('\0') => found.push(Finding::new(
            format!("\"{path}\" holds the character U+0000, and Lago answers 500 to it every time"),
            "Remove it from the data",
        )),
        Value::Array(items) => {
            for item in items {
                nul(path, item, found);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                nul(&within(name), member, found);
            }
        }
        _ => {}
    }
}

fn is_whole(text: &str) -> bool {
    is_plain_decimal(text.as_bytes()) && !text.contains('.')
}

/// How many digits a plain decimal number has before its point.
fn integer_digits(text: &str) -> usize {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.split('.').next().unwrap_or_default().trim_start_matches('0').len()
}

#[cfg(test)]
mod tests {
    use crate::payload::samples::{KEPT, NOW, call, good, json, with};
    use crate::payload::{refusal, warnings};
    use serde_json::Value;

    fn of(name: &str, payload: &Value) -> Vec<String> {
        warnings(&call(name), payload, NOW)
    }

    #[test]
    fn a_good_payload_has_no_warning() {
        for name in KEPT {
            assert_eq!(of(name, &good(name)), Vec::<String>::new(), "{name}");
        }
    }

    #[test]
    fn each_way_of_not_being_billed_as_meant_is_warned_of() {
        let long = format!("\"{}\"", "x".repeat(2601));
        let cases = [
            ("event", "external_subscription_id", "null", "never bill"),
            ("event", "external_subscription_id", r#""s ""#, "white space"),
            ("event", "timestamp", "null", "billed twice"),
            ("event", "timestamp", "1710421740123", "milliseconds"),
            ("event", "timestamp", "true", "true or false"),
            ("event", "timestamp", r#""2024-03-14T13:09:00Z""#, "ISO 8601"),
            ("event", "timestamp", r#""1.71e9""#, "some versions"),
            ("event", "timestamp", "1710425800", "future"),
            ("event", "timestamp", "900000000", "year 2000"),
            ("event", "timestamp", "-1", "year 2000"),
            ("event", "transaction_id", r#""""#, "empty"),
            ("event", "transaction_id", long.as_str(), "2600 bytes"),
            ("event", "transactionId", r#""x""#, "reads no key"),
            ("event", "properties", r#""x""#, "not an object"),
            ("event", "properties", r#"{"a": "1e-07"}"#, "does not count"),
            ("event", "properties", r#"{"a": ".5"}"#, "does not count"),
            ("event", "properties", r#"{"a": "5."}"#, "does not count"),
            ("event", "properties", r#"{"a": "+3"}"#, "does not count"),
            ("event", "properties", r#"{"a": " 5"}"#, "does not count"),
            ("event", "properties", r#"{"a": "1,000"}"#, "does not count"),
            ("event", "properties", r#"{"a": "-1,234,567.8"}"#, "does not count"),
            ("event", "properties", r#"{"a": "NaN"}"#, "does not count"),
            ("event", "properties", r#"{"a": 0.1234567890123456789}"#, "double"),
            ("event", "properties", r#"{"a": 1e400}"#, "double"),
            ("event", "properties", r#"{"a": 9007199254740993}"#, "2^53"),
            ("event", "properties", r#"{"a": "1234567890123"}"#, "12 digits"),
            ("event", "properties", r#"{"a": 1234567890123}"#, "12 digits"),
            ("event", "properties", r#"{"a": [1, null]}"#, "null"),
            ("event", "properties", r#"{"a": {"b": [[null]]}}"#, "null"),
            ("event", "properties", r#"{"a": "x\u0000"}"#, "U+0000"),
            ("event", "code", r#""x\u0000""#, "U+0000"),
            ("event", "precise_total_amount_cents", "12.5", "JSON number"),
            ("event", "precise_total_amount_cents", r#""12,5""#, "for 0"),
            ("event", "precise_total_amount_cents", r#""10000000000000000000000000""#, "25 digits"),
            ("event", "precise_total_amount_cents", "true", "not a decimal"),
            ("wallet_transaction", "paid_credits", "10", "not text"),
            ("payment", "reference", r#""12345678901234567890123456789012345678901""#, "40 characters"),
            ("payment", "amount_cents", "10.5", "whole number"),
            ("payment", "paid_at", "1710421740", "ISO 8601"),
            ("plan", "amount_currency", r#""eur""#, "currency"),
            ("plan", "interval", r#""month""#, "monthly"),
            ("plan", "charges", "{}", "not an array"),
            ("plan", "description", "{}", "drops it"),
            ("plan", "intervall", r#""monthly""#, "\"interval\""),
            ("plan_update", "charges", r#"[{"id": "1"}, {"code": "x"}]"#, "without \"id\""),
            ("customer_delete", "external_id", r#""..""#, "path"),
            ("customer_delete", "external_id", r#""x ""#, "white space"),
        ];
        for (name, key, value, what) in cases {
            let found = of(name, &with(name, key, Some(value)));
            assert!(found.iter().any(|w| w.contains(what)), "{name}, {key}, {value}: {found:?}");
            assert!(found.iter().all(|w| w.ends_with('.')), "{found:?}");
        }
    }

    #[test]
    fn what_is_well_is_not_warned_of() {
        let cases = [
            (
                "event",
                "properties",
                r#"{"a": "1,2", "b": "nan", "c": "eu-1", "d": "", "e": "-0.5", "f": 12}"#,
            ),
            (
                "event",
                "properties",
                r#"{"a": "123456789012.5", "b": {"c": [1, 2]}, "d": null, "e": "1.2.3.4"}"#,
            ),
            ("event", "properties", "null"),
            ("event", "timestamp", r#""1710421740.123""#),
            ("event", "timestamp", "1710421900"),
            ("event", "precise_total_amount_cents", r#""1234.56""#),
            ("event", "precise_total_amount_cents", "null"),
            ("customer", "email", "null"),
            ("customer", "metadata", "[]"),
            ("plan_update", "charges", r#"[{"id": "1"}]"#),
            ("subscription_update", "ending_at", "null"),
        ];
        for (name, key, value) in cases {
            assert_eq!(
                of(name, &with(name, key, Some(value))),
                Vec::<String>::new(),
                "{name}, {key}, {value}"
            );
        }
    }

    #[test]
    fn what_is_refused_is_warned_of() {
        for text in ["{}", "[]", r#"{"event": {}}"#, r#"{"code": ""}"#] {
            let payload = json(text);
            let reason = refusal(&call("event"), &payload).expect(text);
            assert!(of("event", &payload).iter().any(|warning| warning.starts_with(&reason)), "{text}");
        }
    }
}
