//! The catalogue of Lago's write calls, and what each demands of a template.
//!
//! Serves the template step: [`check`] refuses, when a sync is defined, what Lago would refuse
//! later or, worse, accept with 200 and never bill. Facts are Lago's server behaviour, not its
//! documentation: the server drops unknown keys without a word, bills nothing that names no
//! subscription, and reads every timestamp as seconds.
#![forbid(unsafe_code)]

use crate::template::{Key, Mistake, MistakeKind, Piece, Position, Shape, Subject, Template};

/// One write call of Lago.
#[derive(Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub name: &'static str,
    pub method: &'static str,
    /// Relative to the destination's base URL. `{key}` is filled with the payload's value of that key,
    /// which then is no part of the body.
    pub path: &'static str,
    /// The key that wraps one object; none for a call without a body.
    pub root: Option<&'static str>,
    pub required: &'static [&'static str],
    /// Further keys the server reads; it drops all others.
    pub optional: &'static [&'static str],
    pub batch: Batch,
    pub repeat: Repeat,
    pub example: &'static str,
}

/// Whether several objects fit into one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batch {
    /// One object per request.
    One,
    UpTo {
        most: usize,
        path: &'static str,
        root: &'static str,
    },
}

/// Whether a second identical call is harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    Safe,
    /// It would do the same thing twice: after a call of unknown outcome somebody has to look first.
    Never,
}

pub const CATALOGUE: &[Endpoint] = &[Endpoint {
    name: "event",
    method: "POST",
    path: "/events",
    root: Some("event"),
    required: &["transaction_id", "external_subscription_id", "code", "timestamp"],
    optional: &["properties", "precise_total_amount_cents"],
    batch: Batch::UpTo { most: 100, path: "/events/batch", root: "events" },
    repeat: Repeat::Safe,
    example: r#"{
  "transaction_id": "call-{{ row.id }}",
  "external_subscription_id": "{{ row.subscription }}",
  "code": "api_calls",
  "timestamp": {{ row.created_at }},
  "properties": {"bytes": "{{ row.bytes }}"}
}"#,
}];

pub fn find(name: &str) -> Option<&'static Endpoint> {
    CATALOGUE.iter().find(|endpoint| endpoint.name == name)
}

/// What a hole's value has to satisfy beyond being valid JSON, because of the key it stands under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    None,
    /// The field must not be empty; `Whole` when the hole is all there is to it.
    NotNull,
    NotEmpty,
    /// Unix seconds.
    Timestamp,
}

/// The demand on a hole under the outermost key `key`, whose value has the shape `shape`.
pub fn demand(endpoint: &Endpoint, key: &str, shape: &Shape) -> Demand {
    match (key, shape) {
        ("timestamp", Shape::HoleText | Shape::HoleValue) => Demand::Timestamp,
        (key, Shape::HoleText | Shape::HoleValue) if endpoint.required.contains(&key) => Demand::NotEmpty,
        (key, _) if endpoint.required.contains(&key) => Demand::NotNull,
        _ => Demand::None,
    }
}

/// Seconds later than this (the year 5138) are milliseconds by mistake: Lago stores them as a date
/// tens of thousands of years ahead, answers 200, and never bills them.
pub const LATEST_PLAUSIBLE_SECONDS: f64 = 1e11;

/// Checks a template against what the endpoint reads.
pub fn check(endpoint: &Endpoint, template: &Template) -> Result<(), Mistake> {
    let start = Position { line: 1, column: 1 };
    let refuse =
        |at, what: String, hint: String| Err(Mistake { kind: MistakeKind::Malformed, what, at, hint });
    if template.keys.is_empty() {
        return refuse(
            start,
            format!(
                "a template for {} is a JSON object with at least {}",
                endpoint.name,
                list(endpoint.required)
            ),
            format!("for example: {}", endpoint.example),
        );
    }
    for key in &template.keys {
        let name = key.name.as_str();
        if !endpoint.required.contains(&name) && !endpoint.optional.contains(&name) {
            return refuse(
                key.at,
                format!(
                    "Lago reads no key \"{name}\" in {} and drops it without a word",
                    article(endpoint.root.unwrap_or(endpoint.name))
                ),
                unknown_key_hint(endpoint, name),
            );
        }
        match (name, &key.value) {
            ("timestamp", Shape::Text(text)) | ("timestamp", Shape::Bare(text)) => {
                let seconds = if crate::json::is_plain_decimal(text.as_bytes()) {
                    text.parse::<f64>().ok()
                } else {
                    None
                };
                if !seconds.is_some_and(|seconds| seconds < LATEST_PLAUSIBLE_SECONDS) {
                    return refuse(key.at, "\"timestamp\" is not a time in Unix seconds".into(), "write {{ row.created_at }} (a timestamptz column becomes Unix seconds), or seconds, not milliseconds and not ISO 8601".into());
                }
            }
            ("properties", Shape::Object | Shape::HoleValue | Shape::Null) => {}
            ("properties", _) => {
                return refuse(
                    key.at,
                    "\"properties\" is not an object, and Lago drops it without a word".into(),
                    "write \"properties\": {\"name\": \"{{ row.column }}\"}".into(),
                );
            }
            (name, Shape::Object | Shape::Array | Shape::Null) if endpoint.required.contains(&name) => {
                return refuse(
                    key.at,
                    format!("\"{name}\" needs text"),
                    format!("write \"{name}\": \"{{{{ row.column }}}}\""),
                );
            }
            (name, Shape::Text(text)) if text.is_empty() && endpoint.required.contains(&name) => {
                return refuse(
                    key.at,
                    format!("\"{name}\" is empty"),
                    format!("write \"{name}\": \"{{{{ row.column }}}}\""),
                );
            }
            ("transaction_id", _) if is_constant(template, key) => {
                return refuse(key.at, "\"transaction_id\" is the same for every row, so Lago would bill one row and take all others for repeats".into(), "put the primary key into it: \"call-{{ row.id }}\"".into());
            }
            _ => {}
        }
    }
    for &required in endpoint.required {
        if !template.keys.iter().any(|key| key.name == required) {
            return refuse(start, format!("the template has no \"{required}\""), missing_key_hint(required));
        }
    }
    Ok(())
}

/// Whether a value is written out, or nothing but the operation: the same for every row.
fn is_constant(template: &Template, key: &Key) -> bool {
    let only_the_operation = || {
        template.pieces.iter().any(|piece| match piece {
            Piece::Hole(hole) => {
                hole.subject == Subject::Operation
                    && hole.key.is_some_and(|index| template.keys[index].name == key.name)
            }
            Piece::Literal(_) => false,
        })
    };
    match key.value {
        Shape::Text(_) | Shape::Bare(_) => true,
        Shape::HoleText | Shape::HoleValue => only_the_operation(),
        _ => false,
    }
}

fn missing_key_hint(key: &str) -> String {
    match key {
        "transaction_id" => "it is what keeps a retry from billing twice: \"transaction_id\": \"call-{{ row.id }}\"",
        "timestamp" => "without it Lago takes the time of receipt, and a retry may bill twice: \"timestamp\": {{ row.created_at }}",
        "external_subscription_id" => "Lago answers 200 to an event without a subscription and never bills it: \"external_subscription_id\": \"{{ row.subscription }}\"",
        _ => "it is the code of the billable metric: \"code\": \"api_calls\"",
    }
    .into()
}

fn unknown_key_hint(endpoint: &Endpoint, name: &str) -> String {
    let known = || endpoint.required.iter().chain(endpoint.optional);
    let folded =
        |key: &str| key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    if name == "external_customer_id" || name == "externalCustomerId" {
        return "name the subscription, not the customer: \"external_subscription_id\"".into();
    }
    match known().find(|key| folded(key) == folded(name)) {
        Some(key) => format!("write \"{key}\""),
        None => format!(
            "the keys are {}; values of your own go into \"properties\"",
            list(&known().copied().collect::<Vec<_>>())
        ),
    }
}

fn list(names: &[&str]) -> String {
    names.join(", ")
}

fn article(noun: &str) -> String {
    format!("{} {noun}", if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::parse;

    fn event(text: &str) -> Result<(), Mistake> {
        check(find("event").expect("in the catalogue"), &parse(text).expect("valid template"))
    }

    #[test]
    fn every_example_passes_its_own_check() {
        for endpoint in CATALOGUE {
            assert_eq!(
                check(endpoint, &parse(endpoint.example).expect("valid")),
                Ok(()),
                "{}",
                endpoint.name
            );
        }
    }

    #[test]
    fn what_lago_would_silently_not_bill_is_refused() {
        let with = |change: &str| {
            let fields = [
                ("transaction_id", r#""transaction_id": "t-{{ row.id }}""#),
                ("external_subscription_id", r#""external_subscription_id": "s""#),
                ("code", r#""code": "c""#),
                ("timestamp", r#""timestamp": {{ row.at }}"#),
            ];
            let name = change.trim_start_matches(['-', '"']).split('"').next().unwrap_or_default();
            let mut members: Vec<&str> =
                fields.iter().filter(|(field, _)| *field != name).map(|(_, member)| *member).collect();
            if !change.starts_with('-') {
                members.push(change);
            }
            format!("{{{}}}", members.join(","))
        };
        let cases = [
            ("-transaction_id", "no \"transaction_id\""),
            ("-timestamp", "no \"timestamp\""),
            ("-external_subscription_id", "no \"external_subscription_id\""),
            ("-code", "no \"code\""),
            (r#""externalSubscriptionId": "x""#, "reads no key"),
            (r#""external_customer_id": "x""#, "reads no key"),
            (r#""amount": 5"#, "reads no key"),
            (r#""timestamp": "2026-01-01T00:00:00Z""#, "Unix seconds"),
            (r#""timestamp": 1710421740123"#, "Unix seconds"),
            (r#""timestamp": true"#, "Unix seconds"),
            (r#""properties": "x""#, "not an object"),
            (r#""code": """#, "empty"),
            (r#""code": null"#, "needs text"),
            (r#""transaction_id": "same""#, "same for every row"),
            (r#""transaction_id": "{{ op }}""#, "same for every row"),
        ];
        for (change, what) in cases {
            let mistake = event(&with(change)).expect_err(change);
            assert!(mistake.what.contains(what), "{change}: {mistake:?}");
        }
        assert_eq!(event(&with(r#""properties": {{ row.meta }}"#)), Ok(()));
        assert!(
            event(&with(r#""externalSubscriptionId": "x""#))
                .expect_err("camelCase")
                .hint
                .contains("external_subscription_id")
        );
    }

    #[test]
    fn a_template_that_is_no_object_is_refused() {
        assert!(event("[1]").expect_err("an array").what.contains("JSON object"));
    }
}
