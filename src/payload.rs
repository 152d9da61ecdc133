//! Payload: what is done with a rendered payload that its template alone does not vouch for: one a
//! function made, one from a template with conditions, one somebody edited by hand.
//!
//! Between template and outbox, and in previews. Promises the outbox that Lago is not sent what it would
//! certainly refuse or never bill, and the sender a path that names exactly one object.
#![forbid(unsafe_code)]

mod cautions;
mod correction;
mod faults;
mod request;

pub use correction::{Body, Payloads, Refusal, correction};
pub use request::{percent_encode_segment, request};

use crate::call::Call;
use serde_json::Value;

/// Something about a payload that somebody should know.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    /// Names keys, never values: it may become the reason of a dead letter.
    what: String,
    /// What to do about it: a sentence without its full stop.
    advice: String,
}

impl Finding {
    fn new(what: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { what: what.into(), advice: advice.into() }
    }
}

/// Why Lago would certainly refuse a payload, or take it and never bill it: the reason of a dead letter.
pub fn refusal(call: &Call, payload: &Value) -> Option<String> {
    faults::faults(call, payload).into_iter().next().map(|finding| finding.what)
}

/// Everything about a payload that may keep Lago from doing what its sender expects.
pub fn warnings(call: &Call, payload: &Value, now_unix_seconds: f64) -> Vec<String> {
    faults::faults(call, payload)
        .into_iter()
        .chain(cautions::cautions(call, payload, now_unix_seconds))
        .map(|finding| format!("{}. {}.", finding.what, finding.advice))
        .collect()
}

/// What a value says of a time in Unix seconds, read as Lago reads it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Seconds {
    /// Written as digits, with a minus or a point at most.
    Plain(f64),
    /// In a spelling that Lago happens to understand.
    Odd(f64),
    None,
}

impl Seconds {
    fn of(value: &Value) -> Seconds {
        let text = match value {
            Value::Number(number) => number.to_string(),
            Value::String(text) => text.clone(),
            _ => return Seconds::None,
        };
        let plain = crate::json::is_plain_decimal(text.as_bytes());
        match text.trim().replace('_', "").parse::<f64>() {
            Ok(seconds) if !seconds.is_finite() => Seconds::None,
            Ok(seconds) if plain => Seconds::Plain(seconds),
            Ok(seconds) => Seconds::Odd(seconds),
            Err(_) => Seconds::None,
        }
    }
}

#[cfg(test)]
mod samples {
    //! Payloads without fault, and how to spoil them.

    use crate::call::Call;
    use crate::endpoint::find;
    use serde_json::Value;

    pub fn call(name: &str) -> Call {
        Call::from(find(name).expect("in the catalogue"))
    }

    pub fn json(text: &str) -> Value {
        serde_json::from_str(text).expect(text)
    }

    /// The time the samples were made.
    pub const NOW: f64 = 1_710_421_800.0;

    pub fn good(name: &str) -> Value {
        json(match name {
            "event" => {
                r#"{"transaction_id": "t", "external_subscription_id": "s", "code": "c", "timestamp": 1710421740.123456,
                    "properties": {"bytes": "10.5", "region": "eu", "n": 3, "flag": true}}"#
            }
            "wallet_transaction" => r#"{"wallet_id": "w", "paid_credits": "10.5"}"#,
            "payment" => r#"{"invoice_id": "i", "amount_cents": 100, "reference": "r"}"#,
            "invoice" => r#"{"external_customer_id": "c", "fees": [{"add_on_code": "a"}]}"#,
            "plan" => {
                r#"{"name": "n", "code": "c", "interval": "monthly", "amount_cents": 0,
                    "amount_currency": "EUR", "pay_in_advance": false}"#
            }
            "plan_update" => r#"{"code": "c", "name": "n"}"#,
            "coupon" => r#"{"name": "n", "code": "c", "amount_cents": 100, "coupon_type": "fixed_amount"}"#,
            "customer" | "customer_delete" => r#"{"external_id": "user@example.com"}"#,
            "subscription_update" => r#"{"external_id": "s", "ending_at": "2026-01-31T00:00:00Z"}"#,
            "subscription_terminate" => r#"{"external_id": "s", "on_termination_invoice": "skip"}"#,
            _ => "{}",
        })
    }

    pub const KEPT: &[&str] = &[
        "event",
        "wallet_transaction",
        "payment",
        "invoice",
        "plan",
        "plan_update",
        "coupon",
        "customer",
        "customer_delete",
        "subscription_update",
        "subscription_terminate",
    ];

    /// The good payload with one key changed, or without it.
    pub fn with(name: &str, key: &str, value: Option<&str>) -> Value {
        let mut payload = good(name);
        let members = payload.as_object_mut().expect("an object");
        match value {
            Some(text) => members.insert(key.into(), json(text)),
            None => members.shift_remove(key),
        };
        payload
    }
}
