//! Faults: what Lago would certainly refuse, or take with 200 and never bill.
//!
//! Only what is certain: a fault makes a dead letter of a row. Doubts are [`super::cautions`].
#![forbid(unsafe_code)]

use super::request::segment;
use super::{Finding, Seconds};
use crate::call::{Call, Method, keys_of_path};
use crate::endpoint::{Endpoint, LATEST_PLAUSIBLE_SECONDS, Listing, Nature, meant, nature};
use serde_json::{Map, Value};

pub(super) fn faults(call: &Call, payload: &Value) -> Vec<Finding> {
    let Value::Object(members) = payload else {
        let anything_goes = call.endpoint.is_none() && call.required().is_empty();
        return if anything_goes {
            Vec::new()
        } else {
            vec![Finding::new("the payload is not a JSON object", "Give one object for each row")]
        };
    };
    if let Some(finding) = wrapped(call, members) {
        return vec![finding];
    }
    let mut found: Vec<Finding> =
        call.required().into_iter().filter_map(|key| lacking(call, key, members.get(key))).collect();
    found
        .extend(keys_of_path(&call.path).into_iter().filter_map(|key| unfit_for_path(key, members.get(key))));
    let Some(endpoint) = call.endpoint else { return found };
    let known = call.known();
    for (key, value) in members {
        if known.contains(&key.as_str()) {
            found.extend(misread(call, endpoint, key, value));
        } else {
            found.extend(unread(call, endpoint, key));
        }
    }
    if !endpoint.any_of.is_empty() && endpoint.any_of.iter().all(|key| is_absent(members.get(*key))) {
        let keys = endpoint.any_of.join(", ");
        found.push(Finding::new(format!("the payload has none of {keys}"), "Give one of them"));
    }
    found
}

/// A payload inside the key that Lago's examples wrap it in.
fn wrapped(call: &Call, members: &Map<String, Value>) -> Option<Finding> {
    let root = call.root.as_deref()?;
    let inside = members.get(root)?.is_object() && call.endpoint.is_some() && !call.known().contains(&root);
    inside.then(|| {
        Finding::new(
            format!("\"{root}\" is the key that wraps what is sent"),
            "Leave the outer key out: lago_push adds it",
        )
    })
}

fn is_absent(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(_) => false,
    }
}

/// A required key without a value to speak of.
fn lacking(call: &Call, key: &str, value: Option<&Value>) -> Option<Finding> {
    let structured = call.endpoint.is_some_and(|endpoint| nature(endpoint, key).is_structured());
    let how = match value {
        None => "missing",
        Some(Value::Null) => "null",
        Some(Value::String(text)) if text.is_empty() => "empty",
        Some(Value::Array(items)) if structured && items.is_empty() => "empty",
        Some(Value::Array(_) | Value::Object(_)) if !structured => "neither text nor number",
        Some(_) => return None,
    };
    let (why, advice) = match (call.endpoint.map(|endpoint| endpoint.name), key) {
        (Some("event"), "external_subscription_id") => (
            "Lago would answer 200 and never bill it",
            "Write \"external_subscription_id\": \"{{ row.subscription }}\", from a column that is never null",
        ),
        (Some("event"), "timestamp") => (
            "Lago would take the time of receipt, and a retry would be billed twice on its ClickHouse store",
            "Write \"timestamp\": {{ row.created_at }}, or leave it out: lago_push gives the time of the change",
        ),
        (Some("event"), "transaction_id") => (
            "it is what keeps a retry from being billed twice",
            "Put the primary key into it, or leave it out: lago_push makes one of the primary key",
        ),
        _ if keys_of_path(&call.path).contains(&key) => {
            ("the call's path is made of it", "Take it from a column that is never null or empty")
        }
        _ => ("Lago would refuse the call", "Take it from a column that is never null or empty"),
    };
    Some(Finding::new(format!("\"{key}\" is {how}: {why}"), advice))
}

/// A value that cannot stand in a path; an empty one is [`lacking`].
fn unfit_for_path(key: &str, value: Option<&Value>) -> Option<Finding> {
    match value {
        None | Some(Value::Null | Value::Array(_) | Value::Object(_)) => None,
        Some(Value::String(text)) if text.is_empty() => None,
        Some(value) => segment(key, value)
            .err()
            .map(|what| Finding::new(what, "Give the id of one object, as text or a whole number")),
    }
}

/// A key that has no effect.
fn unread(call: &Call, endpoint: &Endpoint, key: &str) -> Option<Finding> {
    let wanted = meant(endpoint, key);
    if wanted.is_none() && endpoint.listing == Listing::Open {
        return None;
    }
    let what = match call.method {
        Method::Delete => format!("\"{key}\" has no place in a call without a body"),
        _ => format!("Lago reads no key \"{key}\" and would drop it without a word"),
    };
    let advice = match wanted {
        Some(wanted) => format!("Write \"{wanted}\""),
        None if endpoint.name == "event" && key == "external_customer_id" => {
            "Name the subscription, not the customer: \"external_subscription_id\"".into()
        }
        None if endpoint.name == "event" => "Values of your own go into \"properties\"".into(),
        None => format!("Leave it out; the keys are {}", call.known().join(", ")),
    };
    Some(Finding::new(what, advice))
}

/// A value Lago cannot read as what the key asks for.
fn misread(call: &Call, endpoint: &Endpoint, key: &str, value: &Value) -> Option<Finding> {
    match (nature(endpoint, key), value) {
        (_, Value::Null) => None,
        (Nature::UnixSeconds, value) => unlikely_time(key, value),
        (Nature::Object, value) if !value.is_object() => Some(Finding::new(
            format!("\"{key}\" is not an object, and Lago would drop it without a word"),
            format!("Write \"{key}\": {{\"name\": \"{{{{ row.column }}}}\"}}"),
        )),
        (Nature::List, value) if !value.is_array() && call.required().contains(&key) => {
            if is_absent(Some(value)) {
                return None;
            }
            Some(Finding::new(format!("\"{key}\" is not an array"), "Give an array of objects"))
        }
        (Nature::DecimalText, Value::String(text)) => {
            let is_number = text.trim().replace('_', "").parse::<f64>().is_ok_and(f64::is_finite);
            (!is_number && !text.is_empty()).then(|| {
                Finding::new(
                    format!("\"{key}\" is not a decimal number: Lago would refuse it as invalid_amount"),
                    "Write digits, and a point at most",
                )
            })
        }
        (Nature::DecimalText, _) => Some(Finding::new(
            format!("\"{key}\" is not text: Lago would refuse it as invalid_amount"),
            format!("Put the number in double quotes: \"{key}\": \"{{{{ row.amount }}}}\""),
        )),
        (Nature::Short(most), Value::String(text)) if text.chars().count() > most => Some(Finding::new(
            format!("\"{key}\" is longer than the {most} characters Lago takes"),
            "Shorten it",
        )),
        _ => None,
    }
}

/// A timestamp Lago refuses, or takes for a day that never comes.
fn unlikely_time(key: &str, value: &Value) -> Option<Finding> {
    let not_seconds = |looks: &str| {
        Some(Finding::new(
            format!("\"{key}\" is not a time in Unix seconds: it looks like {looks}"),
            "Give seconds, with a fraction if need be: a timestamptz column in {{ row.created_at }} becomes them",
        ))
    };
    let seconds = match (Seconds::of(value), value) {
        (Seconds::Plain(seconds) | Seconds::Odd(seconds), _) => seconds.abs(),
        // Told by `lacking`.
        (Seconds::None, Value::String(text)) if text.is_empty() => return None,
        (Seconds::None, Value::Array(_) | Value::Object(_)) => return None,
        (Seconds::None, Value::Bool(_)) => return not_seconds("true or false"),
        (Seconds::None, Value::String(text)) if crate::endpoint::begins_with_date(text) => {
            return not_seconds("ISO 8601");
        }
        (Seconds::None, _) => return not_seconds("something else"),
    };
    match seconds {
        s if s < LATEST_PLAUSIBLE_SECONDS => None,
        s if s < LATEST_PLAUSIBLE_SECONDS * 1e3 => {
            not_seconds("milliseconds, and Lago would answer 200 and never bill it")
        }
        s if s < LATEST_PLAUSIBLE_SECONDS * 1e6 => not_seconds("microseconds"),
        _ => not_seconds("nanoseconds"),
    }
}

#[cfg(test)]
mod tests {
    use crate::call::{Call, MANUAL};
    use crate::payload::refusal;
    use crate::payload::samples::{KEPT, call, good, json, with};

    #[test]
    fn a_good_payload_is_not_refused() {
        for name in KEPT {
            assert_eq!(refusal(&call(name), &good(name)), None, "{name}");
        }
    }

    #[test]
    fn what_lago_would_refuse_or_never_bill_is_refused() {
        let cases = [
            ("event", "external_subscription_id", None, "never bill"),
            ("event", "external_subscription_id", Some("null"), "null"),
            ("event", "external_subscription_id", Some(r#""""#), "empty"),
            ("event", "transaction_id", None, "missing"),
            ("event", "transaction_id", Some("[]"), "neither text nor number"),
            ("event", "code", Some("{}"), "neither text nor number"),
            ("event", "timestamp", None, "time of receipt"),
            ("event", "timestamp", Some("null"), "time of receipt"),
            ("event", "timestamp", Some("true"), "true or false"),
            ("event", "timestamp", Some("false"), "true or false"),
            ("event", "timestamp", Some("[]"), "neither"),
            ("event", "timestamp", Some(r#""2026-01-01T00:00:00Z""#), "ISO 8601"),
            ("event", "timestamp", Some(r#""NaN""#), "Unix seconds"),
            ("event", "timestamp", Some(r#""yesterday""#), "Unix seconds"),
            ("event", "timestamp", Some("1710421740123"), "milliseconds"),
            ("event", "timestamp", Some(r#""1710421740123.5""#), "milliseconds"),
            ("event", "timestamp", Some("1710421740123456"), "microseconds"),
            ("event", "timestamp", Some("1710421740123456789"), "nanoseconds"),
            ("event", "properties", Some(r#""x""#), "not an object"),
            ("event", "properties", Some("[]"), "not an object"),
            ("event", "externalSubscriptionId", Some(r#""x""#), "reads no key"),
            ("event", "external_customer_id", Some(r#""x""#), "reads no key"),
            ("event", "event", Some("{}"), "wraps"),
            ("wallet_transaction", "paid_credits", Some("10"), "not text"),
            ("wallet_transaction", "paid_credits", Some("10.5"), "not text"),
            ("wallet_transaction", "paid_credits", Some(r#""ten""#), "not a decimal"),
            ("wallet_transaction", "paid_credits", None, "none of"),
            ("wallet_transaction", "paid_credits", Some("null"), "none of"),
            ("payment", "reference", Some(r#""12345678901234567890123456789012345678901""#), "40 characters"),
            ("payment", "amount_cents", Some("null"), "refuse"),
            ("invoice", "fees", Some("[]"), "empty"),
            ("invoice", "fees", Some(r#""x""#), "not an array"),
            ("invoice", "fees", Some("{}"), "not an array"),
            ("coupon", "amount_cents", None, "none of"),
            ("plan", "payInAdvance", Some("true"), "reads no key"),
            ("customer_delete", "external_id", None, "path"),
            ("customer_delete", "external_id", Some(r#""""#), "path"),
            ("customer_delete", "external_id", Some(r#""..""#), "path"),
            ("customer_delete", "external_id", Some("true"), "path"),
            ("customer_delete", "name", Some(r#""x""#), "without a body"),
            ("subscription_update", "external_id", Some("null"), "path"),
        ];
        for (name, key, value, what) in cases {
            let reason = refusal(&call(name), &with(name, key, value));
            assert!(
                reason.as_deref().is_some_and(|reason| reason.contains(what)),
                "{name}, {key}, {value:?}: {reason:?}"
            );
        }
    }

    #[test]
    fn what_lago_would_take_is_not_refused() {
        let cases = [
            ("event", "timestamp", r#""1e9""#),
            ("event", "timestamp", r#"" 12 ""#),
            ("event", "timestamp", r#""1_000""#),
            ("event", "timestamp", "-5"),
            ("event", "transaction_id", "12"),
            ("event", "properties", "null"),
            ("event", "properties", "{}"),
            ("event", "precise_total_amount_cents", "12.5"),
            ("customer", "external_id", "12"),
            ("customer", "a_key_of_a_later_lago", "12"),
            ("plan", "amount_cents", "0"),
            ("plan", "pay_in_advance", "false"),
            ("wallet_transaction", "granted_credits", "null"),
            ("payment", "reference", r#""1234567890123456789012345678901234567890""#),
            ("customer_delete", "external_id", "12"),
        ];
        for (name, key, value) in cases {
            assert_eq!(refusal(&call(name), &with(name, key, Some(value))), None, "{name}, {key}, {value}");
        }
    }

    #[test]
    fn only_an_object_can_be_sent_unless_the_call_is_the_users_own() {
        for text in ["[]", "1", "null", r#""x""#] {
            assert!(refusal(&call("event"), &json(text)).is_some(), "{text}");
            let manual = |path| Call::of(MANUAL, None, Some(path), None).expect("a call");
            assert_eq!(refusal(&manual("/x"), &json(text)), None, "{text}");
            assert!(refusal(&manual("/x/{id}"), &json(text)).is_some(), "{text}");
        }
    }

    #[test]
    fn a_path_of_ones_own_needs_no_key_for_the_endpoints() {
        let own = Call::of("customer_delete", None, Some("/customers/{{ row.id }}"), None).expect("a call");
        assert_eq!(refusal(&own, &json("{}")), None);
    }

    #[test]
    fn a_reason_names_no_value() {
        for (name, key, value) in [
            ("event", "timestamp", "\"Geheim-12\""),
            ("wallet_transaction", "paid_credits", "\"Geheim-12\""),
            ("customer_delete", "external_id", "[\"Geheim-12\"]"),
            ("event", "code", "[\"Geheim-12\"]"),
        ] {
            let reason = refusal(&call(name), &with(name, key, Some(value))).expect(value);
            assert!(reason.contains(key) && !reason.contains("Geheim"), "{reason}");
        }
    }
}
